"""`bench export`: a store as one file; the same results give the same bytes on any machine."""

import os
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.exchange.checking import check
from robustness_bench.benchmark.exchange.manifest import MANIFEST, Listed, digest_of, write_manifest
from robustness_bench.benchmark.exchange.sources import Folder, tracked
from robustness_bench.benchmark.files import copy_hashed, file_hash


class Exported(NamedTuple):
    """A summary of a written archive."""

    files: int
    size: int
    """Bytes, unpacked."""
    digest: str
    existed: bool
    """Whether an identical archive already existed."""


def export(store: Folder, archive: Path) -> Exported:
    """Check the results in a store and write them to ``archive``; needs no lock.

    Members are not compressed, because different versions of zlib may give different bytes. (Nearly all bytes
    are compressed already, or cannot be.)

    Raises:
        StoreError: a file in the store is damaged, or ``archive`` has other content or cannot be written.
    """
    check(store)
    listed = [
        Listed(name, (store.root / name).stat().st_size, store.digest(name))
        for name in tracked(store.names, "hashing")
    ]
    content = write_manifest(listed)
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".") as folder:
            scratch = Path(folder) / "archive"
            _pack(scratch, store, content, listed)
            existed = _place(scratch, archive)
    except OSError as error:
        raise StoreError(
            f"cannot write {archive}: {error.strerror}; free some space or name another file"
        ) from error
    return Exported(len(listed), sum(file.size for file in listed), digest_of(content), existed)


def _pack(scratch: Path, store: Folder, manifest: bytes, listed: list[Listed]) -> None:
    with scratch.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as packed:
            packed.writestr(_entry(MANIFEST, len(manifest)), manifest)
            for each in tracked(listed, "writing"):
                source = store.root / each.path
                with source.open("rb") as content, packed.open(_entry(each.path, each.size), "w") as member:
                    if copy_hashed(content, member) != each.sha256:
                        raise StoreError(f"{store}/{each.path} changed meanwhile: run the same command again")
        file.flush()
        os.fsync(file.fileno())  # whole on disk before it gets its name


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system = 3  # Unix on every machine, else Windows would give other bytes
    entry.external_attr = 0o100644 << 16
    entry.file_size = size
    return entry


def _place(scratch: Path, archive: Path) -> bool:
    """Give the file its name, unless a file with the same bytes already has it."""
    if archive.exists():
        if archive.is_file() and file_hash(archive) == file_hash(scratch):
            return True
        raise StoreError(f"{archive} exists and holds something else: delete it or name another file")
    scratch.chmod(0o644)
    scratch.replace(archive)
    return False
