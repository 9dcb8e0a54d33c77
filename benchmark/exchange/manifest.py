"""The first member of an archive, which lists all others."""

import hashlib
from collections.abc import Iterable
from typing import Annotated, NamedTuple

from pydantic import Field, ValidationError, field_validator

from robustness_bench.benchmark.exchange.stories import Sha256
from robustness_bench.benchmark.files import canonical_json
from robustness_bench.benchmark.models import Strict, problems

FORMAT = 1
MANIFEST = "manifest.json"


class Listed(NamedTuple):
    """A file of an archive."""

    path: str
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Listing(Strict):
    """What the manifest holds."""

    format: int
    files: tuple[Listed, ...]

    @field_validator("format")
    @classmethod
    def _ours(cls, value: int) -> int:
        if value != FORMAT:
            raise ValueError(f"is {value}, this is bench's format {FORMAT}")
        return value


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
    """Read a list that ``write_manifest`` wrote; ValueError, which says what it is, for anything else."""
    try:
        listed = Listing.model_validate_json(content).files
    except ValidationError as error:
        raise ValueError(f"is invalid: {problems(error, Listing, lambda loc: '')[0]}") from error
    by_path = {file.path: file for file in listed}
    if len(by_path) < len(listed):
        raise ValueError("lists a file twice")
    return Manifest(by_path, digest_of(content))
