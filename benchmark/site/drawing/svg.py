"""Small plots as SVG text. Lines differ in marker and dash first, then in colour, set by the page's CSS."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 22, 12, 46
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 2", "1 2")
_STYLES = 6  # of markers and of dashes; from the seventh style on they are paired differently
_MARKS = (
    "M{x0} {y}a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0 -7.2 0z",
    "M{x0} {y0}h7.2v7.2h-7.2z",
    "M{x} {y0}l4 7.2h-8z",
    "M{x} {y0}l4 3.6l-4 3.6l-4 -3.6z",
    "M{x} {y1}l4 -7.2h-8z",
    "M{x0} {y0}l7.2 7.2m0 -7.2l-7.2 7.2",
)


class Axis(NamedTuple):
    """A linear or logarithmic axis."""

    label: str
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Return the position of a value between the ends, 0 to 1."""
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return round numbers inside the axis."""
        if self.log:
            return _log_ticks(self.low, self.high)
        step = _step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


class Series(NamedTuple):
    """One line; ``style`` selects marker, dash and colour."""

    label: str
    points: Sequence[tuple[float, float]]
    style: int
    joined: bool = True
    marked: Sequence[tuple[float, float]] | None = None
    """Positions of its markers; along the line unless given."""


class Plot(NamedTuple):
    """A drawing with its description in words."""

    ident: str
    title: str
    description: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    crowd: Sequence[tuple[float, float]] = ()
    """Points drawn small and uniform behind the series."""
    names: Sequence[tuple[float, float, str]] = ()
    """Labels next to points, left out where there is no room."""


def percent_axis(label: str) -> Axis:
    return Axis(label, 0.0, 100.0)


def log_axis(label: str, values: Sequence[float]) -> Axis:
    """Return a logarithmic axis wide enough for all values, which must be positive."""
    return Axis(label, min(values) / 1.35, max(values) * 1.35, True)


def draw(plot: Plot) -> Markup:
    """Return the drawing, with title and description for screen readers."""
    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="{plot.ident}-t {plot.ident}-d">',
        f'<title id="{plot.ident}-t">{escape(plot.title)}</title>',
        f'<desc id="{plot.ident}-d">{escape(plot.description)}</desc>',
        *_grid(plot),
        _crowd(plot),
        *(_line(plot, series) for series in plot.series),
        *_names(plot),
        "</svg>",
    ]
    return Markup("".join(parts))


def swatch(style: int) -> Markup:
    """Return the legend symbol of a style."""
    mark = _mark(style % _STYLES, 17, 6)
    return Markup(
        f'<svg class="swatch" viewBox="0 0 34 12" aria-hidden="true"><g class="{_colour(style)}">'
        f'<path class="line" d="M1 6h32"{_dash(style)}/><path class="mark" d="{mark}"/></g></svg>'
    )


def strip(low: float, high: float, mean: float, values: Sequence[float]) -> Markup:
    """Draw one number on 0 to 100: its interval as a bar, its mean as a stroke, its seeds as dots."""
    dots = "".join(f"M{value:.1f} 8h0" for value in values)
    return Markup(
        '<svg class="strip" viewBox="-2 0 104 16" aria-hidden="true"><path class="base" d="M0 8h100"/>'
        f'<path class="range" d="M{low:.1f} 8H{high:.1f}"/><path class="dots" d="{dots}"/>'
        f'<path class="mean" d="M{mean:.1f} 1v14"/></svg>'
    )


def _at(plot: Plot, x: float, y: float) -> tuple[float, float]:
    across = _LEFT + plot.x.share(x) * (WIDTH - _LEFT - _RIGHT)
    down = HEIGHT - _BOTTOM - plot.y.share(y) * (HEIGHT - _TOP - _BOTTOM)
    return across, down


def _grid(plot: Plot) -> list[str]:
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts = []
    for tick in plot.y.ticks():
        y = _at(plot, plot.x.low, tick)[1]
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in plot.x.ticks():
        x = _at(plot, tick, plot.y.low)[0]
        parts.append(f'<path class="axis" d="M{x:.1f} {bottom}v5"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>')
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text class="name" x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(plot.x.label)}</text>"
    )
    down = (_TOP + bottom) / 2
    parts.append(
        f'<text class="name" transform="translate(12 {down:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(plot.y.label)}</text>"
    )
    return parts


def _crowd(plot: Plot) -> str:
    path = "".join("M{:.1f} {:.1f}h0".format(*_at(plot, *point)) for point in plot.crowd)
    return f'<path class="crowd" d="{path}"/>' if path else ""


def _line(plot: Plot, series: Series) -> str:
    number = series.style % _STYLES
    points = [_at(plot, *point) for point in series.points]
    parts = [f'<g class="{_colour(series.style)}">']
    if series.joined and len(points) > 1:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="line" d="M{path}"{_dash(series.style)}/>')
    along = points[:: 1 + len(points) // 16]
    places = along if series.marked is None else [_at(plot, *point) for point in series.marked]
    marks = "".join(_mark(number, x, y) for x, y in places)
    parts.append(f'<path class="mark" d="{marks}"/></g>')
    return "".join(parts)


def _colour(style: int) -> str:
    return f"s{(style + 2 * (style // _STYLES)) % _STYLES}"


def _dash(style: int) -> str:
    dash = _DASHES[(style + style // _STYLES) % _STYLES]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _names(plot: Plot) -> list[str]:
    """Place each label right of its point, or left, above or below, where it touches no other and no edge."""
    taken = [_box(*_at(plot, x, y), 9.0, 9.0) for x, y, _ in plot.names]
    parts = []
    for x, y, name in plot.names:
        across, down = _at(plot, x, y)
        width = 7.4 * len(name)
        aside = 7 + width / 2
        for dx, dy in ((aside, 0), (-aside, 0), (0, -13), (0, 13), (aside, -11), (-aside, 11)):
            box = _box(across + dx, down + dy, width, 12.0)
            if _inside(box) and not any(_meet(box, other) for other in taken):
                taken.append(box)
                anchor = "middle" if dx == 0 else "start" if dx > 0 else "end"
                x_text = across + (0 if dx == 0 else 7 if dx > 0 else -7)
                place = f'x="{x_text:.1f}" y="{down + dy + 4:.1f}" text-anchor="{anchor}"'
                parts.append(f'<text class="point" {place}>{escape(name)}</text>')
                break
    return parts


def _box(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _inside(box: tuple[float, float, float, float]) -> bool:
    return box[0] > _LEFT and box[1] > 0 and box[2] < WIDTH and box[3] < HEIGHT - _BOTTOM


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _mark(number: int, x: float, y: float) -> str:
    places = {"x": x, "y": y, "x0": x - 3.6, "y0": y - 3.6, "y1": y + 3.6}
    return _MARKS[number].format(**{name: f"{value:.1f}" for name, value in places.items()})


def _step(span: float) -> float:
    rough = span / 5
    power: float = 10.0 ** math.floor(math.log10(rough))
    return min((factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(step - rough))


def _log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten, with 2 and 5 between them if there are few."""
    powers = [10.0**n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    few = [p * f for p in powers for f in (1, 2, 5) if low <= p * f <= high]
    return few if len(few) <= 6 else [power for power in powers if low <= power <= high]


def _number(value: float) -> str:
    if value >= 1_000_000:
        return f"{value / 1_000_000:g} M"
    return f"{value:,.0f}".replace(",", " ") if value >= 10_000 else f"{value:.10g}"
