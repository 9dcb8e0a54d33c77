"""Histograms of detectors' scores, drawn in the style of ``drawing.namid``: one axes per detector."""

from typing import TYPE_CHECKING, Any

from robustness_bench.benchmark.report.figures.drawing.namid import INK, legend, saved
from robustness_bench.benchmark.report.figures.drawing.roc import grid, wrapped
from robustness_bench.benchmark.report.figures.scores import caption

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from robustness_bench.benchmark.report.figures.scores import Histogram, ScoresFigure

_NATURAL: dict[str, Any] = {"facecolor": "#56B4E9", "edgecolor": "none", "alpha": 0.75}
_ADVERSARIAL: dict[str, Any] = {"facecolor": "none", "edgecolor": "#D55E00", "linewidth": 0.9}
_THRESHOLD: dict[str, Any] = {"color": INK, "linewidth": 0.9}
_DASHES: dict[str, Any] = {"solid": "-", "dashed": (0, (2.5, 1.2)), "dotted": (0, (1, 1))}


def draw_scores(figure: "ScoresFigure", form: str, columns: int = 1) -> bytes:
    """Return the bytes of a png, svg or pdf file, one or two page columns wide."""
    text = " ".join([caption(figure), *figure.notes])
    return saved(lambda: _scores(figure, columns), form, f"Scores. {figure.title}", text)


def _scores(figure: "ScoresFigure", columns: int) -> "Canvas":
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    canvas, axes = grid(columns, len(figure.histograms), 1.15, 0.55, 2 * columns)
    for each, histogram in zip(axes, figure.histograms, strict=True):
        _panel(each, histogram)
    canvas.supxlabel("score (higher: more suspicious)", fontsize="medium")
    canvas.supylabel("share of the images", fontsize="medium")
    handles = [Patch(**_NATURAL), Patch(**_ADVERSARIAL), Line2D([], [], **_THRESHOLD)]
    legend(
        canvas, figure.title, handles, ["natural", "adversarial", "threshold, flags natural | adversarial"]
    )
    return canvas


def _panel(axes: "Axes", histogram: "Histogram") -> None:
    bins = len(histogram.natural)
    edges = [index / bins for index in range(bins + 1)]
    axes.stairs(histogram.natural, edges, fill=True, **_NATURAL)
    axes.stairs(histogram.adversarial, edges, **_ADVERSARIAL)
    for line, dashes in zip(histogram.lines, _DASHES.values(), strict=False):
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
    return said if len(said) == 1 else [f"{word} {text}" for word, text in zip(_DASHES, said, strict=False)]


def _plain(score: float) -> str:
    """Format a score, with 1e-05 as 1e-5."""
    return f"{score:g}".replace("e-0", "e-").replace("e+0", "e")
