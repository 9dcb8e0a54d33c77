"""Read an untrusted archive: no name, size or content is trusted."""

import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from robustness_bench.benchmark.errors import StoreError, printable
from robustness_bench.benchmark.exchange.layout import fault_of
from robustness_bench.benchmark.exchange.manifest import MANIFEST, Manifest, read_manifest
from robustness_bench.benchmark.files import copy_hashed, no_room, scratch_folder

GIB = 1 << 30
_LONGEST_MANIFEST = 1 << 26
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)


class Archive:
    """A zip file from `bench export`; open inside its ``with``.

    Args:
        limit: most bytes, of the zip file and of its content.

    Raises:
        StoreError: it is not such a file; the message names it.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self._limit = limit
        self._zip = self._opened()
        try:
            self._members = self._checked_members()
            self._manifest = self._checked_manifest()
        except BaseException:
            self._zip.close()
            raise
        self.names = sorted(self._manifest.files)

    def __str__(self) -> str:
        return str(self.path)

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *error: object) -> None:
        self._zip.close()

    @property
    def whole(self) -> str:
        """The digest that `bench export` showed."""
        return self._manifest.digest

    def digest(self, name: str) -> str:
        return self._manifest.files[name].sha256

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Yield a temporary copy of a file, after checking its size and hash against the list."""
        with scratch_folder("archive") as folder:
            path = folder / f"member{PurePosixPath(name).suffix}"
            self._unpack(name, path)
            yield path

    def refusal(self, name: str, reason: str) -> StoreError:
        return self._refused(f"{printable(name, 120)} in it {printable(reason)}")

    def _refused(self, reason: str) -> StoreError:
        return StoreError(
            f"{self.path} is rejected, nothing was imported: {reason}; copy it again, or make it again with "
            "bench export"
        )

    def _opened(self) -> zipfile.ZipFile:
        try:
            size = self.path.stat().st_size
            if size > self._limit:
                raise self._too_large(size)
            return zipfile.ZipFile(self.path)
        except FileNotFoundError as error:
            raise StoreError(f"there is no file {self.path}; check the path") from error
        except IsADirectoryError as error:
            raise StoreError(f"{self.path} is a folder: bench merge joins folders of results") from error
        except OSError as error:
            raise StoreError(f"cannot read {self.path}: {error.strerror}; fix its permissions") from error
        except UnicodeDecodeError as error:
            raise self._refused("a name in it is not UTF-8") from error
        except _BROKEN as error:
            raise self._refused(f"it is no zip file or cut short ({printable(str(error), 120)})") from error

    def _too_large(self, size: int) -> StoreError:
        return StoreError(
            f"{self.path} holds {size / GIB:.3g} GiB, the limit is {self._limit / GIB:.3g} GiB: if that is "
            "what you expect of it, raise --max-size"
        )

    def _checked_members(self) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        alike: set[str] = set()
        for member in self._zip.infolist():
            if member.header_offset < 0:
                raise self._refused("it is no zip file or cut short")
            if fault := _fault_of(member):
                raise self.refusal(member.orig_filename, fault)
            key = unicodedata.normalize("NFC", member.filename.casefold())
            if key in alike:
                raise self.refusal(member.filename, "is there twice, or differs from another in case only")
            alike.add(key)
            members[member.filename] = member
        total = sum(member.file_size for member in members.values())
        if total > self._limit:
            raise self._too_large(total)
        if total > self.path.stat().st_size:
            raise self._refused("its members claim more bytes than it has")
        return members

    def _checked_manifest(self) -> Manifest:
        if next(iter(self._members), "") != MANIFEST:
            raise self._refused(f"its first member is not {MANIFEST}")
        member = self._members.pop(MANIFEST)
        if member.file_size > _LONGEST_MANIFEST:
            raise self.refusal(MANIFEST, "is absurdly long")
        try:
            manifest = read_manifest(self._zip.read(member))
        except _BROKEN as error:
            raise self.refusal(MANIFEST, str(error)) from error
        for name in sorted(manifest.files.keys() ^ self._members.keys()):
            listed = name in manifest.files
            raise self.refusal(name, "is listed but missing" if listed else f"is not listed in {MANIFEST}")
        for name, listed_file in manifest.files.items():
            if listed_file.size != self._members[name].file_size:
                raise self.refusal(name, "has another size than listed")
        return manifest

    def _unpack(self, name: str, path: Path) -> None:
        """Unpack a member; zipfile stops at its size, which was checked against the list."""
        try:
            with self._zip.open(self._members[name]) as file, path.open("wb") as copy:
                found = copy_hashed(file, copy)
        except _BROKEN as error:
            raise self.refusal(name, f"is damaged ({error})") from error
        except OSError as error:
            raise no_room(error) from error
        if found != self.digest(name):
            raise self.refusal(name, "is not the file that was exported: its SHA-256 differs")


def _fault_of(member: zipfile.ZipInfo) -> str:
    """Return why a member cannot come from `bench export`, or ""."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    if member.orig_filename != member.filename:
        return "has the character U+0000 in its name"
    if member.flag_bits & 0x1:
        return "is encrypted"
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG):
        return "is no plain file"
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        return "is compressed, or its two sizes differ; bench export packs without compression"
    return "" if member.filename == MANIFEST else fault_of(member.filename)
