"""A figure that is ready to draw, and how its files are written."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
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
    """Write the files, and print the numbers and the files' paths."""
    files = {"csv": figure.csv.encode(), **{name: figure.draw(name, columns) for name in formats}}
    paths = write_files(folder / figure.name, files, figure.table)
    for note in figure.notes:
        print(f"  {note}")
    print(paths)


def write_files(stem: Path, files: Mapping[str, bytes], table: "Table") -> str:
    """Write files, suffix -> content, atomically, print a table, and return the files' paths."""
    from robustness_bench.benchmark.files import write_atomic
    from robustness_bench.benchmark.report.rendering.formats import to_text

    paths = {stem.with_name(f"{stem.name}.{suffix}"): content for suffix, content in files.items()}
    for path, content in paths.items():
        write_atomic(path, content)
    head, _, rows = to_text(table).partition("\n\n")
    print("\n".join(textwrap.fill(line, 100) for line in head.splitlines()), end=f"\n\n{rows}")
    return ", ".join(map(str, paths))
