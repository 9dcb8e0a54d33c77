"""ROC curves of detectors as values, and the text around them; ``drawing.detectors`` draws them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.report.detectors.lines import OBLIVIOUS
from robustness_bench.benchmark.report.detectors.names import detector_label
from robustness_bench.benchmark.report.detectors.roc import FPRS, RATES, auroc, roc, tpr_at
from robustness_bench.benchmark.report.figures.namid import NothingToDrawError
from robustness_bench.benchmark.report.figures.pairs import Pair, Panel, pair_up, panels_of
from robustness_bench.benchmark.report.rendering.csv import csv_text, numbers
from robustness_bench.benchmark.report.rendering.table import Table, plain_table
from robustness_bench.benchmark.report.rendering.wording import span
from robustness_bench.benchmark.statistics import MeanStd, mean_std
from robustness_bench.benchmark.store.detections import Detection

WORST_AT = 0.005
"""The false-positive rate at which a detector's worst κ is judged: the MI detectors' nominal rate."""
COLUMNS = (
    *("figure", "dataset", "setting", "attack", "system", "detector", "kappa", "drawn"),
    *("seeds", "natural_images", "adversarial_images", "auroc", "auroc_std"),
    *(f"{name}{100 * fpr:g}" for fpr in RATES for name in ("curve_tpr_at_", "curve_tpr_std_at_")),
    *("fpr", "fpr_std", "tpr", "tpr_std", "curve", "remark"),
)
HEADS = ("κ", "AUROC", *(f"TPR at {100 * fpr:g} %" for fpr in RATES), "FPR in use", "TPR in use")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One detector on one panel at one κ: mean over seeds, shares in [0, 1].

    Attributes:
        alias: the detector whose curve it is: one with the same score and possibly another threshold.
        natural_images: number of images in one seed.
        adversarial_images: number of images in all seeds together.
        points: TPR at each of ``FPRS``; empty without adversarial images.
        tprs: TPR at each of ``RATES``.
        fpr, tpr: rates at its own threshold.
        drawn: whether it is at the worst κ.
    """

    panel: Panel
    detector: str
    alias: str
    kappa: float
    seeds: int
    natural_images: int
    adversarial_images: int
    points: tuple[float, ...] = ()
    auroc: MeanStd | None = None
    tprs: tuple[MeanStd, ...] = ()
    fpr: MeanStd
    tpr: MeanStd | None = None
    drawn: bool = False
    remark: str


@dataclass(frozen=True, kw_only=True)
class RocFigure:
    """Everything a drawing needs, and nothing it has to decide.

    Attributes:
        kappas: the requested ones; empty means all. Each detector is drawn at its worst κ among them.
        curves: for every κ, in the order of the detectors; ``drawn`` says which are drawn.
        notes: what is missing, and remarks.
    """

    dataset: str
    kappas: tuple[float, ...]
    curves: tuple[Curve, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"roc-{self.dataset}{suffix(self.kappas)}"

    @property
    def title(self) -> str:
        """The title above the legend."""
        return f"Detectors on {self.dataset}, {which(self.kappas)}"

    @property
    def panels(self) -> list[Panel]:
        return list(dict.fromkeys(curve.panel for curve in self.curves if curve.drawn))

    @property
    def detectors(self) -> list[str]:
        """The entries of the legend, in order."""
        return list(dict.fromkeys(curve.alias for curve in self.curves if curve.drawn))

    def label(self, detector: str) -> str:
        """Return the legend's label, with a dagger if the notes have a remark on it."""
        remarked = any(curve.remark for curve in self.curves if curve.alias == detector)
        return f"{detector_label(detector)} †" if remarked else detector_label(detector)


def suffix(kappas: Sequence[float]) -> str:
    """Return the suffix of a file name."""
    return "-".join(["", "kappa", *(f"{kappa:g}" for kappa in kappas)]) if kappas else ""


def which(kappas: Sequence[float]) -> str:
    """Return the κ of a figure in few words."""
    if len(kappas) == 1:
        return f"κ = {kappas[0]:g}"
    return f"worst κ of {', '.join(f'{kappa:g}' for kappa in kappas)}" if kappas else "worst κ"


def roc_figure(dataset: str, detections: Sequence[Detection], kappas: Sequence[float] = ()) -> RocFigure:
    """Return each detector's curve per attack, at its worst κ.

    Args:
        detections: cells of ``dataset``.
        kappas: these alone; all unless given.

    Raises:
        NothingToDrawError: no detector has natural and adversarial images.
        BenchError: no cell has one of ``kappas``, or cells contradict each other.
    """
    pairs, notes = pair_up(detections, kappas)
    curves = [_curve(each) for panel in panels_of(pairs) for each in _grouped(pairs, panel)]
    curves = _marked(curves)
    if not any(curve.drawn for curve in curves):
        raise NothingToDrawError("; ".join([f"nothing to draw in roc of {dataset}", *notes]))
    notes += dict.fromkeys(
        f"no image under {curve.panel.label} at κ = {curve.kappa:g} fools the classifier"
        for curve in curves
        if not curve.points
    )
    notes += dict.fromkeys(
        f"† {detector_label(curve.detector)}: {curve.remark}" for curve in curves if curve.remark
    )
    return RocFigure(dataset=dataset, kappas=tuple(kappas), curves=tuple(curves), notes=tuple(notes))


def _grouped(pairs: Sequence[Pair], panel: Panel) -> list[list[Pair]]:
    """Group a panel's pairs by detector and κ, one group per set of seeds."""
    own = [pair for pair in pairs if pair.panel == panel]
    return list(grouped(own, lambda pair: (pair.detector, pair.kappa)).values())


def _curve(seeds: list[Pair]) -> Curve:
    first, full = seeds[0], [pair for pair in seeds if len(pair.adversarial)]
    curve = Curve(
        panel=first.panel,
        detector=first.detector,
        alias=first.alias,
        kappa=first.kappa,
        seeds=len(full),
        natural_images=len(first.natural),
        adversarial_images=sum(len(pair.adversarial) for pair in full),
        fpr=mean_std([pair.fpr for pair in seeds]),
        remark="; ".join(dict.fromkeys(pair.remark for pair in seeds if pair.remark)),
    )
    if not full:
        return curve
    each = [roc(pair.natural, pair.adversarial) for pair in full]
    return replace(
        curve,
        points=tuple(math.fsum(at) / len(at) for at in zip(*each, strict=True)),
        auroc=mean_std([auroc(pair.natural, pair.adversarial) for pair in full]),
        tprs=tuple(mean_std([tpr_at(p.natural, p.adversarial, fpr) for p in full]) for fpr in RATES),
        fpr=mean_std([pair.fpr for pair in full]),
        tpr=mean_std([pair.tpr for pair in full]),
    )


def _marked(curves: list[Curve]) -> list[Curve]:
    """Mark the curves to draw: per panel and score the κ with the lowest TPR, then the lowest AUROC."""
    worst: dict[tuple[Panel, str], tuple[float, float, float]] = {}
    for curve in curves:
        if curve.auroc is not None:
            key = (curve.panel, curve.alias)
            rank = (curve.tprs[RATES.index(WORST_AT)].mean, curve.auroc.mean, curve.kappa)
            worst[key] = min(rank, worst.get(key, rank))
    at = {key: rank[-1] for key, rank in worst.items()}
    return [replace(c, drawn=bool(c.points) and c.kappa == at.get((c.panel, c.alias))) for c in curves]


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
