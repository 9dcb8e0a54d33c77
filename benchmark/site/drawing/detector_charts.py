"""ROC curves of detectors, a plot per attack, each with the table of its numbers."""

from collections.abc import Sequence

from robustness_bench.benchmark.report.detectors.names import detector_label
from robustness_bench.benchmark.report.detectors.roc import FPRS
from robustness_bench.benchmark.report.figures.pairs import Panel
from robustness_bench.benchmark.report.figures.roc import Curve, RocFigure
from robustness_bench.benchmark.report.figures.roc_words import HEADS, chosen, claim, seeds_in_words, texts
from robustness_bench.benchmark.site.drawing.charts import Chart
from robustness_bench.benchmark.site.drawing.svg import Axis, Plot, Series, draw, percent_axis, swatch

Points = list[tuple[float, float]]


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
        description="; ".join(f"{detector_label(c.detector)}: AUROC {texts(c)[1]}" for c in curves) + ".",
        x=Axis("FPR, %", 100 * FPRS[0], 100.0, True),
        y=percent_axis("TPR, %"),
        series=series,
    )
    legend = [(swatch(each.style), each.label) for each in series]
    attacked = min(curve.adversarial_images for curve in curves)
    note = f"{images} natural images, {attacked} adversarial ones of all seeds."
    rows = [[f"{detector_label(c.detector)}{' †' if c.remark else ''}", *texts(c)] for c in curves]
    return Chart(panel.label, note, draw(plot), legend, ["Detector", *HEADS], rows)


def _series(figure: RocFigure, alias: str, curves: Sequence[Curve]) -> Series:
    """Return the line of one score, with a symbol for every threshold on it, moved inside the axis."""
    marked = [(100 * max(curve.fpr.mean, FPRS[0]), 100 * curve.tpr.mean) for curve in curves if curve.tpr]
    return Series(figure.label(alias), _steps(curves[0].points), figure.detectors.index(alias), marked=marked)


def _steps(points: Sequence[float]) -> Points:
    """Return the corners of the step curve with these values at ``FPRS``, in percent."""
    corners: Points = []
    for fpr, tpr in zip(FPRS, points, strict=True):
        if not corners or 100 * tpr != corners[-1][1]:
            corners += [(100 * fpr, corners[-1][1])] if corners else []
            corners.append((100 * fpr, 100 * tpr))
    return [*corners, (100 * FPRS[-1], 100 * points[-1])]
