"""Images in batches, with finished rows kept in files: a killed task goes on, shards are joined."""

import io
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustness_bench.benchmark.batching import pieces
from robustness_bench.benchmark.context import Advance, Context
from robustness_bench.benchmark.files import AGAIN, reading, write_atomic

KEEP_EVERY = 30.0  # seconds between two states kept for resuming
COUNTED = "forwards"
"""A column that has every row; others may lack the later ones."""
_SPENT = "seconds_spent"
"""A column of files of finished rows: seconds that each took, its share of its batch."""
Columns = dict[str, NDArray[Any]]


class Batched(NamedTuple):
    """The rows of a task.

    Attributes:
        before: seconds that those took which were found in files.
    """

    columns: Columns
    before: float


def in_batches(
    n: int,
    context: Context,
    advance: Advance,
    work: Callable[[slice], Columns],
    partial: Path,
    shard: slice | None = None,
) -> Batched:
    """Run ``work`` on rows 0 … n-1, batch by batch, and save finished batches at intervals.

    Rows that are in a file from before are not done again, whichever shard they were part of. A column may
    have fewer rows than its batch. The batches are those of `pieces`.

    Args:
        partial: where rows are saved; those of a shard beside it.
        shard: only these rows, which are all saved at the end.

    Raises:
        StoreError: a file of finished rows is damaged.
    """
    first, last = (shard.start, shard.stop) if shard else (0, n)
    file = partial.with_suffix(f".{first}-{last}{partial.suffix}") if shard else partial
    done, start = _found(partial, first, last)
    before = float(done[_SPENT].sum()) if done else 0.0
    kept = clock = time.monotonic()

    def save() -> None:
        buffer = io.BytesIO()
        np.savez(buffer, **done)  # type: ignore[arg-type]
        write_atomic(file, buffer.getvalue())

    advance(start - first, last - first, "images")
    for rows, part in pieces(last, context, work, start):
        spent, clock = time.monotonic() - clock, time.monotonic()
        n = rows.stop - rows.start
        done = _joined(done, {**part, _SPENT: np.full(n, spent / n)})
        advance(rows.stop - first, last - first, "images")
        if time.monotonic() - kept > KEEP_EVERY and rows.stop < last:
            save()
            kept = time.monotonic()
    if shard:
        save()
    done.pop(_SPENT, None)
    return Batched(done, before)


def forget(partial: Path) -> None:
    """Delete the files of finished rows, once a task has its result."""
    for _, file in _files(partial):
        file.unlink()


def _found(partial: Path, first: int, last: int) -> tuple[Columns, int]:
    """Return finished rows from ``first`` on, up to ``last`` at most, and the row that they end before."""
    done: Columns = {}
    position = first
    for start, file in _files(partial):
        if start > position:
            break
        with reading(file, AGAIN, EOFError, zipfile.BadZipFile), np.load(file) as found:
            columns = dict(found)
            columns.setdefault(_SPENT, np.zeros(len(columns[COUNTED])))  # of a file from before the column
            stop = min(start + len(columns[COUNTED]), last)
        if stop > position:
            rows = slice(position - start, stop - start)
            done = _joined(done, {name: column[rows] for name, column in columns.items()})
            position = stop
    return done, position


def _files(partial: Path) -> Iterator[tuple[int, Path]]:
    """Yield the first row and the path of each file of finished rows, in the order of the rows."""
    shards = re.compile(rf"{re.escape(partial.stem)}\.(\d+)-\d+{re.escape(partial.suffix)}")
    found = [(0, partial)] if partial.is_file() else []
    if partial.parent.is_dir():
        names = [(shards.fullmatch(path.name), path) for path in partial.parent.iterdir()]
        found += [(int(match[1]), path) for match, path in names if match]
    yield from sorted(found)


def _joined(done: Columns, part: Columns) -> Columns:
    return {name: np.concatenate([done[name], part[name]]) for name in part} if done else part
