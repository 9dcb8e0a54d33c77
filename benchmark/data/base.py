"""A data set: uint8 images, int64 labels, one content hash."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


class Splits(NamedTuple):
    """Images are (N, C, H, W) uint8, labels (N,) int64."""

    train_x: Images
    train_y: Labels
    test_x: Images
    test_y: Labels

    def content_hash(self) -> str:
        """SHA-256 over shapes and bytes of all four arrays."""
        digest = hashlib.sha256()
        for array in self:
            digest.update(str((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What the benchmark has to know of a data set without reading it."""

    name: str
    summary: str
    channels: int
    size: int
    """Height and width; 0 as channels and classes of a folder that is not read yet."""
    classes: int
    train_images: int
    test_images: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    eps_linf: float
    eps_l2: float
    get: str
    """Where to get it, how large it is, where to put it."""

    def eps(self, norm: str) -> float:
        """Return the default budget, in pixels of [0, 1]."""
        return {"linf": self.eps_linf, "l2": self.eps_l2}[norm]

    def widest(self, norm: str) -> float:
        """Return the largest distance of two images; infinite in L2 while the size is not known."""
        if norm == "linf":
            return 1.0
        return float(self.channels * self.size**2) ** 0.5 if self.size else float("inf")


class Reading(NamedTuple):
    """Decoded files, and what to say of them."""

    splits: Splits
    official: bool = False
    """Whether the files are the published ones. False if unknown; the content's hash may still tell."""
    notes: tuple[str, ...] = ()
    info: DatasetInfo | None = None
    """What the files themselves say; None where the data set has facts of its own."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files that hold a data set.

    Args:
        files: every file that is read.
        read: () -> what they hold, checked; slow, done once and cached.
        decides: what else changes the result, such as a library's version.
        notes: what to say of the choice of files.
    """

    files: tuple[Path, ...]
    read: Callable[[], Reading]
    decides: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Facts and reader of a data set.

    Args:
        classes: names of the classes in the order of their numbers.
        find: (folder) -> the files, in any layout they come in; None where there are none in the folder.
        content: SHA-256 of the published images (:meth:`Splits.content_hash`), where it is known.
        own_folder: how the published archive calls its folder.
        download: fetches the official files into the folder; None where nothing needs fetching.
    """

    info: DatasetInfo
    classes: tuple[str, ...]
    find: Callable[[Path], Source | None]
    content: str = ""
    own_folder: str = ""
    download: Callable[[Path], None] | None = None


def subset(total: int, count: int) -> NDArray[np.int64]:
    """Return which ``count`` of ``total`` samples to take: the first of one fixed shuffle, in rising order.

    A larger count contains a smaller one, and the file's order, which may be by class, has no influence.
    """
    if count <= 0 or count >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(0).permutation(total)[:count])
