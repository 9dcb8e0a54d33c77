"""A table as a finished value: sorting, rounding and "best" are decided before rendering."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from string import ascii_lowercase
from typing import Literal

Measure = Literal["accuracy", "cost", "mi", "detection"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number as it is shown."""

    text: str
    best: bool = False
    error: str = ""
    """Why there is no number, if the text is ERROR."""
    marks: tuple[str, ...] = ()
    """The marks of its notes."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """A note below a table: on the cells with its mark or, without a mark, on the whole table."""

    mark: str = ""
    text: str
    command: str = ""
    """A command line that ends the note."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column's heading, below the heading of its group (a norm, a detector)."""

    group: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One defense, or one item of the kind that the heading names; a rule separates groups of rows."""

    group: str
    label: str
    cells: tuple[Cell, ...]
    block: str = ""
    """Heading above this row and those after it, if a table stacks several data sets."""
    minor: bool = False
    """Whether it belongs to the row above and is set smaller."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Everything a renderer needs; it decides nothing itself."""

    name: str
    title: str
    caption: str
    measure: Measure
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[Note, ...] = ()
    template: Literal["table", "paper"] = "table"
    """The template for HTML and LaTeX."""
    heading: str = "Defense"
    """Heading of the rows' labels."""

    def groups(self) -> list[tuple[str, int]]:
        """Return the column groups in order, with their widths."""
        groups = groupby(column.group for column in self.columns)
        return [(group, len(list(columns))) for group, columns in groups]

    def ruled(self) -> Iterator[tuple[Row, bool, bool]]:
        """Yield each row, whether a rule separates it from the row above, and whether it opens a block."""
        for above, row in pairwise([None, *self.rows]):
            assert row is not None
            ruled = above is not None and (row.block, row.group) != (above.block, above.group)
            yield row, ruled, bool(row.block) and (above is None or row.block != above.block)


def plain_table(
    *,
    name: str,
    title: str,
    caption: str,
    measure: Measure,
    heads: Iterable[tuple[str, str]],
    rows: Iterable[tuple[str, Sequence[str]]],
) -> Table:
    """Return a table of texts without groups of rows.

    Args:
        heads: of each column, its group and its label.
        rows: of each, its label and its texts.
    """
    return Table(
        name=name,
        title=title,
        caption=caption,
        measure=measure,
        columns=tuple(Column(group=group, label=label) for group, label in heads),
        rows=tuple(
            Row(group="", label=label, cells=tuple(Cell(text=text) for text in texts))
            for label, texts in rows
        ),
    )


class Notes:
    """Notes with letters in the order in which a table first uses them; equal texts share one."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def marks(self, *texts: str) -> tuple[str, ...]:
        """Return the letters of the notes that are not empty."""
        return tuple(self._marks.setdefault(text, _letter(len(self._marks))) for text in texts if text)

    def lettered(self) -> Iterator[Note]:
        """Yield the notes themselves."""
        yield from (Note(mark=mark, text=text) for text, mark in self._marks.items())


def _letter(number: int) -> str:
    """Return the letter: 0 → a, 25 → z, 26 → aa."""
    more, last = divmod(number, 26)
    return (_letter(more - 1) if more else "") + ascii_lowercase[last]


def spread(mean: float, std: float | None, decimals: int) -> str:
    """Format a mean, with its standard deviation if there is one."""
    return f"{mean:.{decimals}f}" + ("" if std is None else f" ± {std:.{decimals}f}")


def best_of(means: Iterable[float], decimals: int) -> float | None:
    """Return the highest number as shown; None if all are equal, so that none is the best."""
    shown = {round(mean, decimals) for mean in means}
    return max(shown) if len(shown) > 1 else None


def signed(points: float, decimals: int) -> str:
    """Format a difference; one that rounds to zero has no sign."""
    text = f"{points:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")
