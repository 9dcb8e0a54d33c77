"""How tables are kept: Parquet with two metadata: a story, JSON that says what they are, and a hash."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robustness_bench.benchmark.files import AGAIN, check_format, reading, write_atomic
from robustness_bench.benchmark.plan.tasks import Task

_KEY = b"bench"
# Parquet's own checksums are of the values alone: a bit of the footer may turn a number of the story into
# another one, or floats into texts. The hash is of the whole file's bytes, with zeros in its own place.
_HASH, _UNKNOWN = b"bench-sha256", b"0" * 64
Story = dict[str, Any]
Rows = dict[str, NDArray[Any]]
Columns = Callable[[Story], Sequence[str]]
Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A table and its story, as read back.

    Attributes:
        family: what it has in common with the same measurement of other seeds.
        spec: all that decides the result (the task's spec).
        environment: versions, hardware, command; never part of an id.
        rows: column name -> (n,) array.
    """

    id: str
    family: str
    seed: int
    spec: dict[str, Any]
    environment: dict[str, Any]
    seconds: float
    rows: Rows


@dataclass(frozen=True, kw_only=True)
class CellMeasurement(Measurement):
    """The same of a cell; one that failed has its traceback as ``error``, and no rows."""

    status: Literal["ok", "error"]
    error: str


def story_of(task: Task, current: int, environment: dict[str, Any], seconds: float) -> Story:
    """Return what every table says of itself; ``current`` is its format."""
    return {
        "format": current,
        "id": task.id,
        "family": task.family,
        "seed": task.seed,
        "spec": task.spec,
        "environment": environment,
        "seconds": seconds,
    }


def find_tables(out: Path, folder: str) -> list[Path]:
    """Return all tables in a folder of a store, in a fixed order; unfinished ones are not among them."""
    return sorted(path for path in out.glob(f"{folder}/**/*.parquet") if not path.name.startswith("."))


class Kept(NamedTuple):
    """A table as it was read."""

    story: Story
    table: pa.Table


def write_table(
    path: Path, columns: Mapping[str, pa.Array], story: Story, *, dictionary: bool = True
) -> None:
    """Write a table, atomically; equal columns and stories give equal bytes.

    Args:
        story: JSON, with its "format".
        dictionary: whether equal values are stored once; False for images, which hardly repeat.
    """
    described = {_KEY: json.dumps(story).encode(), _HASH: _UNKNOWN}
    table = pa.table(dict(columns)).replace_schema_metadata(described)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=dictionary, write_page_checksum=True)
    content = buffer.getvalue()
    place = content.index(_UNKNOWN, content.rindex(_HASH))
    write_atomic(path, content[:place] + _hash(content) + content[place + len(_UNKNOWN) :])


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _check_hash(content: bytes, described: Mapping[bytes, bytes]) -> None:
    """Raise ValueError if any byte is another one than was written; tables of before 2026-12 have no hash."""
    found = described.get(_HASH)
    if found is not None and found != _hash(content.replace(found, _UNKNOWN, 1)):
        raise ValueError("its bytes are not those that were written")


def typed(rows: Mapping[str, NDArray[Any]], kinds: Mapping[str, pa.DataType]) -> dict[str, pa.Array]:
    """Return the columns named in ``kinds``, cast to their types; those that are missing are empty."""
    empty: NDArray[Any] = np.empty(0)
    return {name: pa.array(rows.get(name, empty)).cast(kind) for name, kind in kinds.items()}


def read_table(
    path: Path,
    current: int,
    *,
    columns: Columns | None = None,
    optional: Sequence[str] = (),
    remedy: str = AGAIN,
) -> Kept:
    """Read and verify a table; its story comes without "format".

    Args:
        current: the format that this version reads.
        columns: story -> the columns to read; all unless given.
        optional: more columns to read, where the table has them.

    Raises:
        StoreError: absent, truncated, altered, or of another format; the message names the file.
    """
    with reading(path, remedy, pa.ArrowException):
        # Not pq.read_table: it takes six times as long for a small file, and infers columns from folders.
        content = path.read_bytes()
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        _check_hash(content, file.metadata.metadata)
        story = json.loads(file.metadata.metadata[_KEY])
        check_format(path, story.pop("format"), current)
        wanted = list(columns(story)) if columns else None
        there = [name for name in optional if name in file.schema_arrow.names]
        table = file.read(columns=[*wanted, *there] if wanted else None, use_threads=False)
        if wanted and (lacking := set(wanted) - set(table.column_names)):
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
        return Kept(story, table)


def read_story(path: Path) -> Story:
    """Read only what a table says of itself; StoreError, which names the file, if absent or truncated."""
    with reading(path, AGAIN, pa.ArrowException):
        story: Story = json.loads(pq.read_metadata(path).metadata[_KEY])
        return story


def read_as(
    make: Callable[..., Record],
    path: Path,
    current: int,
    *,
    columns: Columns | None = None,
    optional: Sequence[str] = (),
) -> Record:
    """``make`` of a table's story and of its ``rows``, column name -> (n,) array; else as `read_table`."""
    story, table = read_table(path, current, columns=columns, optional=optional)
    with reading(path, AGAIN, pa.ArrowException):
        return make(rows={name: array_of(table, name) for name in table.column_names}, **story)


def array_of(table: pa.Table, name: str) -> NDArray[Any]:
    """Return a column as (n,) array; numbers and truth values have their own type unless one is missing."""
    column = table.column(name).combine_chunks()
    kind = column.type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if column.null_count or not number:
        return np.asarray(column.to_numpy(zero_copy_only=False))  # which nothing here has written
    # Else not to_numpy: it imports pandas, which takes half a second.
    if pa.types.is_boolean(kind):  # kept as bits
        return np.from_dlpack(column.cast(pa.uint8())).view(bool)
    return np.from_dlpack(column)
