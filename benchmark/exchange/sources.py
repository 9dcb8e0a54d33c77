"""Files of results by their path in a store, wherever they are stored."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Protocol, TypeVar

from robustness_bench.benchmark.errors import StoreError, printable
from robustness_bench.benchmark.exchange.layout import fault_of, finished
from robustness_bench.benchmark.files import file_hash
from robustness_bench.benchmark.mirror import place

Each = TypeVar("Each")


class Source(Protocol):
    """A store, or an archive of one, with the same names."""

    @property
    def names(self) -> Sequence[str]:
        """Sorted."""

    def digest(self, name: str) -> str:
        """SHA-256."""

    def file(self, name: str) -> AbstractContextManager[Path]:
        """Yield a file with this content and the suffix of the name."""

    def refusal(self, name: str, reason: str) -> StoreError:
        """Return the error for an invalid file, with the remedy."""


class Folder:
    """The results in a store."""

    def __init__(self, root: Path, *, weights: bool = True, images: bool = True) -> None:
        self.root = root
        self.names = finished(root, weights=weights, images=images)
        self.digest = cache(self._digest)

    def __str__(self) -> str:
        return place(self.root)

    def _digest(self, name: str) -> str:
        try:
            return file_hash(self.root / name)
        except OSError as error:
            raise self.refusal(name, f"cannot be read ({error.strerror})") from error

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        yield self.root / name

    def refusal(self, name: str, reason: str) -> StoreError:
        remedy = "delete or move it, and run the command that makes it again"
        return StoreError(f"{place(self.root)}/{printable(name)} {printable(reason)}; {remedy}")


def given(path: Path, *, weights: bool = True, images: bool = True) -> Folder:
    """Return the results in a folder that a user named.

    Raises:
        StoreError: there is no folder, it has no results, or a file has a name that no store has.
    """
    if not path.is_dir():
        raise StoreError(f"there is no folder {path}: name a folder of results (the --out of bench run)")
    folder = Folder(path, weights=weights, images=images)
    if not folder.names:
        raise StoreError(f"{place(path)} holds no results: name a folder of results (the --out of bench run)")
    for name in folder.names:
        if fault := fault_of(name):
            raise folder.refusal(name, fault)
    return folder


def tracked(items: Sequence[Each], text: str) -> Iterable[Each]:
    """Yield the items, with a progress bar on a terminal that disappears at the end."""
    from rich.console import Console
    from rich.progress import track

    hidden = not sys.stderr.isatty()
    return track(items, f"{text} …", console=Console(stderr=True), transient=True, disable=hidden)
