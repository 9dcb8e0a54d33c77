"""The first member of an archive, which lists all others."""

import hashlib
import json
import re
from collections.abc import Iterable
from typing import NamedTuple

from robustness_bench.benchmark.files import canonical_json

FORMAT = 1
MANIFEST = "manifest.json"


class Listed(NamedTuple):
    """A file of an archive."""

    path: str
    size: int
    sha256: str


class Manifest(NamedTuple):
    """All files, and a hash of the list: archives with equal digests have equal content."""

    files: dict[str, Listed]
    digest: str


def write_manifest(files: Iterable[Listed]) -> bytes:
    """Return the list as JSON; equal lists give equal bytes."""
    listed = [file._asdict() for file in sorted(files)]
    return canonical_json({"format": FORMAT, "files": listed}).encode()


def digest_of(content: bytes) -> str:
    """Return the digest that two machines compare."""
    return hashlib.sha256(content).hexdigest()


def read_manifest(content: bytes) -> Manifest:
    """Read a list that ``write_manifest`` wrote.

    Raises:
        ValueError: it is anything else; says what.
    """
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError("is not JSON") from error
    if not isinstance(tree, dict) or "format" not in tree:
        raise ValueError("does not tell its format")
    if tree["format"] != FORMAT or type(tree["format"]) is not int:
        raise ValueError(f"has format {tree['format']!r}, this is bench's format {FORMAT}")
    files = tree.get("files")
    if tree.keys() != {"format", "files"} or not isinstance(files, list):
        raise ValueError("must hold format and files")
    listed = [_listed(entry) for entry in files]
    by_path = {file.path: file for file in listed}
    if len(by_path) < len(listed):
        raise ValueError("lists a file twice")
    return Manifest(by_path, digest_of(content))


def _listed(entry: object) -> Listed:
    if not isinstance(entry, dict) or entry.keys() != set(Listed._fields):
        raise ValueError("must give the path, size and sha256 of every file")
    file = Listed(**entry)
    if not isinstance(file.path, str) or type(file.size) is not int or file.size < 0:
        raise ValueError(f"has an invalid path or size: {entry!r}")
    if not isinstance(file.sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", file.sha256):
        raise ValueError(f"has an invalid SHA-256 of {file.path}")
    return file
