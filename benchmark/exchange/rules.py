"""Rules for every file of results, whoever made it."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.plan.kinds import TaskKind, kinds_in
from robustness_bench.benchmark.store.flags import FLAGS

_MOST_ROWS = 2_000_000
MOST_BYTES = 1 << 28
_EVERY_EPOCH = {"lr", "gradient_norm", "seconds", "images_per_second"}


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
        raise WrongError(f"is damaged ({str(error).splitlines()[0]})") from error
    size = sum(about.row_group(at).total_byte_size for at in range(about.num_row_groups))
    if about.num_rows > _MOST_ROWS or size > MOST_BYTES:
        raise WrongError(f"claims {about.num_rows} rows of {size} bytes, more than any test set has")


def check_kind(spec: Any, folder: str) -> TaskKind:
    kinds = kinds_in(folder)
    if not isinstance(spec, dict) or not isinstance(spec["kind"], str) or spec["kind"] not in kinds:
        raise WrongError(f"is no {' or '.join(kinds)}")
    return kinds[spec["kind"]]


def check_identity(identity: object, spec: Any, seed: object, folder: str) -> TaskKind:
    kind = check_kind(spec, folder)
    if type(seed) is not int or seed < 0:
        raise WrongError(f"has an invalid seed: {seed!r}")
    if not all(isinstance(parent, str) for parent in spec["parents"].values()):
        raise WrongError("has invalid parents")
    found = short_hash([spec, seed])
    if identity != found:
        raise WrongError(f"has the id {identity!r}, its settings give {found}")
    return kind


def texts(spec: dict[str, Any], *keys: str) -> list[str]:
    for key in keys:
        if not isinstance(spec[key], str):
            raise WrongError(f"has a {key} that is no text: {spec[key]!r}")
    return [spec[key] for key in keys]


def check_number(key: str, value: object) -> None:
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:  # type: ignore[arg-type,operator]
        raise WrongError(f"has an invalid number of {key}: {value!r}")


def check_place(name: str, start: str, end: str = "") -> None:
    whole = name == start if not end else name.startswith(start) and name.endswith(end)
    if not whole:
        raise WrongError(f"lies at another's place, its settings say {start}{'…' if end else ''}{end}")


def check_circumstances(environment: object, seconds: object) -> None:
    if not isinstance(environment, dict):
        raise WrongError("has an invalid environment")
    check_number("seconds", seconds)


def check_flags(flags: object) -> None:
    if not isinstance(flags, list) or not set(flags) <= FLAGS.keys():
        raise WrongError(f"has flags that bench does not know: {flags!r}")


def check_history(card: dict[str, Any]) -> None:
    """Check a card's history, if it has one: epochs as dicts of numbers, and the kept epoch."""
    epochs = card.get("history", [])
    if epochs:
        check_number("epoch", card["epoch"])
    if not all(epoch.keys() >= _EVERY_EPOCH for epoch in epochs):
        raise WrongError(f"has an epoch in its history without {', '.join(sorted(_EVERY_EPOCH))}")
    for key, value in [pair for epoch in epochs for pair in epoch.items()]:
        if type(value) not in (int, float):
            raise WrongError(f"has a {key} in its history that is no number: {value!r}")


def check_samples(rows: dict[str, NDArray[Any]], spec: dict[str, Any]) -> None:
    sample, n = rows["sample"], spec["n_examples"]
    if type(n) is not int or len(sample) != n or len(np.unique(sample)) != n or not n:
        raise WrongError(f"has {len(sample)} rows that are not those of {n!r} images")


def check_rows(rows: dict[str, NDArray[Any]], spec: dict[str, Any]) -> None:
    check_samples(rows, spec)
    for name, column in rows.items():
        if not np.isfinite(column).all() or (column < 0).any():
            raise WrongError(f"has a {name} that is negative or not finite")


def check_sha256(value: object) -> None:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise WrongError(f"has an invalid SHA-256: {value!r}")
