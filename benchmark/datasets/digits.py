"""scikit-learn's 8×8 digits: embedded, nothing to download (UCI optical digits, Alpaydin and Kaynak 1998)."""

from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmark.datasets.base import Dataset, DatasetInfo, Splits

_TEST_IMAGES = 360


def read(folder: Path) -> Splits:
    """All 1797 images in a fixed shuffle, the last 360 for testing."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x = np.rint(digits.images[order] * (255 / 16)).astype(np.uint8)[:, None]
    y = digits.target[order].astype(np.int64)
    return Splits(x[:-_TEST_IMAGES], y[:-_TEST_IMAGES], x[-_TEST_IMAGES:], y[-_TEST_IMAGES:])


DIGITS = Dataset(
    info=DatasetInfo(
        name="digits",
        summary="scikit-learn's handwritten digits, 8×8 grey",
        channels=1,
        size=8,
        classes=10,
        train_images=1437,
        test_images=360,
        mean=(0.305,),
        std=(0.376,),
        eps_linf=0.18,
        eps_l2=0.75,
        get="embedded in scikit-learn",
    ),
    fingerprint=lambda folder: {"scikit-learn": version("scikit-learn")},
    read=read,
)
