"""ROC curves of detectors, a plot per attack, each with the table of its numbers."""

from collections.abc import Sequence

from robustness_bench.benchmark.report.detectors.roc import RATES
from robustness_bench.benchmark.report.figures.pairs import Panel, detector_label
from robustness_bench.benchmark.report.figures.roc import Curve, RocFigure
from robustness_bench.benchmark.report.figures.roc_curves import FPRS
from robustness_bench.benchmark.report.figures.roc_words import chosen, claim, seeds_in_words
from robustness_bench.benchmark.site.drawing.charts import Chart
from robustness_bench.benchmark.site.drawing.svg import Axis, Plot, Series, draw, percent_axis, swatch
from robustness_bench.benchmark.statistics import MeanStd

Points = list[tuple[float, float]]
_HEAD = [
    "Detector",
    "κ",
    "AUROC",
    *(f"TPR at {100 * rate:g} %" for rate in RATES),
    "FPR in use",
    "TPR in use",
]


def roc_charts(figure: RocFigure) -> list[Chart]:
    """Return a chart per attack, or per system and attack if the attack is adaptive."""
    return [_chart(figure, panel, number) for number, panel in enumerate(figure.panels, 1)]


def roc_note(figure: RocFigure) -> str:
    """Return the explanation needed to read the charts."""
    drawn = [curve for curve in figure.curves if curve.drawn]
    return " ".join(
        [
            "Share of adversarial images that fool the classifier and are flagged (TPR) against the share of "
            f"natural test images that are flagged (FPR), for all thresholds; {chosen(figure.kappas)}.",
            "Symbols: the thresholds in use, set on held-out natural images; at the left edge "
            "those of an FPR of 0.1 % or less.",
            seeds_in_words([curve.seeds for curve in drawn]),
            *claim(figure.panels),
        ]
    )


def _chart(figure: RocFigure, panel: Panel, number: int) -> Chart:
    curves = [curve for curve in figure.curves if curve.drawn and curve.panel == panel]
    series = []
    for alias in dict.fromkeys(curve.alias for curve in curves):
        own = [curve for curve in curves if curve.alias == alias]
        series.append(_series(figure, alias, own))
    images = curves[0].natural_images
    plot = Plot(
        ident=f"roc-{number}",
        title=f"ROC of detectors under {panel.label}",
        description="; ".join(f"{detector_label(c.detector)}: AUROC {_auroc(c)}" for c in curves) + ".",
        x=Axis("FPR, %", 100 * FPRS[0], 100.0, True),
        y=percent_axis("TPR, %"),
        series=series,
    )
    legend = [(swatch(each.style), each.label) for each in series]
    attacked = min(curve.adversarial_images for curve in curves)
    note = f"{images} natural images, {attacked} adversarial ones of all seeds."
    return Chart(panel.label, note, draw(plot), legend, _HEAD, [_row(figure, each) for each in curves])


def _series(figure: RocFigure, alias: str, curves: Sequence[Curve]) -> Series:
    """Return the line of one score, with a symbol for every threshold on it."""
    marked = [(_percent(curve.fpr), 100 * curve.tpr.mean) for curve in curves if curve.tpr]
    return Series(figure.label(alias), _steps(curves[0].points), figure.detectors.index(alias), marked=marked)


def _steps(points: Sequence[float]) -> Points:
    """Return the corners of the step curve with these values at ``FPRS``, in percent."""
    corners: Points = []
    for fpr, tpr in zip(FPRS, points, strict=True):
        if not corners or 100 * tpr != corners[-1][1]:
            corners += [(100 * fpr, corners[-1][1])] if corners else []
            corners.append((100 * fpr, 100 * tpr))
    return [*corners, (100 * FPRS[-1], 100 * points[-1])]


def _percent(fpr: MeanStd) -> float:
    """Return the rate in percent, moved inside the axis."""
    return 100 * max(fpr.mean, FPRS[0])


def _row(figure: RocFigure, curve: Curve) -> list[str]:
    shares = [*curve.tprs, curve.fpr, *([curve.tpr] if curve.tpr else [])]
    remark = " †" if curve.remark else ""
    return [
        detector_label(curve.detector) + remark,
        f"{curve.kappa:g}",
        _auroc(curve),
        *(f"{100 * share.mean:.1f} %" for share in shares),
    ]


def _auroc(curve: Curve) -> str:
    return f"{curve.auroc.mean:.3f}" if curve.auroc else "–"
