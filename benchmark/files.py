"""Atomically written files, and hashes."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from robustness_bench.benchmark.errors import StoreError, first_line

AGAIN = "delete it and run the same command again"
_SEAL = "entries_sha256"
"""The remedy for a damaged file that a run made."""
_CHUNK = 1 << 20
_MARK = ".bench-scratch"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def cache_home() -> Path:
    """Return the folder of what can be made again: decoded images, copies of results at a URL."""
    base = os.environ.get("BENCH_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "robustness-bench"


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
        Path(temporary).chmod(0o644)  # mkstemp lets nobody else read it
        Path(temporary).replace(path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        remedy = (
            "free some space and run the same command again"
            if error.errno in _NO_ROOM
            else "choose another --out or fix its permissions"
        )
        raise StoreError(f"cannot write {path}: {error.strerror}; nothing is lost, {remedy}") from error


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Yield an empty folder in ``bench-NAME-…`` in the temporary directory, and delete both afterwards.

    A killed process cannot, so whoever makes one deletes those whose process is gone. The mark beside the
    folder is locked as long as its process lives.

    Raises:
        StoreError: there is no room for it, or it may not be written.
    """
    home = Path(tempfile.gettempdir())
    for mark in home.glob(f"bench-*/{_MARK}"):
        with contextlib.suppress(OSError), _lock(mark):
            shutil.rmtree(mark.parent, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        try:
            around = Path(tempfile.mkdtemp(prefix=f"bench-{name}-")).resolve()
            stack.callback(shutil.rmtree, around, ignore_errors=True)
            (folder := around / "files").mkdir()
            stack.enter_context(_lock(around / ".new", os.O_CREAT))
            (around / ".new").rename(around / _MARK)  # not before it is locked
        except OSError as error:
            raise no_room(error) from error
        yield folder


def no_room(error: OSError) -> StoreError:
    """What is said where a temporary file cannot be written."""
    return StoreError(
        f"cannot write into {tempfile.gettempdir()}: {error.strerror}; free some space or set TMPDIR"
    )


@contextmanager
def _lock(path: Path, create: int = 0) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | create, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


@contextmanager
def reading(path: Path, remedy: str = AGAIN, *more: type[Exception]) -> Iterator[None]:
    """What goes wrong in the block, which reads ``path``, is told as damage of that file.

    Args:
        remedy: what to do about it.
        more: what a library raises besides Python's own errors.

    Raises:
        StoreError: one line that names the file.
    """
    wrong: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, TypeError, AttributeError, *more)
    try:
        yield
    except wrong as error:
        raise StoreError(f"{path} is damaged ({first_line(error)}); {remedy}") from error


def check_format(path: Path, found: object, current: int) -> None:
    """Raise StoreError for a file of another version's format."""
    if found != current:
        raise StoreError(
            f"{path} has format {found}, this is bench's format {current}: use the version that wrote it, or "
            "another --out"
        )


def write_json(path: Path, value: Any, *, for_people: bool = False) -> None:
    """Write a JSON value with its keys sorted, atomically.

    Args:
        for_people: with letters as they are, and a newline at the end.
    """
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=not for_people)
    write_atomic(path, (text + "\n" * for_people).encode())


def read_json(path: Path, remedy: str = AGAIN) -> dict[str, Any]:
    """The JSON object in a file; StoreError, which names the file, if absent or anything else."""
    with reading(path, remedy):
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it is no JSON object")
        return value


def write_sealed(path: Path, entries: dict[str, Any]) -> None:
    """Write a JSON object with the hash of its entries, so that none of its digits changes unnoticed."""
    as_read = json.loads(json.dumps(entries))  # with texts for keys, which sort otherwise than numbers
    write_json(path, as_read | {_SEAL: _hash(as_read)})


def read_sealed(path: Path, remedy: str = AGAIN) -> dict[str, Any]:
    """What `write_sealed` wrote; StoreError if it was altered. Files of before 2026-12 have no hash."""
    entries = read_json(path, remedy)
    found = entries.pop(_SEAL, None)
    with reading(path, remedy):
        if found is not None and found != _hash(entries):
            raise ValueError("its entries are not those that were written")
    return entries


def _hash(entries: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """Return the same text for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def short_hash(value: Any) -> str:
    """Return 12 hexadecimal digits that identify a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


def copy_hashed(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy a file and return the SHA-256 of its content."""
    seen = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        seen.update(chunk)
        target.write(chunk)
    return seen.hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
