"""A table is a finished value: sorting, rounding and "best" are decided here, before any rendering."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure as it is shown."""

    text: str
    best: bool = False
    error: str = ""
    """Why there is no figure, where the text is ERROR."""
    marks: tuple[str, ...] = ()
    """Of the notes that belong to it."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """What stands below a table: about the cells with its mark, or without a mark about all of it."""

    mark: str = ""
    text: str
    command: str = ""
    """A command line that ends the note."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A figure's heading, under the heading of its group (a norm)."""

    group: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One defense; rows of different groups are ruled off."""

    group: str
    label: str
    cells: tuple[Cell, ...]
    block: str = ""
    """Heading over this row and those after it, where a table stacks several data sets."""
    minor: bool = False
    """Whether it belongs to the row above, and is set smaller."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Everything a renderer needs, and nothing it has to decide."""

    name: str
    title: str
    caption: str
    measure: Literal["accuracy", "cost", "mi"]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[Note, ...] = ()
    template: Literal["table", "paper"] = "table"
    """Which of the templates sets it in HTML and LaTeX."""

    def groups(self) -> list[tuple[str, int]]:
        """Column groups in order, with their widths."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans
