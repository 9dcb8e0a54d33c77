"""scikit-learn's 8×8 digits: embedded, nothing to download (UCI optical digits, Alpaydin and Kaynak 1998)."""

from importlib.metadata import version
from pathlib import Path

import numpy as np

from robustness_bench.benchmark.data.base import Dataset, DatasetInfo, Reading, Source, Splits

_TEST_IMAGES = 360


def find(folder: Path) -> Source:
    """Return the images of scikit-learn; ``folder`` is not read."""
    return Source(files=(), read=_read, decides=f"scikit-learn {version('scikit-learn')}")


def _read() -> Reading:
    """Read all 1797 images in a fixed shuffle, the last 360 for testing."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x = np.rint(digits.images[order] * (255 / 16)).astype(np.uint8)[:, None]  # they are 0 to 16
    y = digits.target[order].astype(np.int64)
    splits = Splits(x[:-_TEST_IMAGES], y[:-_TEST_IMAGES], x[-_TEST_IMAGES:], y[-_TEST_IMAGES:])
    return Reading(splits, official=True)


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
    classes=tuple("0123456789"),
    find=find,
)
