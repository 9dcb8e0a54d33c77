"""Atomically written files, and hashes."""

import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from robustness_bench.benchmark.errors import StoreError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``; readers, and a crash, see either the old or the new file.

    Raises:
        StoreError: the disk is full or the folder cannot be written; ``path`` is unchanged.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        remedy = (
            "free some space and run the same command again"
            if error.errno in _NO_ROOM
            else "choose another --out or fix its permissions"
        )
        raise StoreError(f"cannot write {path}: {error.strerror}; nothing is lost, {remedy}") from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def canonical_json(value: Any) -> str:
    """Return the same text for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def short_hash(value: Any) -> str:
    """Return 12 hexadecimal digits that identify a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
