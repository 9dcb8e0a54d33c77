"""Read the members of a zip or tar file one at a time, without trusting the sizes it declares."""

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
from robustness_bench.benchmark.models import shown

_END, _END_SIZE, _LONGEST_COMMENT = b"PK\x05\x06", 22, 65535
_ZIP64 = b"PK\x06\x07"
KIB, MIB, GIB = 2**10, 2**20, 2**30
_CHUNK = MIB


class Caps(NamedTuple):
    """Limits, in bytes except for the last two."""

    weights: int = 2 * GIB
    text: int = 256 * KIB
    unpacked: int = 2 * GIB + 4 * MIB
    directory: int = 64 * KIB
    """Size of a zip file's directory."""
    ratio: int = 100
    """Ratio of unpacked to packed size, checked once 8 MiB are unpacked."""
    files: int = 12


class Member(NamedTuple):
    """An entry of a folder or an archive."""

    name: str
    mode: int
    """File type bits as in ``stat``; 0 if an archive gives none."""
    size: int
    """As declared."""
    content: IO[bytes] | None
    """None for an entry that is not a plain file, or needs a password."""
    encrypted: bool = False


class RefusedError(BenchError):
    """The submission cannot be read, for the reason given."""


def bomb() -> RefusedError:
    """Return the error for an archive that unpacks to far more than weights do."""
    return RefusedError("it unpacks to far more than its own size, as a bomb does: pack the plain files")


def zip_members(file: IO[bytes], caps: Caps) -> Iterator[Member]:
    """Yield every entry of a zip file.

    Raises:
        RefusedError: it is damaged, has an absurdly large directory, or uses an unusual compression.
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
    """Return the name as written; bytes that are not UTF-8 become lone surrogates."""
    if entry.flag_bits & 0x800:
        return entry.orig_filename
    return entry.orig_filename.encode("cp437").decode("utf-8", "surrogateescape")


def _check_directory(file: IO[bytes], caps: Caps) -> None:
    """Raise RefusedError if zipfile would read an overlong directory into memory."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _LONGEST_COMMENT - _END_SIZE - 20))  # zip64's locator has 20 bytes
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise RefusedError("the zip file is damaged or cut short: pack it again")
    (directory,) = struct.unpack_from("<I", tail, at + 12)  # the directory's size in bytes
    if directory > caps.directory or _ZIP64 in tail:
        raise RefusedError("the zip file has an absurd directory: pack only the files of a submission")
    file.seek(0)


def tar_members(file: IO[bytes], zipped: bool, limit: int) -> Iterator[Member]:
    """Yield every entry of a tar file, plain or gzipped; unpacks at most ``limit`` bytes of the latter.

    Raises:
        RefusedError: it is damaged, or a bomb.
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
    """A file that allows only small reads, because tarfile trusts a header on how much to read."""

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
