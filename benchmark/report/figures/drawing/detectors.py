"""Figures of detectors in the style of ``drawing.namid``: ROC curves, and histograms of scores."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from robustness_bench.benchmark.files import canonical_json
from robustness_bench.benchmark.report.detectors.roc import FPRS
from robustness_bench.benchmark.report.figures.drawing.namid import GRID, INK, WIDTHS, legend, saved
from robustness_bench.benchmark.report.figures.roc import caption as roc_caption
from robustness_bench.benchmark.report.figures.scores import caption as scores_caption
from robustness_bench.defenses.detectors.registry import detector_presets

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from robustness_bench.benchmark.report.figures.pairs import Panel
    from robustness_bench.benchmark.report.figures.roc import Curve, RocFigure
    from robustness_bench.benchmark.report.figures.scores import Histogram, ScoresFigure

_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#882255", "#8C6D31", "#6A3D9A", "#7A9A01", "#777777"),
)
_DASHES: tuple[Any, ...] = (
    *("-", (0, (5, 1.6)), (0, (1, 1.1)), (0, (6, 1.4, 1, 1.4)), (0, (2.6, 1.2))),
    (0, (6, 1.2, 1, 1.2, 1, 1.2)),
)
_MARKERS = ("o", "s", "^", "D", "v", "<", ">")
_CHANCE: dict[str, Any] = {"color": "#999999", "linestyle": (0, (0.8, 1.6)), "linewidth": 1.4}
_TICKS = (0.001, 0.01, 0.1, 1.0)
_NATURAL: dict[str, Any] = {"facecolor": "#56B4E9", "edgecolor": "none", "alpha": 0.75}
_ADVERSARIAL: dict[str, Any] = {"facecolor": "none", "edgecolor": "#D55E00", "linewidth": 0.9}
_THRESHOLD: dict[str, Any] = {"color": INK, "linewidth": 0.9}
_WORDS: dict[str, Any] = {"solid": "-", "dashed": (0, (2.5, 1.2)), "dotted": (0, (1, 1))}


def draw_roc(figure: "RocFigure", form: str, columns: int = 1) -> bytes:
    """Return the bytes of a png, svg or pdf file, one or two page columns wide."""
    text = " ".join([roc_caption(figure), *figure.notes])
    return saved(lambda: _roc(figure, columns), form, f"ROC. {figure.title}", text)


def grid(
    columns: int, panels: int, row_height: float, above: float, across: int
) -> "tuple[Canvas, list[Axes]]":
    """Return a canvas with ``panels`` axes in rows of ``across``.

    Args:
        row_height, above: height in inches of a row, and of the legend above all rows.
    """
    from matplotlib.figure import Figure as Canvas

    across = min(across, panels)
    rows = -(-panels // across)
    canvas = Canvas(figsize=(WIDTHS[columns], rows * row_height + above), layout="constrained")
    every = canvas.subplots(rows, across, squeeze=False).flatten().tolist()
    for unused in every[panels:]:
        unused.set_axis_off()
    return canvas, every[:panels]


def wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _roc(figure: "RocFigure", columns: int) -> "Canvas":
    from matplotlib.lines import Line2D

    panels = figure.panels
    across = (1 if len(panels) <= 3 else 2) if columns == 1 else 3
    entries = -(-(1 + len(figure.detectors)) // (2 if columns == 1 else 4))
    canvas, axes = grid(columns, len(panels), 1.65 if columns == 1 else 2.0, 0.4 + 0.14 * entries, across)
    looks = {name: look(name, figure.detectors) for name in figure.detectors}
    for each, panel in zip(axes, panels, strict=True):
        _panel(each, figure, panel, looks, 26 if across > columns else 40)
    canvas.supxlabel("FPR on natural images (%)", fontsize="medium")
    canvas.supylabel("TPR on adversarial images (%)", fontsize="medium")
    labels = [wrapped(figure.label(name), 22) for name in figure.detectors]
    chance = Line2D([], [], **_CHANCE)
    legend(canvas, figure.title, [*map(_handle, looks.values()), chance], [*labels, "chance"])
    return canvas


def look(detector: str, met: Sequence[str]) -> dict[str, Any]:
    """Return colour, dashes and symbol of a detector; detectors with the same score share them."""
    presets = {name: canonical_json(preset.identity()) for name, preset in detector_presets().items()}
    strangers = sorted({*met, detector} - set(presets))
    scores = list(dict.fromkeys([*presets.values(), *strangers]))
    place = scores.index(presets.get(detector, detector))
    return {
        "color": _COLOURS[place % len(_COLOURS)],
        "linestyle": _DASHES[place % len(_DASHES)],
        "marker": _MARKERS[place % len(_MARKERS)],
    }


def _handle(looks: dict[str, Any]) -> Any:
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], linewidth=1.1, markersize=3.8, markeredgecolor="white", markeredgewidth=0.4, **looks
    )


def _panel(
    axes: "Axes", figure: "RocFigure", panel: "Panel", looks: dict[str, dict[str, Any]], letters: int
) -> None:
    curves = [curve for curve in figure.curves if curve.drawn and curve.panel == panel]
    axes.plot(FPRS, [100 * fpr for fpr in FPRS], zorder=2.5, **_CHANCE)
    least = 1 / curves[0].natural_images
    if least > FPRS[0]:
        axes.axvspan(FPRS[0], least, facecolor="#EEEEEE", zorder=0)
    for curve in curves:
        if curve.alias == curve.detector or not any(c.detector == curve.alias for c in curves):
            _line(axes, curve, looks[curve.alias])
    for curve in curves:
        _symbol(axes, curve, looks[curve.alias])
    _frame(axes, wrapped(panel.label, letters))


def _line(axes: "Axes", curve: "Curve", looks: dict[str, Any]) -> None:
    points = [100 * tpr for tpr in curve.points]
    shown = {**looks, "marker": ""}
    axes.plot(FPRS, points, drawstyle="steps-post", linewidth=1.0, zorder=3, **shown)


def _symbol(axes: "Axes", curve: "Curve", looks: dict[str, Any]) -> None:
    """Draw the symbol of the threshold in use."""
    if curve.tpr is not None:
        axes.plot(
            max(curve.fpr.mean, FPRS[0]), 100 * curve.tpr.mean, color=looks["color"], marker=looks["marker"],
            markersize=4.0, markeredgecolor="white", markeredgewidth=0.5, linestyle="", clip_on=False,
            zorder=5,
        )  # fmt: skip


def _frame(axes: "Axes", title: str) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(FPRS[0], 1.0)
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{100 * tick:g}" for tick in _TICKS])
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.tick_params(width=0.6, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID, linewidth=0.4)
    axes.set_axisbelow(True)
    axes.set_title(title, color=INK)


def draw_scores(figure: "ScoresFigure", form: str, columns: int = 1) -> bytes:
    """Return the bytes of a png, svg or pdf file, one or two page columns wide."""
    text = " ".join([scores_caption(figure), *figure.notes])
    return saved(lambda: _score_panels(figure, columns), form, f"Scores. {figure.title}", text)


def _score_panels(figure: "ScoresFigure", columns: int) -> "Canvas":
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    canvas, axes = grid(columns, len(figure.histograms), 1.15, 0.55, 2 * columns)
    for each, histogram in zip(axes, figure.histograms, strict=True):
        _histogram(each, histogram)
    canvas.supxlabel("score (higher: more suspicious)", fontsize="medium")
    canvas.supylabel("share of the images", fontsize="medium")
    handles = [Patch(**_NATURAL), Patch(**_ADVERSARIAL), Line2D([], [], **_THRESHOLD)]
    legend(
        canvas, figure.title, handles, ["natural", "adversarial", "threshold, flags natural | adversarial"]
    )
    return canvas


def _histogram(axes: "Axes", histogram: "Histogram") -> None:
    bins = len(histogram.natural)
    edges = [index / bins for index in range(bins + 1)]
    axes.stairs(histogram.natural, edges, fill=True, **_NATURAL)
    axes.stairs(histogram.adversarial, edges, **_ADVERSARIAL)
    for line, dashes in zip(histogram.lines, _WORDS.values(), strict=False):
        axes.axvline(histogram.scale.place(line.threshold), linestyle=dashes, **_THRESHOLD)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.08 * max(*histogram.natural, *histogram.adversarial))
    ticks = histogram.scale.ticks()
    axes.set_xticks([histogram.scale.place(tick) for tick in ticks], [_plain(tick) for tick in ticks])
    axes.set_yticks([])
    axes.tick_params(width=0.6, length=2.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    title = wrapped(f"{histogram.label}, κ = {histogram.kappa:g}", 26)
    axes.set_title("\n".join([title, *_flagged(histogram)]), color=INK)


def _flagged(histogram: "Histogram") -> list[str]:
    """Return what each threshold flags, naming its dash style if there are several."""
    said = [f"{100 * line.fpr:.1f} | {100 * line.tpr:.1f} %" for line in histogram.lines]
    return said if len(said) == 1 else [f"{word} {text}" for word, text in zip(_WORDS, said, strict=False)]


def _plain(score: float) -> str:
    """Format a score, with 1e-05 as 1e-5."""
    return f"{score:g}".replace("e-0", "e-").replace("e+0", "e")
