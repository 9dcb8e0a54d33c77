"""A figure that is ready to draw, and how its files are written."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from robustness_bench.benchmark.report.rendering.table import Table


class Drawable(NamedTuple):
    """What all figures have in common.

    Attributes:
        name: file name without extension.
        table: its numbers, for the terminal.
        draw: (format, columns of a page) -> the bytes of a file.
    """

    name: str
    csv: str
    table: "Table"
    notes: Sequence[str]
    draw: Callable[[str, int], bytes]


def write(figure: Drawable, folder: Path, formats: Sequence[str], columns: int) -> None:
    """Write the files atomically, and print the numbers and the files' paths."""
    from robustness_bench.benchmark.files import write_atomic
    from robustness_bench.benchmark.report.rendering.formats import to_text

    files = {"csv": figure.csv.encode(), **{name: figure.draw(name, columns) for name in formats}}
    for suffix, content in files.items():
        write_atomic(folder / f"{figure.name}.{suffix}", content)
    head, _, rows = to_text(figure.table).partition("\n\n")
    print("\n".join(textwrap.fill(line, 100) for line in head.splitlines()), end=f"\n\n{rows}")
    for note in figure.notes:
        print(f"  {note}")
    print(", ".join(str(folder / f"{figure.name}.{suffix}") for suffix in files))
