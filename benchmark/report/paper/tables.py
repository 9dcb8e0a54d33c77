"""Fill the tables of a paper from a store: cells, rows, notes, caption and CSV, whichever paper it is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Generic

from robustness_bench.benchmark.data import Located, dataset_named, locate
from robustness_bench.benchmark.errors import DataError
from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.plan.protocol import Protocol, Settings
from robustness_bench.benchmark.report.literature.published import (
    SOURCES,
    Axis,
    Layout,
    Published,
    Source,
    layout,
    printed_name,
    published,
)
from robustness_bench.benchmark.report.paper.cells import AnyLine, Block, Blocks, Cells, PaperCell, blocks_of
from robustness_bench.benchmark.report.rendering.csv import csv_text, number
from robustness_bench.benchmark.report.rendering.table import (
    Cell,
    Column,
    Note,
    Notes,
    Row,
    Table,
    best_of,
    signed,
    spread,
)
from robustness_bench.benchmark.report.rendering.wording import JUDGED, count
from robustness_bench.benchmark.statistics import Interval, MeanStd

Remedy = Callable[[Sequence[PaperCell[Any]]], str]
"""Returns the command line that runs the cells of one gap."""


class Paper(ABC, Generic[AnyLine]):
    """What a paper's tables say in their own way; the rest is the same for every paper."""

    source: ClassVar[Source]
    heading: ClassVar[str]
    """Heading of the rows' labels."""
    columns: ClassVar[tuple[str, ...]]
    """The columns of the CSV."""
    marks_best: ClassVar[bool]
    printed_decimals: ClassVar[int]

    @property
    def numbers(self) -> tuple[str, ...]:
        """The names of the paper's tables."""
        return tuple(dict.fromkeys(each.table for each in published(self.source)))

    @property
    def name(self) -> str:
        """Authors and year."""
        return SOURCES[self.source]

    def layout(self, table: str) -> Layout:
        return layout(table, published(self.source))

    @abstractmethod
    def records(self, out: Path) -> Sequence[Any]:
        """Return all records of a store that the tables can use."""

    @abstractmethod
    def lines(
        self, protocol: Protocol, settings: Settings, located: Located, records: Sequence[Any]
    ) -> list[AnyLine]:
        """Return the lines of the records that belong to one data set's settings."""

    @abstractmethod
    def place(self, line: AnyLine, threat: str) -> tuple[str, str, str] | None:
        """Return the row, column group and column of a line, under their published names; None if none."""

    @abstractmethod
    def measured(
        self, line: AnyLine, column: Axis, block: Block[AnyLine]
    ) -> tuple[MeanStd | None, Interval | None]:
        """Return our number in a column, and its interval."""

    @abstractmethod
    def doubts(self) -> dict[Published, str]:
        """Return published number -> what is odd about it."""

    @abstractmethod
    def obstacle(self, line: AnyLine | None, column: Axis, block: Block[AnyLine]) -> str:
        """Return why our number cannot be compared with the published one; empty if it can."""

    @abstractmethod
    def decimals(self, block: Block[AnyLine]) -> int:
        """Return the number of decimals of our numbers."""

    @abstractmethod
    def row_label(self, row: Axis) -> str:
        """Return a row's label."""

    @abstractmethod
    def column(self, axis: Axis, blocks: Blocks[AnyLine]) -> Column:
        """Return a column's headings."""

    @abstractmethod
    def title(self, shape: Layout, blocks: Blocks[AnyLine]) -> str:
        """Return a table's title."""

    @abstractmethod
    def says(self, shape: Layout, cells: Cells[AnyLine]) -> Iterator[str]:
        """Yield the sentences of a table's caption: what was measured, and how, data set by data set."""

    @abstractmethod
    def departures(self, block: Block[AnyLine]) -> Iterator[str]:
        """Yield how the settings differ from the paper's."""

    @abstractmethod
    def gap(self, cell: PaperCell[AnyLine]) -> str:
        """Return the place, in words, whose missing cells one command runs."""

    @abstractmethod
    def options(self, cells: Cells[AnyLine]) -> dict[str, str]:
        """Return the options of `bench run` that select the cells of one gap."""

    @abstractmethod
    def fields(self, cell: PaperCell[AnyLine]) -> dict[str, str]:
        """Return the paper's own columns of the CSV."""

    def suffix(self, blocks: Blocks[AnyLine]) -> str:
        """Return the end of a table's file name."""
        return ""

    def remarks(self, line: AnyLine) -> tuple[str, ...]:
        """Return remarks on our number."""
        return ()

    def flagged(self, cells: Cells[AnyLine]) -> Iterator[str]:
        """Yield sentences of the caption on signs of hidden gradients."""
        yield from ()

    def notes(self, blocks: Blocks[AnyLine]) -> Iterator[Note]:
        """Yield notes on the whole table."""
        yield from ()

    def notes_on(self, block: Block[AnyLine], beside: bool) -> Iterator[Note]:
        """Yield notes on one data set."""
        yield from ()

    def literature(self, dataset: str) -> Iterator[Note]:
        """Yield notes with other published numbers for a data set of the paper."""
        yield from ()


def read_blocks(
    paper: Paper[AnyLine],
    protocol: Protocol,
    records: Sequence[Any],
    data_dir: Path,
    download: bool = False,
    *,
    needed: bool = True,
) -> list[Block[AnyLine]]:
    """Return a block per data set of the protocol, with the results of its settings.

    Args:
        records: ``paper.records`` of the store.
        needed: whether the images must be present, to know which results belong to them. If False, a
            missing data set has no results, and the block says so.

    Raises:
        DataError: a data set is missing, although it is needed or has results in the store.
        StoreError: records that contradict each other.
    """
    made: list[Block[AnyLine]] = []
    for settings in protocol.settings:
        label, unread, lines = settings.dataset, "", list[AnyLine]()
        try:
            located = locate(settings.dataset, data_dir, download=download, fit=settings.fit)
        except DataError:
            if needed or any(record.spec["dataset"] == settings.dataset for record in records):
                raise
            available = dataset_named(settings.dataset).info.test_images
            unread = f"its images are not in {data_dir} (--data-dir)"
        else:
            label, available = located.label, located.test_images
            lines = paper.lines(protocol, settings, located, records) if records else []
        images = min(settings.n_examples or available, available)
        made.append(
            Block(
                settings=settings, label=label, images=images, available=available, lines=lines, unread=unread
            )
        )
    return made


def cells_of(
    paper: Paper[AnyLine], shape: Layout, blocks: Blocks[AnyLine], *, beside: bool
) -> list[PaperCell[AnyLine]]:
    """Return the cells of a table, data set by data set and row by row.

    Args:
        blocks: of all requested data sets; a table may leave out some (``Layout.shown``).
        beside: whether the published numbers are shown next to ours.
    """
    figures = published(paper.source)
    shown = shape.shown([block.dataset for block in blocks], {each.dataset for each in figures})
    printed = {
        (each.dataset, each.row, each.group, each.column): each
        for each in (figures if beside else ())
        if each.table == shape.table
    }
    doubts = paper.doubts()
    cells = []
    for block in blocks:
        lines = {paper.place(line, shape.threat): line for line in block.lines}
        for row in shape.rows if block.dataset in shown else ():
            for column in shape.columns:
                line = lines.get((row.key, *column))
                ours, interval = paper.measured(line, column, block) if line else (None, None)
                figure = printed.get((block.dataset, row.key, *column))
                cells.append(
                    PaperCell(
                        table=shape.table,
                        threat=shape.threat,
                        row=row,
                        column=column,
                        block=block,
                        line=line,
                        ours=ours,
                        interval=interval,
                        published=figure,
                        doubt=doubts.get(figure, "") if figure else "",
                        obstacle=paper.obstacle(line, column, block) if figure else "",
                    )
                )
    return cells


def paper_table(
    paper: Paper[AnyLine], shape: Layout, cells: Cells[AnyLine], *, seeds: int, beside: bool, remedy: Remedy
) -> Table:
    """Return the finished table.

    Args:
        cells: ``cells_of`` the shape.
        seeds: number of requested seeds; a cell that lacks one is named with its remedy.
    """
    blocks = blocks_of(cells)
    notes = Notes()
    rows = [
        row
        for block in blocks
        for row in _rows(paper, shape, [c for c in cells if c.block is block], len(blocks) > 1, notes, seeds)
    ]
    return Table(
        name=f"table-{shape.table}-{'-'.join(block.label for block in blocks)}{paper.suffix(blocks)}",
        title=paper.title(shape, blocks),
        caption=_caption(paper, shape, cells),
        measure="accuracy",
        heading=paper.heading,
        columns=tuple(paper.column(axis, blocks) for axis in shape.columns),
        rows=tuple(rows),
        notes=(
            *notes.lettered(),
            *_remarks(paper, shape, blocks, beside),
            *_to_run(paper, cells, seeds, remedy),
        ),
        template="paper",
    )


def _rows(
    paper: Paper[AnyLine], shape: Layout, cells: Cells[AnyLine], stacked: bool, notes: Notes, seeds: int
) -> Iterator[Row]:
    """Yield the rows of one data set: ours and, below each, the paper's number and the difference."""
    for row, found in groupby(cells, key=lambda cell: cell.row):
        line = list(found)
        group = [cell for cell in cells if cell.row.group == row.group]
        block = line[0].block
        heading, decimals = block.label if stacked else "", paper.decimals(block)
        ours = tuple(_ours(paper, shape, cell, group, decimals, notes, seeds) for cell in line)
        yield Row(group=row.group, label=paper.row_label(row), cells=ours, block=heading)
        if any(cell.published for cell in line):
            printed = tuple(_printed(paper, cell, group, notes) for cell in line)
            yield Row(group=row.group, label="published", cells=printed, block=heading, minor=True)
        if any(cell.difference is not None for cell in line):
            compared = tuple(_compared(cell, decimals, notes) for cell in line)
            yield Row(group=row.group, label="difference", cells=compared, block=heading, minor=True)


def _ours(
    paper: Paper[AnyLine],
    shape: Layout,
    cell: PaperCell[AnyLine],
    group: Cells[AnyLine],
    decimals: int,
    notes: Notes,
    seeds: int,
) -> Cell:
    """Return our cell; a mean over fewer seeds than requested is marked, and never the best."""
    if cell.failure:
        return Cell(text="ERROR", error=cell.failure, marks=notes.marks(f"failed: {cell.failure}"))
    if cell.ours is None or cell.line is None:
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
        best=paper.marks_best
        and not lacking
        and round(cell.ours.mean, decimals) == best_of(rivals, decimals),
        marks=notes.marks(partial, *paper.remarks(cell.line)),
    )


def _printed(paper: Paper[AnyLine], cell: PaperCell[AnyLine], group: Cells[AnyLine], notes: Notes) -> Cell:
    figure, decimals = cell.published, paper.printed_decimals
    if figure is None:
        return Cell(text="")
    rivals = [each.published.mean for each in group if each.column == cell.column and each.published]
    return Cell(
        text=spread(figure.mean, figure.std, decimals),
        best=paper.marks_best and round(figure.mean, decimals) == best_of(rivals, decimals),
        marks=notes.marks(cell.doubt, cell.obstacle),
    )


def _compared(cell: PaperCell[AnyLine], decimals: int, notes: Notes) -> Cell:
    """Return the difference, with ≈ or ≠ if it can be judged."""
    if cell.difference is None:
        return Cell(text="")
    sign = {True: " ≈", False: " ≠", None: ""}[cell.inside]
    return Cell(text=signed(cell.difference, decimals) + sign, marks=notes.marks(cell.obstacle))


def _caption(paper: Paper[AnyLine], shape: Layout, cells: Cells[AnyLine]) -> str:
    """Return what the table shows, how it was made, and how it is judged."""
    parts = [*paper.says(shape, cells)]
    if any(cell.published for cell in cells):
        parts.append("Published: the paper's figure.")
    if any(cell.difference is not None for cell in cells):
        parts.append(JUDGED)
    if any(cell.line is None for cell in cells):
        parts.append("Blank: not run.")
    return " ".join([*parts, *paper.flagged(cells)])


def _remarks(paper: Paper[AnyLine], shape: Layout, blocks: Blocks[AnyLine], beside: bool) -> Iterator[Note]:
    """Yield notes on the table and on each data set: what was not read, what differs from the paper."""
    yield from paper.notes(blocks)
    for block in blocks:
        if block.unread:
            yield Note(text=f"{block.label}: no results were looked for: {block.unread}.")
        yield from paper.notes_on(block, beside)
        if beside:
            yield from _against(paper, shape, block)


def _against(paper: Paper[AnyLine], shape: Layout, block: Block[AnyLine]) -> Iterator[Note]:
    tables = {figure.table for figure in published(paper.source) if figure.dataset == block.dataset}
    if not tables:
        yield Note(text=f"The paper has no figures for {block.label}.")
        return
    theirs = printed_name(block.dataset)
    if shape.table not in tables:
        yield Note(text=f"The paper has {theirs} elsewhere, not in this table.")
        return
    if block.label != block.dataset:
        yield Note(
            text=f"{block.label} was read in the place of {block.dataset}; the published figures are for "
            f"{theirs} itself."
        )
    if block.lines and (others := list(paper.departures(block))):
        yield Note(text=f"{block.label} departs from the paper's setting: {', '.join(others)}.")
    yield from paper.literature(block.dataset)


def gaps(paper: Paper[AnyLine], cells: Cells[AnyLine], seeds: int) -> list[list[PaperCell[AnyLine]]]:
    """Return the cells that lack one of the first ``seeds`` seeds, a group per command that runs them."""
    return list(grouped((cell for cell in cells if cell.lacking(seeds)), paper.gap).values())


def _to_run(paper: Paper[AnyLine], cells: Cells[AnyLine], seeds: int, remedy: Remedy) -> Iterator[Note]:
    what = "a result" if seeds == 1 else f"one or more of the {seeds} seeds asked for"
    for short in gaps(paper, cells, seeds):
        lack = f"{count(len(short), 'cell')} {'lacks' if len(short) == 1 else 'lack'}"
        yield Note(
            text=f"{paper.gap(short[0])}: {lack} {what}. This runs what is missing:", command=remedy(short)
        )


def to_csv(paper: Paper[AnyLine], cells: Cells[AnyLine]) -> str:
    """Return the cells as CSV text with a header; the same cells give the same bytes."""
    rows = ({**_fields(paper, cell), **paper.fields(cell)} for cell in cells)
    return csv_text(paper.columns, ([row[name] for name in paper.columns] for row in rows))


def _fields(paper: Paper[AnyLine], cell: PaperCell[AnyLine]) -> dict[str, str]:
    """Return the columns that the CSV of every paper can have."""
    line, ours, printed = cell.line, cell.ours, cell.published
    low, high = cell.interval or (None, None)
    remarks = paper.remarks(line) if line else (cell.block.unread or "not run",)
    return {
        "table": cell.table,
        "dataset": cell.block.label,
        "mean": "ERROR" if cell.failure else number(ours.mean if ours else None),
        "std": number(ours.std if ours else None),
        "seeds": str(len(line.per_seed) if line else 0),
        "low": number(low),
        "high": number(high),
        "published_mean": number(printed.mean if printed else None),
        "published_std": number(printed.std if printed else None),
        "difference": number(cell.difference),
        "inside": {True: "yes", False: "no", None: ""}[cell.inside],
        "note": "; ".join(filter(None, [cell.failure, cell.doubt, cell.obstacle, *remarks])),
    }
