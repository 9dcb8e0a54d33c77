"""Tables 1 to 6 of Zhou et al. 2022 from the results of a store, in the layout of the paper."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.report.literature.layout import Layout, layout
from robustness_bench.benchmark.report.literature.published import published
from robustness_bench.benchmark.report.paper.namid.captions import caption, remarks, title
from robustness_bench.benchmark.report.paper.namid.cells import Block, PaperCell, minimum_norm, paper_cells
from robustness_bench.benchmark.report.rendering.table import (
    Cell,
    Column,
    Note,
    Notes,
    Row,
    Table,
    signed,
    spread,
)
from robustness_bench.benchmark.report.rendering.wording import NORM_SYMBOLS, budget, count
from robustness_bench.defenses.registry import defense_presets

NUMBERS = tuple(dict.fromkeys(each.table for each in published("namid")))
Remedy = Callable[[Sequence[PaperCell]], str]
"""Returns the command line that runs cells of one data set and norm."""


def paper_layout(number: str) -> Layout:
    """Return the layout of Table 1 … 6."""
    groups = {name: preset.group for name, preset in defense_presets().items()}
    return layout(number, published("namid"), groups)


def cells_of(shape: Layout, blocks: Sequence[Block], *, beside: bool) -> list[PaperCell]:
    """Return the cells of a table, data set by data set.

    Args:
        blocks: of all requested data sets; a table may leave out some (``Layout.shown``).
        beside: whether the published numbers are shown next to ours.
    """
    figures = published("namid")
    shown = shape.shown([block.settings.dataset for block in blocks], {each.dataset for each in figures})
    return [
        cell
        for block in blocks
        if block.settings.dataset in shown
        for cell in paper_cells(shape, block, figures if beside else ())
    ]


def paper_table(
    shape: Layout, cells: Sequence[PaperCell], *, seeds: int, beside: bool, remedy: Remedy
) -> Table:
    """Return the finished table.

    Args:
        cells: ``cells_of`` the shape.
        seeds: number of requested seeds; a cell that lacks one is named with its remedy.
    """
    blocks = list({cell.block.label: cell.block for cell in cells}.values())
    notes = Notes()
    rows = [
        row for block in blocks for row in _block_rows(shape, block, cells, len(blocks) > 1, notes, seeds)
    ]
    return Table(
        name=_name(shape, blocks),
        title=title(shape, blocks),
        caption=caption(shape, cells, blocks),
        measure="accuracy",
        columns=_columns(shape, blocks),
        rows=tuple(rows),
        notes=(*notes.lettered(), *remarks(shape, blocks, beside=beside), *_to_run(cells, seeds, remedy)),
        template="paper",
    )


def _name(shape: Layout, blocks: Sequence[Block]) -> str:
    """Return the name of the files; the default set has no suffix."""
    labels = "-".join(block.label for block in blocks)
    sets = dict.fromkeys(block.settings.attack_set for block in blocks)
    return f"table-{shape.table}-{labels}" + "".join(f"-{each}" for each in sets if each != "strict")


def _columns(shape: Layout, blocks: Sequence[Block]) -> tuple[Column, ...]:
    return tuple(
        Column(group=_norm(axis.group, blocks), label=_attack(axis.key, blocks)) for axis in shape.columns
    )


def _norm(norm: str, blocks: Sequence[Block]) -> str:
    """Return the norm, with ε if all data sets share it (the caption has it anyway)."""
    budgets = {budget(block.settings.eps[norm]) for block in blocks}
    symbol = NORM_SYMBOLS[norm]
    return f"{symbol} (ε = {budgets.pop()})" if len(budgets) == 1 else symbol


def _attack(name: str, blocks: Sequence[Block]) -> str:
    label = attack_presets("paper")[name].label
    sets = {block.settings.attack_set for block in blocks}
    if not minimum_norm(name) or len(sets) > 1:
        return label
    return f"{label} any" if sets == {"paper"} else f"{label} ≤ε"


def _block_rows(
    shape: Layout, block: Block, cells: Sequence[PaperCell], stacked: bool, notes: Notes, seeds: int
) -> Iterator[Row]:
    """Yield a row per defense and, below it, the paper's number and the difference."""
    own = [cell for cell in cells if cell.block is block]
    decimals = 2 if block.images >= 1000 else 1
    heading = block.label if stacked else ""
    for row, found in groupby(own, key=lambda cell: cell.row):
        line = list(found)
        group = [cell for cell in own if cell.row.group == row.group]
        label = defense_presets()[row.key].label
        ours = [_ours(shape, cell, group, decimals, notes, seeds) for cell in line]
        yield Row(group=row.group, label=label, cells=tuple(ours), block=heading)
        if any(cell.published for cell in line):
            printed = tuple(_printed(shape, cell, group, notes) for cell in line)
            yield Row(group=row.group, label="published", cells=printed, block=heading, minor=True)
        if any(cell.difference is not None for cell in line):
            compared = tuple(_compared(cell, decimals, notes) for cell in line)
            yield Row(group=row.group, label="difference", cells=compared, block=heading, minor=True)


def _ours(
    shape: Layout, cell: PaperCell, group: Sequence[PaperCell], decimals: int, notes: Notes, seeds: int
) -> Cell:
    """Return our cell; a mean over fewer seeds than requested is marked, and never the best."""
    if cell.failure:
        return Cell(text="ERROR", error=cell.failure, marks=notes.marks(f"failed: {cell.failure}"))
    if cell.ours is None:
        return Cell(text="")
    lacking = cell.lacking(seeds)
    rivals = [
        each.ours.mean
        for each in group
        if each.column == cell.column and each.ours and not each.lacking(seeds)
    ]
    partial = f"mean over {cell.ours.n} of the {seeds} seeds asked for" if lacking else ""
    return Cell(
        text=spread(cell.ours.mean, cell.ours.std if shape.spread else None, decimals),
        best=not lacking and _is_best(cell.ours.mean, rivals, decimals),
        marks=notes.marks(partial),
    )


def _printed(shape: Layout, cell: PaperCell, group: Sequence[PaperCell], notes: Notes) -> Cell:
    figure = cell.published
    if figure is None:
        return Cell(text="")
    rivals = [each.published.mean for each in group if each.column == cell.column and each.published]
    return Cell(
        text=spread(figure.mean, figure.std, 2),
        best=_is_best(figure.mean, rivals, 2),
        marks=notes.marks(cell.doubt, cell.obstacle),
    )


def _compared(cell: PaperCell, decimals: int, notes: Notes) -> Cell:
    """Return the difference, with ≈ or ≠ if it can be judged."""
    if cell.difference is None:
        return Cell(text="")
    sign = {True: " ≈", False: " ≠", None: ""}[cell.inside]
    return Cell(text=signed(cell.difference, decimals) + sign, marks=notes.marks(cell.obstacle))


def _is_best(mean: float, rivals: Sequence[float], decimals: int) -> bool:
    """Return whether a number is the highest of its group as shown, and the group is not all equal."""
    shown = {round(rival, decimals) for rival in rivals}
    return len(shown) > 1 and round(mean, decimals) == max(shown)


def gaps(cells: Sequence[PaperCell], seeds: int) -> list[list[PaperCell]]:
    """Return the cells that lack one of the first ``seeds`` seeds, grouped by data set and norm."""
    short: dict[tuple[str, str], list[PaperCell]] = {}
    for cell in cells:
        if cell.lacking(seeds):
            short.setdefault((cell.block.label, cell.column.group), []).append(cell)
    return list(short.values())


def _to_run(cells: Sequence[PaperCell], seeds: int, remedy: Remedy) -> Iterator[Note]:
    what = "a result" if seeds == 1 else f"one or more of the {seeds} seeds asked for"
    for short in gaps(cells, seeds):
        label, norm = short[0].block.label, NORM_SYMBOLS[short[0].column.group]
        lack = f"{count(len(short), 'cell')} {'lacks' if len(short) == 1 else 'lack'}"
        yield Note(
            text=f"{label}, {norm}: {lack} {what}. This runs what is missing:",
            command=remedy(short),
        )
