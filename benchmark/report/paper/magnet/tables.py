"""Tables 1 and 2 of Hsu et al. 2018 from the results of a store, in the layout of the paper."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from robustness_bench.benchmark.report.detectors.names import system_label
from robustness_bench.benchmark.report.literature.layout import Layout, layout
from robustness_bench.benchmark.report.literature.published import published
from robustness_bench.benchmark.report.paper.magnet.captions import caption, remarks, title
from robustness_bench.benchmark.report.paper.magnet.cells import MagnetBlock, MagnetCell, magnet_cells
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
from robustness_bench.benchmark.report.rendering.wording import count

NUMBERS = tuple(dict.fromkeys(each.table for each in published("magnet")))
Remedy = Callable[[Sequence[MagnetCell]], str]
"""Returns the command line that runs cells of one data set."""


def magnet_layout(table: str) -> Layout:
    """Return the layout of magnet-1 or magnet-2."""
    return layout(table, published("magnet"))


def shown(shape: Layout, datasets: Sequence[str]) -> list[str]:
    """Return which of the requested data sets the table shows."""
    return shape.shown(datasets, {each.dataset for each in published("magnet")})


def cells_of(shape: Layout, blocks: Sequence[MagnetBlock], *, beside: bool) -> list[MagnetCell]:
    """Return the cells of a table, data set by data set.

    Args:
        blocks: of all requested data sets; a table may leave out some.
        beside: whether the published numbers are shown next to ours.
    """
    names = shown(shape, [block.dataset for block in blocks])
    figures = published("magnet") if beside else ()
    return [
        cell for block in blocks if block.dataset in names for cell in magnet_cells(shape, block, figures)
    ]


def magnet_table(
    shape: Layout, cells: Sequence[MagnetCell], *, seeds: int, beside: bool, remedy: Remedy
) -> Table:
    """Return the finished table.

    Args:
        cells: ``cells_of`` the shape.
        seeds: number of requested seeds; a cell that lacks one is named with its remedy.
    """
    blocks = list({cell.block.label: cell.block for cell in cells}.values())
    notes = Notes()
    rows = [row for block in blocks for row in _rows(block, cells, len(blocks) > 1, notes, seeds)]
    return Table(
        name=f"table-{shape.table}-{'-'.join(block.label for block in blocks)}",
        title=title(shape, blocks),
        caption=caption(shape, cells, blocks),
        measure="accuracy",
        heading="κ",
        columns=tuple(Column(group=system_label(a.group), label=a.key.upper()) for a in shape.columns),
        rows=tuple(rows),
        notes=(*notes.lettered(), *remarks(shape, blocks, beside=beside), *_to_run(cells, seeds, remedy)),
        template="paper",
    )


def _rows(
    block: MagnetBlock, cells: Sequence[MagnetCell], stacked: bool, notes: Notes, seeds: int
) -> Iterator[Row]:
    """Yield a row per κ and, below it, the paper's number and the difference."""
    heading = block.label if stacked else ""
    for kappa, found in groupby((cell for cell in cells if cell.block is block), key=lambda cell: cell.row):
        line = list(found)
        ours = tuple(_ours(cell, notes, seeds) for cell in line)
        yield Row(group="", label=kappa, cells=ours, block=heading)
        if any(cell.published for cell in line):
            printed = tuple(_printed(cell, notes) for cell in line)
            yield Row(group="", label="published", cells=printed, block=heading, minor=True)
        if any(cell.difference is not None for cell in line):
            compared = tuple(_compared(cell, notes) for cell in line)
            yield Row(group="", label="difference", cells=compared, block=heading, minor=True)


def _ours(cell: MagnetCell, notes: Notes, seeds: int) -> Cell:
    """Return our cell; a mean over fewer seeds than requested is marked."""
    if cell.failure:
        return Cell(text="ERROR", error=cell.failure, marks=notes.marks(f"failed: {cell.failure}"))
    if cell.ours is None or cell.line is None:
        return Cell(text="")
    partial = f"mean over {cell.ours.n} of the {seeds} seeds asked for" if cell.lacking(seeds) else ""
    text = spread(cell.ours.mean, cell.ours.std, 1)
    return Cell(text=text, marks=notes.marks(partial, *cell.line.remarks))


def _printed(cell: MagnetCell, notes: Notes) -> Cell:
    if cell.published is None:
        return Cell(text="")
    return Cell(text=f"{cell.published.mean:.1f}", marks=notes.marks(cell.doubt, cell.obstacle))


def _compared(cell: MagnetCell, notes: Notes) -> Cell:
    """Return the difference, with ≈ or ≠ if it can be judged."""
    if cell.difference is None:
        return Cell(text="")
    sign = {True: " ≈", False: " ≠", None: ""}[cell.inside]
    return Cell(text=signed(cell.difference, 1) + sign, marks=notes.marks(cell.obstacle))


def gaps(cells: Sequence[MagnetCell], seeds: int) -> list[list[MagnetCell]]:
    """Return the cells that lack one of the first ``seeds`` seeds, data set by data set."""
    short: dict[str, list[MagnetCell]] = {}
    for cell in cells:
        if cell.lacking(seeds):
            short.setdefault(cell.block.label, []).append(cell)
    return list(short.values())


def _to_run(cells: Sequence[MagnetCell], seeds: int, remedy: Remedy) -> Iterator[Note]:
    what = "a result" if seeds == 1 else f"one or more of the {seeds} seeds asked for"
    for short in gaps(cells, seeds):
        lack = f"{count(len(short), 'cell')} {'lacks' if len(short) == 1 else 'lack'}"
        yield Note(
            text=f"{short[0].block.label}: {lack} {what}. This runs what is missing:", command=remedy(short)
        )
