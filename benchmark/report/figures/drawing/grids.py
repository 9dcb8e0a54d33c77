"""Images of a conditional generator, drawn in the style of ``drawing.namid``: a row per test image."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robustness_bench.benchmark.report.figures.drawing.namid import FONT, INK, WIDTHS, saved
from robustness_bench.benchmark.report.figures.generated import caption

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from robustness_bench.benchmark.report.figures.generated import GeneratedFigure

_OTHER = "#D55E00"
_GAP = 0.12  # between images, as a share of an image's width
_ASIDE = 0.35  # between x, x̂ and the rest
_MARGIN = 0.04  # inches
_HEAD = 0.36  # inches above the images


def draw_generated(figure: "GeneratedFigure", form: str, columns: int = 1) -> bytes:
    """Return the bytes of a png, svg or pdf file, one or two page columns wide."""
    text = " ".join([caption(figure), *figure.notes])
    return saved(lambda: _generated(figure, columns), form, f"Generated. {figure.title}", text)


def _generated(figure: "GeneratedFigure", columns: int) -> "Canvas":
    from matplotlib.figure import Figure as Canvas

    starts = [0.0, 1 + _ASIDE]
    starts += [2 + 2 * _ASIDE + index * (1 + _GAP) for index in range(len(figure.conditions))]
    width, rows = WIDTHS[columns], len(figure.rows)
    cell = (width - 2 * _MARGIN) / (starts[-1] + 1)
    height = cell * (rows + (rows - 1) * _GAP) + _HEAD + _MARGIN
    canvas = Canvas(figsize=(width, height))
    axes = canvas.add_axes(
        (_MARGIN / width, _MARGIN / height, 1 - 2 * _MARGIN / width, 1 - (_HEAD + _MARGIN) / height)
    )
    axes.set_xlim(0, starts[-1] + 1)
    axes.set_ylim(rows + (rows - 1) * _GAP, 0)
    axes.set_axis_off()
    for place, row in enumerate(figure.rows):
        _row(axes, figure, row, starts, place * (1 + _GAP))
    _headings(axes, figure, starts)
    return canvas


def _row(axes: "Axes", figure: "GeneratedFigure", row: int, starts: list[float], top: float) -> None:
    examples = figure.examples
    _image(axes, examples.x[row], starts[0], top)
    _image(axes, examples.reconstruction[row], starts[1], top)
    for left, condition in zip(starts[2:], figure.conditions, strict=True):
        _image(axes, examples.conditional[row, condition], left, top)
        seen = int(examples.predicted[row, condition])
        if seen != condition:
            _frame(axes, seen, left, top)


def _image(axes: "Axes", image: NDArray[np.uint8], left: float, top: float) -> None:
    """Draw an image (C, H, W); digits are drawn dark on white, for paper."""
    from matplotlib.patches import Rectangle

    shown = np.repeat(255 - image, 3, axis=0) if len(image) == 1 else image
    extent = (left, left + 1, top + 1, top)
    axes.imshow(shown.transpose(1, 2, 0), extent=extent, interpolation="nearest", aspect="auto")
    axes.add_patch(Rectangle((left, top), 1, 1, facecolor="none", edgecolor="#BBBBBB", linewidth=0.4))


def _frame(axes: "Axes", seen: int, left: float, top: float) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle(
            (left, top), 1, 1, facecolor="none", edgecolor=_OTHER, linewidth=1.3, zorder=4, clip_on=False
        )
    )
    box = {"facecolor": _OTHER, "edgecolor": "none", "pad": 0.6}
    axes.text(
        left + 0.97, top + 0.03, str(seen), ha="right", va="top", color="white", bbox=box, zorder=5,
        fontsize=FONT, fontweight="bold", linespacing=0.8,
    )  # fmt: skip


def _headings(axes: "Axes", figure: "GeneratedFigure", starts: list[float]) -> None:
    names = ["x", "x̂", *map(str, figure.conditions)]
    for left, name in zip(starts, names, strict=True):
        axes.annotate(
            name, (left + 0.5, 0), (0, 3), textcoords="offset points", ha="center", va="bottom", color=INK
        )
    middle = (starts[2] + starts[-1] + 1) / 2
    axes.annotate(
        "G(E(x), j) of class j =", (middle, 0), (0, 13), textcoords="offset points", ha="center", va="bottom"
    )
