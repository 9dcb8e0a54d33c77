"""A table is a finished value: sorting, rounding and "best" are decided here, before any rendering."""

from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_lowercase
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
    """A figure's heading, under the heading of its group (a norm, a detector)."""

    group: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One defense, or one of what the heading says; rows of different groups are ruled off."""

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
    measure: Literal["accuracy", "cost", "mi", "detection"]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[Note, ...] = ()
    template: Literal["table", "paper"] = "table"
    """Which of the templates sets it in HTML and LaTeX."""
    heading: str = "Defense"
    """Over the rows' labels."""

    def groups(self) -> list[tuple[str, int]]:
        """Column groups in order, with their widths."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans


class Notes:
    """Letters in the order in which a table first needs them; equal texts share one."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def marks(self, *texts: str) -> tuple[str, ...]:
        """The letters of those notes that are not empty."""
        return tuple(self._marks.setdefault(text, _letter(len(self._marks))) for text in texts if text)

    def lettered(self) -> Iterator[Note]:
        """The notes themselves."""
        yield from (Note(mark=mark, text=text) for text, mark in self._marks.items())


def _letter(number: int) -> str:
    """0 → a, 25 → z, 26 → aa."""
    more, last = divmod(number, 26)
    return (_letter(more - 1) if more else "") + ascii_lowercase[last]


def spread(mean: float, std: float | None, decimals: int) -> str:
    """A mean, and its standard deviation where there is one."""
    return f"{mean:.{decimals}f}" + ("" if std is None else f" ± {std:.{decimals}f}")


def signed(points: float, decimals: int) -> str:
    """A difference; one that rounds to zero has no sign."""
    text = f"{points:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")
