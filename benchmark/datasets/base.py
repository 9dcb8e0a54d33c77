"""What a data set is: uint8 images, int64 labels, one content hash."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
    """Height and width."""
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
        """The default budget, in pixels of [0, 1]."""
        return {"linf": self.eps_linf, "l2": self.eps_l2}[norm]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Facts and reader of a data set.

    Args:
        fingerprint: (folder) -> JSON value that changes when the files do, cheap; None where there
            are no such files in the folder.
        read: (folder) -> the splits; slow, done once and cached.
        download: fetches the official files into the folder; None where nothing needs fetching.
    """

    info: DatasetInfo
    fingerprint: Callable[[Path], Any]
    read: Callable[[Path], Splits]
    download: Callable[[Path], None] | None = None


def subset(total: int, count: int) -> NDArray[np.int64]:
    """Which ``count`` of ``total`` samples to take: the start of one fixed shuffle, in rising order.

    Nested (a larger count contains a smaller one) and free of the file's order, which may be by class.
    """
    if count <= 0 or count >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(0).permutation(total)[:count])
