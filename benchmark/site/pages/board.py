"""The data for the page of a board."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from robustness_bench.attacks.registry import parsed
from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.report.lines.worst_case import NAME as WORST
from robustness_bench.benchmark.report.rendering.table import best_of
from robustness_bench.benchmark.site.contents import names, standings
from robustness_bench.benchmark.site.contents.boards import Board, Row
from robustness_bench.benchmark.site.contents.cells import Cell
from robustness_bench.benchmark.site.contents.families import Family, page_id
from robustness_bench.benchmark.site.contents.reading import Found
from robustness_bench.benchmark.site.drawing import markup
from robustness_bench.benchmark.site.drawing.charts import Chart
from robustness_bench.benchmark.site.drawing.svg import Axis, Plot, Series, draw, percent_axis
from robustness_bench.benchmark.store.flags import FLAGS

Families = dict[str, Family]


class Line(NamedTuple):
    """A row with its content for every column of the table."""

    row: Row
    family: Family
    flags: list[str]
    unlooked: str
    status: str


def context(board: Board, boards: Sequence[Board], families: Families, found: Found) -> dict[str, Any]:
    """Return everything that ``board.html.j2`` needs."""
    lines = []
    for row in board.rows:
        said = [markup.status(board.columns, row.cells), *standings.status_of(row, found)]
        family = families[row.family]
        lines.append(Line(row, family, family.flags_on(row), family.unlooked_on(row), "; ".join(said)))
    settings = {line.family.setting for line in lines}
    shared = settings.pop() if len(settings) == 1 else ""
    decimals = 2 if board.images >= 1000 else 1
    best = _best(board, decimals)
    stored = [column.label for column in board.columns if parsed(column.attack)[1]]
    apart = [
        column.label
        for column in board.columns
        if not column.bounded and column.kind != "natural" and column.label not in stored
    ]
    raised = {flag for line in lines for flag in line.flags}
    natural = [(board.natural.key, board.natural.label, "n")] if board.natural else []
    attacks = [(column.key, column.label, "n") for column in board.columns if column != board.natural]
    heads = [
        ("rank", "Rank", "r"),
        ("defense", "Defense", "d"),
        *natural,
        (WORST, "Worst case", "w"),
        *attacks,
        ("seeds", "Seeds", "n"),
        ("flags", "Flags", "t"),
        ("status", "Status", "t"),
    ]
    return {
        "board": board,
        "required": _unbroken([column.label for column in board.required]),
        "apart": _unbroken(apart[:8]),
        "stored": _unbroken(stored[:8]),
        "ensembles": _ensembles(board),
        "shared": shared,
        "single": len(apart) == 1,
        "others": [other for other in boards if other.dataset == board.dataset and other != board],
        "groups": sorted({names.defense(row.defense).group for row in board.rows}),
        "seeds": sorted({1, *(len(row.seeds) for row in board.rows)}),
        "optional": [*((name, label) for name, label, _ in heads if name not in ("rank", "defense"))],
        "heads": heads,
        "lines": lines,
        "partial": any(row.rank is None for row in board.rows),
        "row": lambda line: _html(board, line, decimals, best, "" if shared else line.family.setting),
        "raised": [name for name in FLAGS if name in raised],
        "flag_texts": FLAGS,
        "unlooked": [(line.family.label, line.unlooked) for line in lines if line.unlooked],
        "fallen": [(x.family.label, *each) for x in lines for each in sorted(x.family.collapsed.items())],
        "trade": _trade(board, families),
        "external": standings.external(board, found),
        "data": Markup(names.embedded(_data(board, lines))),
    }


def _ensembles(board: Board) -> list[tuple[Markup, str]]:
    """Return labels of columns -> the surrogates on whose mean logits their images were crafted."""
    found = grouped((each for each in board.columns if each.surrogates), lambda each: each.surrogates)
    return [(_unbroken([each.label for each in own]), names.listed(on)) for on, own in found.items()]


def _unbroken(labels: list[str]) -> Markup:
    """Return "a, b and c", each without line breaks; a number if there are many."""
    if len(labels) > 8:
        return Markup(f"all {len(labels)} attacks inside ε")
    return Markup(names.listed([Markup('<span class="nb">{}</span>').format(label) for label in labels]))


def _best(board: Board, decimals: int) -> dict[str, float | None]:
    """Return column key -> the highest shown mean of the ranked rows."""
    best = {}
    for key in (*(column.key for column in board.columns), WORST):
        cells = [row.at(key) for row in board.rows if row.rank]
        best[key] = best_of((cell.figure.mean for cell in cells if cell and cell.figure), decimals)
    return best


def _html(board: Board, line: Line, decimals: int, best: dict[str, float | None], setting: str) -> Markup:
    row, family = line.row, line.family
    natural = [board.natural] if board.natural else []
    attacks = [column for column in board.columns if column != board.natural]
    parts = [
        f'<tr id="{page_id(row.family)}"><td class="r">{markup.rank(row.rank)}</td>',
        f'<th scope="row" class="d"><a href="../defenses/{family.slug}.html">{escape(family.label)}</a>',
        f"<small>{escape(setting)}</small></th>" if setting else "</th>",
        *(markup.table_cell(row.cells.get(c.key), decimals, best.get(c.key)) for c in natural),
        markup.worst_cell(row.worst, row.problem, decimals, best.get(WORST)),
        *(markup.table_cell(row.cells.get(c.key), decimals, best.get(c.key)) for c in attacks),
        f'<td class="n">{len(row.seeds)}</td>',
        f'<td class="t">{markup.flags(line.flags, line.unlooked, family.collapsed)}</td>',
        f'<td class="t state">{escape(line.status)}</td></tr>\n',
    ]
    return Markup("".join(parts))


def _data(board: Board, lines: Sequence[Line]) -> dict[str, Any]:
    """Return what sorting, filtering and the details of a row need."""
    columns = [*((c.key, c.label) for c in board.columns), (WORST, "Worst case")]
    return {
        "columns": [{"key": key, "label": label} for key, label in columns],
        "rows": [
            {
                "label": line.family.label,
                "text": f"{line.family.label} {line.row.defense} {line.family.setting}".casefold(),
                "group": names.defense(line.row.defense).group,
                "seeds": list(line.row.seeds),
                "flags": len(line.flags) + len(line.family.collapsed),
                "status": line.status,
                "means": [
                    round(cell.figure.mean, 6) if (cell := line.row.at(key)) and cell.figure else None
                    for key, _ in columns
                ],
                "cells": [_texts(line.row, line.row.at(key)) for key, _ in columns],
            }
            for line in lines
        ],
    }


def _texts(row: Row, cell: Cell | None) -> list[str]:
    """Return the mean, its interval, and each seed of the row: ERROR if it failed, a dash if it never ran."""
    if cell is None:
        return ["–", ""]
    per_seed = {seed: "ERROR" if v is None else f"{v:.1f}" for seed, v in cell.per_seed.items()}
    mean = markup.plain(cell.figure) if cell.figure else "ERROR" if None in cell.per_seed.values() else "–"
    return [mean, markup.interval(cell), *(per_seed.get(seed, "–") for seed in row.seeds)]


def _trade(board: Board, families: Families) -> Chart | None:
    """Plot natural accuracy against worst case, one mark per ranked row."""
    found = []
    for row in board.rows:
        natural = row.cells.get(board.natural.key) if board.natural else None
        if row.worst and row.worst.figure and natural and natural.figure:
            found.append((natural.figure.mean, row.worst.figure.mean, families[row.family]))
    if len(found) < 3:
        return None
    few = len(found) <= 24
    title = f"Natural against worst-case accuracy, {board.dataset}, {board.threat_model}"
    lowest = min(x for x, _, _ in found)
    points = [(x, y) for x, y, _ in found]
    plot = Plot(
        ident="trade",
        title=title,
        description=f"{len(found)} defenses. Best worst case: {found[0][2].label}, "
        f"{found[0][1]:.1f} % with {found[0][0]:.1f} % on natural images.",
        x=Axis("natural accuracy, %", max(0.0, 5.0 * (lowest // 5) - 5.0), 100.0),
        y=percent_axis("worst case, %"),
        series=[Series("defenses", points, 0, False)] if few else [],
        crowd=[] if few else points,
        names=[(x, y, family.label) for x, y, family in found] if few else [],
    )
    rows = [[family.label, f"{x:.1f}", f"{y:.1f}"] for x, y, family in found]
    note = "Up and to the right is better. A mark per row that has a worst case."
    return Chart(title, note, draw(plot), [], ["defense", "natural, %", "worst case, %"], rows)
