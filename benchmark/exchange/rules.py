"""Rules for every file of results, whoever made it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robustness_bench.benchmark.errors import first_line

_MOST_ROWS = 2_000_000
MOST_BYTES = 1 << 28


class WrongError(ValueError):
    """A file is invalid; the message continues a sentence that begins with its name."""


def bound_file(path: Path) -> None:
    """Raise WrongError for a file that is too large to read at once."""
    if path.stat().st_size > MOST_BYTES:
        raise WrongError("is absurdly large")


def bound_table(path: Path) -> None:
    """Raise WrongError for a Parquet file that would fill the memory."""
    try:
        about = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise WrongError(f"is damaged ({first_line(error)})") from error
    size = sum(about.row_group(at).total_byte_size for at in range(about.num_row_groups))
    if about.num_rows > _MOST_ROWS or size > MOST_BYTES:
        raise WrongError(f"claims {about.num_rows} rows of {size} bytes, more than any test set has")


def check_place(name: str, start: str, end: str = "") -> None:
    whole = name == start if not end else name.startswith(start) and name.endswith(end)
    if not whole:
        raise WrongError(f"lies at another's place, its settings say {start}{'…' if end else ''}{end}")


def check_samples(rows: dict[str, NDArray[Any]], spec: dict[str, Any]) -> None:
    sample, n = rows["sample"], spec["n_examples"]
    if type(n) is not int or len(sample) != n or len(np.unique(sample)) != n or not n:
        raise WrongError(f"has {len(sample)} rows that are not those of {n!r} images")


def check_rows(rows: dict[str, NDArray[Any]], spec: dict[str, Any]) -> None:
    check_samples(rows, spec)
    for name, column in rows.items():
        if not np.isfinite(column).all() or (column < 0).any():
            raise WrongError(f"has a {name} that is negative or not finite")
