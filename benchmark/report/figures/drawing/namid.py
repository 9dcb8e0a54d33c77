"""Figures as PNG, SVG and PDF with matplotlib, without a display; the same figure gives the same SVG and PDF.

Bars differ in colour, lightness and hatching, curves in colour, marker and dashes, so that they can be
distinguished in grey. Colours: Okabe and Ito 2008, https://jfly.uni-koeln.de/color/. Text is 7 pt or larger
at the width on the page; its font (matplotlib's own) is embedded in PDF; in SVG text stays text.
"""

import io
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from robustness_bench.benchmark.report.figures.namid import Figure, Value

FORMATS = ("png", "svg", "pdf")
WIDTHS = {1: 3.3, 2: 7.0}
"""Number of page columns -> width in inches."""
_DPI = 300
FONT = 7.0
_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": FONT,
    "axes.titlesize": FONT,
    "axes.labelsize": FONT,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "legend.fontsize": FONT,
    "axes.linewidth": 0.6,
    "axes.unicode_minus": False,
    "hatch.linewidth": 0.5,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
    "pdf.fonttype": 42,
}
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#F0E442", "#CC79A7")
_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx")
_DASHES = ("-", "--", "-.")
_MARKERS = ("o", "s", "^")
_CURVE_COLOURS = ("#000000", "#0072B2", "#D55E00")
INK = "#222222"
GRID = "#BBBBBB"
_UNDATED: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
_DESCRIPTION = {"svg": "Description", "pdf": "Subject", "png": "Description"}


def draw(figure: "Figure", form: str, columns: int = 1) -> bytes:
    """Return the bytes of a file.

    Args:
        form: png, svg or pdf.
        columns: how many of a page's two columns it spans.
    """
    draw = _radar if figure.shape == "radar" else _bars
    text = " ".join([figure.caption, *figure.notes])
    return saved(lambda: draw(figure.drawn, columns), form, f"Figure {figure.number}. {figure.title}", text)


def saved(draw: "Callable[[], Canvas]", form: str, title: str, description: str) -> bytes:
    """Return the bytes of a file, without a date: the same whatever the user's matplotlib style."""
    import matplotlib

    buffer = io.BytesIO()
    about = {"Title": title, _DESCRIPTION[form]: description}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # ignore the user's style
        matplotlib.rcParams.update(_RC)
        draw().savefig(buffer, format=form, dpi=_DPI, metadata={**about, **_UNDATED[form]})
    return buffer.getvalue()


def _canvas(columns: int, heights: dict[int, float]) -> "Canvas":
    from matplotlib.figure import Figure as Canvas

    return Canvas(figsize=(WIDTHS[columns], heights[columns]), layout="constrained")


def legend(
    canvas: "Canvas", title: str, handles: list[Any], labels: list[str], *, beside: bool = False
) -> None:
    """Add the title and the series below it: above the axes in as few rows as fit, or to the right."""
    for columns in [1] if beside else range(len(labels), 0, -1):
        placed = canvas.legend(
            handles,
            labels,
            title=title,
            title_fontsize=FONT,
            loc="outside right upper" if beside else "outside upper center",
            ncols=columns,
            frameon=False,
            handlelength=2.0,
            columnspacing=1.2,
            handletextpad=0.5,
            borderaxespad=0.2,
        )
        room = canvas.bbox.width
        if columns == 1 or placed.get_window_extent().width <= room:
            return
        placed.remove()


def _bars(figure: "Figure", columns: int) -> "Canvas":
    """Draw groups of bars from 0, one axes per panel; a missing bar's place says why."""
    from matplotlib.patches import Patch

    canvas = _canvas(columns, {1: 2.2, 2: 2.7})
    panels = figure.panels
    sizes = [len(figure.groups(panel)) for panel in panels]
    row = canvas.subplots(1, len(panels), squeeze=False, width_ratios=sizes)[0]
    slot = WIDTHS[columns] * 72 * 0.85 / (sum(sizes) * (len(figure.series) + 0.6))
    longest = max(len(_text(value)) for value in figure.values)
    for axes, panel in zip(row, panels, strict=True):
        _panel(axes, figure, panel, numbered=slot >= 0.62 * FONT * longest)
    row[0].set_ylabel(figure.unit)
    legend(
        canvas, figure.title, [Patch(**_fill(index)) for index in range(len(figure.series))], figure.series
    )
    return canvas


def _fill(index: int) -> dict[str, Any]:
    return {
        "facecolor": _COLOURS[index % len(_COLOURS)],
        "hatch": _HATCHES[index % len(_HATCHES)],
        "edgecolor": INK,
        "linewidth": 0.6,
    }


def _panel(axes: "Axes", figure: "Figure", panel: str, *, numbered: bool) -> None:
    groups, series = figure.groups(panel), figure.series
    width = 1 / (len(series) + 0.6)
    values = [v.figure for v in figure.values if v.spot.panel == panel and v.figure]
    top = max((value.mean + (value.std or 0.0) for value in values), default=0.0) or 1.0
    axes.set_ylim(0, top * 1.15)
    axes.set_xlim(-0.55, len(groups) - 0.45)
    for place, group in enumerate(groups):
        for index, name in enumerate(series):
            x = place + (index - (len(series) - 1) / 2) * width
            _bar(axes, figure.at(panel, group, name), x, width, index, numbered=numbered)
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", length=0)
    axes.tick_params(axis="y", width=0.6, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.4)
    axes.set_axisbelow(True)
    if panel:
        axes.set_title(panel)


def _bar(axes: "Axes", value: "Value | None", x: float, width: float, index: int, *, numbered: bool) -> None:
    if value is None or value.figure is None:
        word = "missing" if value is None else value.status
        axes.annotate(word, (x, 0), (0, 2), textcoords="offset points", rotation=90, ha="center", va="bottom")
        return
    mean, std, _ = value.figure
    axes.bar(x, mean, width * 0.92, **_fill(index))
    if std is not None:
        low = min(std, mean)  # the axis starts at 0
        for colour, line in (("white", 2.0), (INK, 0.8)):  # so that it is visible on dark bars too
            axes.errorbar(
                x, mean, [[low], [std]], color=colour, elinewidth=line, capsize=1.8, capthick=line, fmt="none"
            )
    if numbered:
        top = (x, mean + (std or 0.0))
        axes.annotate(_text(value), top, (0, 1.5), textcoords="offset points", ha="center", va="bottom")


def _text(value: "Value") -> str:
    """Return the number above a bar."""
    mean = value.figure.mean if value.figure else 0.0
    return f"{mean:.2f}" if value.offset is not None and mean < 10 else f"{mean:.1f}".replace("100.0", "100")


def _radar(figure: "Figure", columns: int) -> "Canvas":
    """Draw a spoke per group, with 0 in the centre, and a closed curve per series."""
    from matplotlib.ticker import MaxNLocator

    canvas = _canvas(columns, {1: 2.9, 2: 4.0})
    axes = canvas.subplots()
    values = [value.figure for value in figure.values if value.figure]
    most = max(value.mean + (value.std or 0.0) for value in values) or 1.0
    ticks = [float(tick) for tick in MaxNLocator(4).tick_values(0, most) if tick > 0]
    groups = figure.groups("")
    angles = [math.pi / 2 - 2 * math.pi * index / len(groups) for index in range(len(groups))]
    _web(axes, angles, groups, ticks, figure.unit)
    outlines = {name: _outline(figure, name, angles) for name in figure.series}
    if figure.shaded:
        outer, inner = (outlines[name] for name in figure.shaded)
        corners = zip(*[*outer, *inner[::-1]], strict=True)
        axes.fill(*corners, facecolor="#56B4E9", alpha=0.35, linewidth=0, zorder=2)
    handles = [
        _curve(axes, outlines[name], [figure.at("", group, name) for group in groups], angles, index)
        for index, name in enumerate(figure.series)
    ]
    axes.set_aspect("equal")
    axes.set_axis_off()
    legend(canvas, figure.title, handles, figure.series, beside=columns > 1)
    return canvas


def _web(axes: "Axes", angles: list[float], groups: list[str], ticks: list[float], unit: str) -> None:
    """Draw spokes, rings, names at the spokes' ends, and numbers between the last and the first spoke."""
    between = angles[0] + math.pi / len(angles)
    for tick in ticks:
        ring = [_at(angle, tick) for angle in [*angles, angles[0]]]
        axes.plot(*zip(*ring, strict=True), color=GRID, linewidth=0.4, zorder=1)
    for angle, group in zip(angles, groups, strict=True):
        x, y = _at(angle, ticks[-1])
        axes.plot([0, x], [0, y], color=GRID, linewidth=0.4, zorder=1)
        across, up = math.cos(angle), math.sin(angle)
        axes.annotate(
            group,
            (x, y),
            (4 * across, 4 * up),
            textcoords="offset points",
            ha="left" if across > 0.1 else "right" if across < -0.1 else "center",
            va="bottom" if up > 0.5 else "top" if up < -0.5 else "center",
        )
    for tick in ticks:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.8}
        axes.annotate(
            f"{tick:g}", _at(between, tick * math.cos(math.pi / len(angles))),
            ha="center", va="center", color=INK, bbox=box, zorder=6,
        )  # fmt: skip
    axes.annotate(
        unit, (0.5, 0), (0, -11), xycoords="axes fraction", textcoords="offset points", ha="center", va="top"
    )


def _at(angle: float, radius: float) -> tuple[float, float]:
    return radius * math.cos(angle), radius * math.sin(angle)


def _outline(figure: "Figure", name: str, angles: list[float]) -> list[tuple[float, float]]:
    """Return the corners of a series' curve, closed."""
    corners = []
    for angle, group in zip(angles, figure.groups(""), strict=True):
        value = figure.at("", group, name)
        if value is not None and value.figure is not None:
            corners.append(_at(angle, value.figure.mean))
    return [*corners, corners[0]]


def _curve(
    axes: "Axes",
    outline: list[tuple[float, float]],
    values: "list[Value | None]",
    angles: list[float],
    index: int,
) -> Any:
    """Draw a closed curve with its error bars along the spokes."""
    colour = _CURVE_COLOURS[index]
    (line,) = axes.plot(
        *zip(*outline, strict=True), color=colour, linestyle=_DASHES[index], linewidth=1.1,
        marker=_MARKERS[index], markersize=3.2, zorder=4,
    )  # fmt: skip
    for angle, value in zip(angles, values, strict=True):
        if value is not None and value.figure is not None and value.figure.std:
            mean, std = value.figure.mean, value.figure.std
            ends = [_at(angle, max(mean - std, 0.0)), _at(angle, mean + std)]
            axes.plot(*zip(*ends, strict=True), color=colour, linewidth=0.9, marker="", zorder=5)
    return line
