"""The text of a figure of ROC curves: its caption, its CSV, its numbers as a table."""

from collections.abc import Iterable, Sequence

from robustness_bench.benchmark.report.detectors.lines import OBLIVIOUS
from robustness_bench.benchmark.report.detectors.names import detector_label
from robustness_bench.benchmark.report.detectors.roc import FPRS, RATES
from robustness_bench.benchmark.report.figures.pairs import Panel
from robustness_bench.benchmark.report.figures.roc import WORST_AT, Curve, RocFigure, which
from robustness_bench.benchmark.report.rendering.csv import numbers
from robustness_bench.benchmark.report.rendering.csv import to_csv as csv_text
from robustness_bench.benchmark.report.rendering.table import Table, plain_table
from robustness_bench.benchmark.report.rendering.wording import span

COLUMNS = (
    *("figure", "dataset", "setting", "attack", "system", "detector", "kappa", "drawn"),
    *("seeds", "natural_images", "adversarial_images", "auroc", "auroc_std"),
    *(f"{name}{100 * fpr:g}" for fpr in RATES for name in ("curve_tpr_at_", "curve_tpr_std_at_")),
    *("fpr", "fpr_std", "tpr", "tpr_std", "curve", "remark"),
)
HEADS = ("κ", "AUROC", *(f"TPR at {100 * fpr:g} %" for fpr in RATES), "FPR in use", "TPR in use")


def caption(figure: RocFigure) -> str:
    """Return the caption: everything needed to read the curves."""
    drawn = [curve for curve in figure.curves if curve.drawn]
    images = drawn[0].natural_images
    where = chosen(figure.kappas)
    says = [
        f"Share of adversarial images of {figure.dataset} that fool the classifier and are flagged (TPR) "
        f"against that of {images} natural test images (FPR); {where}.",
        "Symbols: the thresholds in use, set on held-out natural images; "
        f"on the left edge: FPR of {100 * FPRS[0]:g} % or less. Dotted: chance.",
    ]
    if 1 / images > FPRS[0]:
        says.append("Shaded: less than one natural image.")
    return " ".join([*says, seeds_in_words([curve.seeds for curve in drawn]), *claim(figure.panels)])


def chosen(kappas: Sequence[float]) -> str:
    """Return which κ is drawn, in words."""
    if len(kappas) == 1:
        return which(kappas)
    of = f", of {', '.join(f'{kappa:g}' for kappa in kappas)}," if kappas else ""
    return f"each detector at the κ{of} at which it flags the fewest at {100 * WORST_AT:g} % FPR"


def claim(panels: Iterable[Panel]) -> list[str]:
    """Return what oblivious attacks alone do not show."""
    oblivious = all(panel.setting == OBLIVIOUS for panel in panels)
    return ["The attacks do not know of the detectors: no claim of security."] if oblivious else []


def seeds_in_words(counts: Sequence[int]) -> str:
    """Return how many trainings a mean is over, in words."""
    if max(counts) == 1:
        return "One training seed."
    return f"Means over {span(counts)} training seeds, of curves at equal FPR."


def to_csv(figure: RocFigure) -> str:
    """Return CSV text with a header and a line per panel, detector and κ; shares in [0, 1].

    For drawn curves, ``curve`` has FPR:TPR wherever TPR changes.
    """
    return csv_text(COLUMNS, [_row(figure, curve) for curve in figure.curves])


def _row(figure: RocFigure, curve: Curve) -> list[object]:
    reported = curve.tprs or (None,) * len(RATES)
    return [
        *("roc", figure.dataset, *curve.panel, curve.detector, f"{curve.kappa:g}"),
        "yes" if curve.drawn else "",
        *(curve.seeds, curve.natural_images, curve.adversarial_images),
        *(text for figure in (curve.auroc, *reported, curve.fpr, curve.tpr) for text in numbers(figure, 5)),
        _points(curve) if curve.drawn else "",
        curve.remark,
    ]


def _points(curve: Curve) -> str:
    steps = [(FPRS[0], curve.points[0])]
    for fpr, tpr in zip(FPRS, curve.points, strict=True):
        if tpr != steps[-1][1]:
            steps.append((fpr, tpr))
    return " ".join(f"{fpr:.5f}:{tpr:.5f}" for fpr, tpr in steps)


def to_table(figure: RocFigure) -> Table:
    """Return the drawn curves' numbers: a row per detector, a block of columns per panel."""
    drawn = {(curve.panel, curve.detector): curve for curve in figure.curves if curve.drawn}
    return plain_table(
        name=figure.name,
        title=figure.title,
        caption=caption(figure),
        measure="mi",
        heads=[(panel.label, head) for panel in figure.panels for head in HEADS],
        rows=[
            (
                detector_label(detector),
                [text for panel in figure.panels for text in texts(drawn.get((panel, detector)))],
            )
            for detector in dict.fromkeys(detector for _, detector in drawn)
        ],
    )


def texts(curve: Curve | None) -> list[str]:
    """Return a curve's numbers under ``HEADS``."""
    if curve is None or curve.auroc is None or curve.tpr is None:
        return ["–"] * len(HEADS)
    shares = [*curve.tprs, curve.fpr, curve.tpr]
    return [f"{curve.kappa:g}", f"{curve.auroc.mean:.3f}", *(f"{100 * share.mean:.1f} %" for share in shares)]
