"""What is in a zip or tar file, a member at a time, without believing what it says of its sizes."""

import gzip
import io
import stat
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.submit.manifest.text import shown

_END, _END_SIZE, _LONGEST_COMMENT = b"PK\x05\x06", 22, 65535
_ZIP64 = b"PK\x06\x07"
KIB, MIB, GIB = 2**10, 2**20, 2**30
_CHUNK = MIB


class Caps(NamedTuple):
    """Bytes, but for the last two."""

    weights: int = 2 * GIB
    text: int = 256 * KIB
    unpacked: int = 2 * GIB + 4 * MIB
    directory: int = 64 * KIB
    """A zip file's list of what is in it."""
    ratio: int = 100
    """Unpacked to packed, once 8 MiB are unpacked."""
    files: int = 12


class Member(NamedTuple):
    """Something in a folder or an archive."""

    name: str
    mode: int
    """File type bits as in ``stat``; 0 where an archive says none."""
    size: int
    """As declared."""
    content: IO[bytes] | None
    """None for what is no plain file, or cannot be read without a password."""
    encrypted: bool = False


class RefusedError(BenchError):
    """What was sent in cannot be read, for the reason it names."""


def bomb() -> RefusedError:
    """The error for what unpacks to far more than an archive of weights does."""
    return RefusedError("it unpacks to far more than its own size, as a bomb does: pack the plain files")


def zip_members(file: IO[bytes], caps: Caps) -> Iterator[Member]:
    """Every entry of a zip file.

    Raises:
        RefusedError: damaged, with an absurd directory, or compressed in an unusual way.
    """
    _check_directory(file, caps)
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise RefusedError(
                        f"{shown(entry.filename)} is compressed in an unusual way: use plain zip"
                    )
                encrypted = bool(entry.flag_bits & 0x1)
                mode = entry.external_attr >> 16 if entry.create_system == 3 else 0
                mode = stat.S_IFDIR if entry.is_dir() else mode
                plain = not encrypted and stat.S_IFMT(mode) in (0, stat.S_IFREG)
                content = archive.open(entry) if plain else None
                yield Member(_zip_name(entry), mode, entry.file_size, content, encrypted)
    except UnicodeDecodeError as error:
        raise RefusedError("a file name in the zip file is not UTF-8: rename it") from error


def _zip_name(entry: zipfile.ZipInfo) -> str:
    """The name as it was written; bytes that are not UTF-8 as lone surrogates."""
    if entry.flag_bits & 0x800:
        return entry.orig_filename
    return entry.orig_filename.encode("cp437").decode("utf-8", "surrogateescape")


def _check_directory(file: IO[bytes], caps: Caps) -> None:
    """Raise RefusedError where zipfile would read a long directory into memory."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _LONGEST_COMMENT - _END_SIZE - 20))
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise RefusedError("the zip file is damaged or cut short: pack it again")
    (directory,) = struct.unpack_from("<I", tail, at + 12)
    if directory > caps.directory or _ZIP64 in tail:
        raise RefusedError("the zip file has an absurd directory: pack only the files of a submission")
    file.seek(0)


def tar_members(file: IO[bytes], zipped: bool, limit: int) -> Iterator[Member]:
    """Every entry of a tar file, plain or gzipped; of the latter at most ``limit`` bytes are unpacked.

    Raises:
        RefusedError: damaged, or a bomb.
    """
    if not zipped:
        yield from _tar_members(file)
        return
    with tempfile.TemporaryFile() as plain:
        unpacked = 0
        with gzip.open(file) as packed:
            while chunk := packed.read(_CHUNK):
                unpacked += len(chunk)
                if unpacked > limit + _CHUNK:
                    raise bomb()
                plain.write(chunk)
        plain.seek(0)
        yield from _tar_members(plain)


def _tar_members(file: IO[bytes]) -> Iterator[Member]:
    sipped: IO[bytes] = _Sipped(file)  # type: ignore[assignment]
    with tarfile.open(fileobj=sipped, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        for entry in archive:
            plain = entry.isreg() and not entry.issparse()
            content = archive.extractfile(entry) if plain else None
            yield Member(entry.name, _tar_mode(entry), entry.size, content)


def _tar_mode(entry: tarfile.TarInfo) -> int:
    if entry.issym() or entry.islnk():
        return stat.S_IFLNK
    if entry.isdir():
        return stat.S_IFDIR
    return stat.S_IFREG if entry.isreg() else stat.S_IFIFO


class _Sipped(io.RawIOBase):
    """A file that is read in small sips only: tarfile takes a header's word for how much to read."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= 2 * _CHUNK:
            raise RefusedError("a tar header of an absurd size: pack it again with tar")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True
