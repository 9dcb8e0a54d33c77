"""Numbers as HTML: the pieces that every table uses."""

from markupsafe import Markup, escape

from robustness_bench.benchmark.site.contents.cells import Cell, Column
from robustness_bench.benchmark.site.drawing.svg import strip
from robustness_bench.benchmark.statistics import MeanStd, Rank
from robustness_bench.benchmark.store.flags import FLAGS

UNLOOKED = "the absence of flags says nothing here: not all signs of hidden gradients were checked"


def figure(found: MeanStd | None, decimals: int = 1) -> Markup:
    """Return mean and spread, or a dash."""
    if found is None:
        return Markup("–")
    spread = "" if found.std is None else f" <small>±{found.std:.{decimals}f}</small>"
    return Markup(f"{found.mean:.{decimals}f}{spread}")


def plain(found: MeanStd | None) -> str:
    """Return mean and spread without markup, or a dash."""
    if found is None:
        return "–"
    return f"{found.mean:.1f}" + ("" if found.std is None else f" ±{found.std:.1f}")


def interval(cell: Cell | None) -> Markup:
    """Return both ends of the 95 % interval, or nothing."""
    if cell is None or cell.interval is None:
        return Markup("")
    return Markup(f"{cell.interval.low:.1f}–{cell.interval.high:.1f}")


def drawn(cell: Cell | None) -> Markup:
    """Draw the cell on a scale of 0 to 100."""
    if cell is None or cell.figure is None or cell.interval is None:
        return Markup("")
    values = [value for value in cell.per_seed.values() if value is not None]
    return strip(cell.interval.low, cell.interval.high, cell.figure.mean, values)


def table_cell(cell: Cell | None, decimals: int, best: float | None) -> Markup:
    """Return a table cell of a board, marked if it is the best of its column."""
    if cell is None:
        return Markup('<td class="n none"><abbr title="never run">–</abbr></td>')
    if cell.figure is None:
        return Markup('<td class="n bad"><abbr title="{}">ERROR</abbr></td>').format(cell.error)
    kind = "n best" if round(cell.figure.mean, decimals) == best else "n"
    return Markup(f'<td class="{kind}">{figure(cell.figure, decimals)}</td>')


def worst_cell(worst: Cell | None, problem: str, decimals: int, best: float | None) -> Markup:
    """Return the worst case with its interval, as text and drawn."""
    if worst is None or worst.figure is None:
        return Markup('<td class="w none"><abbr title="{}">–</abbr></td>').format(problem)
    kind = "w best" if round(worst.figure.mean, decimals) == best else "w"
    number = figure(worst.figure, decimals)
    return Markup(
        f'<td class="{kind}"><div class="both"><span class="fig">{number}'
        f'<small class="ci">{interval(worst)}</small></span>{drawn(worst)}</div></td>'
    )


def rank(place: Rank | None) -> Markup:
    """Return a rank, or the range of possible ranks."""
    if place is None:
        return Markup('<abbr title="not ranked">–</abbr>')
    return Markup(f"{place.first}" if place.first == place.last else f"{place.first}–{place.last}")


def flags(raised: list[str], unlooked: str, collapsed: dict[int, str]) -> Markup:
    """Return a mark for every sign of hidden gradients, for unchecked signs, and for every collapsed seed."""
    marks = [f'<abbr class="flag" title="{escape(FLAGS[name].meaning)}">{name}</abbr>' for name in raised]
    if unlooked:
        marks.append(f'<abbr class="flag unlooked" title="{UNLOOKED}">{escape(unlooked)}</abbr>')
    marks += [
        f'<abbr class="flag fell" title="{escape(why)}">seed {seed} collapsed</abbr>'
        for seed, why in sorted(collapsed.items())
    ]
    return Markup(" ".join(marks))


def status(columns: tuple[Column, ...], cells: dict[str, Cell]) -> str:
    """Return what a row lacks, or "complete"."""
    problems = []
    for column in columns:
        cell = cells.get(column.key)
        problem = cell.problem if cell else "missing"
        if problem:
            problems.append(f"{column.label} {problem}")
    return "; ".join(problems) or "complete"
