"""Copy a submission from an untrusted folder or archive into a scratch folder."""

import os
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from robustness_bench.benchmark.files import scratch_folder
from robustness_bench.benchmark.models import shown
from robustness_bench.benchmark.submit.intake.archives import (
    GIB,
    KIB,
    MIB,
    Caps,
    Member,
    RefusedError,
    bomb,
    tar_members,
    zip_members,
)
from robustness_bench.benchmark.submit.manifest.keys import MANIFEST

_ALLOWED = re.compile(
    r"submission\.toml|(?:model|attack)\.py|README\.md|LICENSE[A-Za-z0-9.-]{0,20}|[A-Za-z0-9_-][A-Za-z0-9._-]*\.safetensors"
)
_CHUNK = MIB
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,
)


@contextmanager
def unpacked(path: Path, caps: Caps | None = None) -> Iterator[Path]:
    """Yield a scratch folder with the files of the submission at ``path``; it is deleted afterwards.

    Raises:
        RefusedError: it is missing, not readable, or has anything but the plain files of a submission.
    """
    with scratch_folder("submission") as folder:
        try:
            _unpack(path, folder, caps or Caps())
        except OSError as error:
            raise RefusedError(
                f"cannot read {shown(path.resolve().name)}: {error.strerror or error}; check it"
            ) from error
        except _DAMAGED as error:
            raise RefusedError(
                f"{shown(path.resolve().name)} is damaged ({shown(str(error))}); pack it again"
            ) from error
        if not (folder / MANIFEST).is_file():
            raise RefusedError(
                f"{shown(path.resolve().name)} has no {MANIFEST} in it; bench submit init DIR writes one"
            )
        yield folder


def _unpack(path: Path, into: Path, caps: Caps) -> None:
    if path.is_dir():
        with _folder(path) as members:
            _copy(members, into, caps, caps.unpacked)
        return
    if not path.is_file():
        raise RefusedError(f"there is no folder or file {shown(str(path))}; check the path")
    limit = min(caps.unpacked, max(8 * MIB, caps.ratio * path.stat().st_size))
    if path.stat().st_size > caps.unpacked:
        raise RefusedError(
            f"{shown(path.resolve().name)} is larger than {_size(caps.unpacked)}; submit one model"
        )
    with path.open("rb") as file:
        start = file.read(512)  # a tar file's first header, with its magic at 257
        file.seek(0)
        if start[:2] == b"PK":
            _copy(zip_members(file, caps), into, caps, limit)
        elif start[:2] == b"\x1f\x8b" or start[257:262] == b"ustar":
            _copy(tar_members(file, start[:2] == b"\x1f\x8b", limit), into, caps, limit)
        else:
            raise RefusedError(
                f"{shown(path.resolve().name)} is no folder, .zip, .tar or .tar.gz; pack it as one of them"
            )


@contextmanager
def _folder(path: Path) -> Iterator[Iterator[Member]]:
    with ExitStack() as opened:

        def members() -> Iterator[Member]:
            for entry in sorted(path.iterdir()):
                status, content = entry.lstat(), None
                if stat.S_ISREG(status.st_mode):
                    # It may be a link or a pipe by now.
                    handle = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                    content = opened.enter_context(os.fdopen(handle, "rb"))
                yield Member(entry.name, status.st_mode, status.st_size, content)

        yield members()


def _copy(members: Iterator[Member], into: Path, caps: Caps, limit: int) -> None:
    """Write every member into the folder; each is checked before any of it is read."""
    seen: dict[str, str] = {}
    left = limit
    for member in members:
        name = _checked_name(member.name)
        if not name:
            continue
        _check_kind(name, member)
        if not _ALLOWED.fullmatch(name):
            raise RefusedError(
                f"{shown(name)} does not belong in a submission: delete it; allowed are {MANIFEST}, one "
                ".safetensors file, model.py or attack.py, README.md and LICENSE"
            )
        if name.casefold() in seen:
            raise RefusedError(
                f"{shown(name)} is there twice (as {shown(seen[name.casefold()])}): delete one"
            )
        seen[name.casefold()] = name
        if len(seen) > caps.files:
            raise RefusedError(f"more than {caps.files} files; leave only those of a submission")
        if sum(each.endswith(".safetensors") for each in seen) > 1:
            raise RefusedError(f"{shown(name)} is a second .safetensors file: submit one model")
        assert member.content is not None
        left -= _write(into / name, member, caps, left)


def _checked_name(name: str) -> str:
    """Return ``name`` without a leading "./"; empty for the folder itself."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise RefusedError(f"the file name {shown(name)} is not UTF-8: rename it") from error
    if any(unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp") for sign in name) or set(name) & set("<>&"):
        raise RefusedError(f"the file name {shown(name)} has markup or control characters in it: rename it")
    if name.startswith("/") or re.match(r"[A-Za-z]:|\\", name):
        raise RefusedError(f"{shown(name)} is an absolute path: pack the files by their plain names")
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise RefusedError(f"{shown(name)} leads out of the folder: pack the files by their plain names")
    if len(parts) > 1 or "\\" in name:
        raise RefusedError(
            f"{shown(name)} lies in a folder: pack the files themselves, not the folder around them"
        )
    return parts[0] if parts else ""


def _check_kind(name: str, member: Member) -> None:
    kind = stat.S_IFMT(member.mode)
    if kind == stat.S_IFLNK:
        raise RefusedError(f"{shown(name)} is a link: put the file itself there")
    if kind == stat.S_IFDIR:
        raise RefusedError(f"{shown(name)} is a folder: a submission has none, delete it")
    if kind not in (0, stat.S_IFREG):
        raise RefusedError(f"{shown(name)} is a device, pipe or socket: delete it")
    if member.encrypted:
        raise RefusedError(f"{shown(name)} is encrypted: pack it without a password")
    if member.content is None:
        raise RefusedError(f"{shown(name)} is no plain file: pack it again as one")


def _write(path: Path, member: Member, caps: Caps, left: int) -> int:
    """Write a member and return its size, counted while writing because the declared size may be wrong."""
    cap = caps.weights if path.suffix == ".safetensors" else caps.text
    if member.size > cap:
        raise RefusedError(
            f"{path.name} has {_size(member.size)}, {_size(cap)} at most: submit a smaller one"
        )
    written = 0
    assert member.content is not None
    with path.open("xb") as file:
        while chunk := member.content.read(_CHUNK):
            written += len(chunk)
            if written > cap:
                raise RefusedError(f"{path.name} is larger than {_size(cap)}: submit a smaller one")
            if written > left:
                raise bomb()
            file.write(chunk)
    return written


def _size(count: int) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count} bytes"
