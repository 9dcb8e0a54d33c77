"""A data set of one's own: bright bars on 8×8 grey noise, flat, upright or diagonal. Imports no torch.

Its images are made, so ``find`` has no file to look for. One that reads files returns them in
``Source.files``, by which the cache sees that they change, or None where ``folder`` does not hold them.
"""

from pathlib import Path

import numpy as np

from robustness_bench.benchmark.data.base import Dataset, DatasetInfo, Images, Labels, Reading, Source, Splits

_SIZE, _NOISE, _BRIGHT = 8, 80, 120
_TRAIN, _TEST = 240, 90


def find(folder: Path) -> Source:
    """Nothing is read: ``folder`` is not looked into."""
    return Source(files=(), read=_read)


def _read() -> Reading:
    """Official: these are the images that the name stands for, so results call them bars."""
    rng = np.random.default_rng(0)
    return Reading(Splits(*_split(_TRAIN, rng), *_split(_TEST, rng)), official=True)


def _split(count: int, rng: np.random.Generator) -> tuple[Images, Labels]:
    """(N, 1, 8, 8) and (N,), as many of each class."""
    y = np.arange(count, dtype=np.int64) % 3
    x = rng.integers(0, _NOISE, (count, 1, _SIZE, _SIZE), dtype=np.uint8)
    for image, label, place in zip(x[:, 0], y, rng.integers(1, _SIZE - 1, count), strict=True):
        diagonal = np.arange(_SIZE)
        rows, columns = ((place, slice(None)), (slice(None), place), (diagonal, np.roll(diagonal, place)))[
            label
        ]
        image[rows, columns] += np.uint8(_BRIGHT)
    return x, y


BARS = Dataset(
    info=DatasetInfo(
        name="bars",
        summary="bars on noise, 8×8 grey, made from a seed",
        channels=1,
        size=_SIZE,
        classes=3,
        train_images=_TRAIN,
        test_images=_TEST,
        mean=(0.214,),
        std=(0.18,),
        eps_linf=0.1,
        eps_l2=0.5,
        get="made from a seed",
    ),
    classes=("flat", "upright", "diagonal"),
    find=find,
)
