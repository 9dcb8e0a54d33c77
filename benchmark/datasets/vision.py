"""CIFAR-10 and MNIST by torchvision's loaders, in the folder layout torchvision expects."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmark.datasets.base import Dataset, DatasetInfo, Splits


def _stamp(files: list[Path]) -> Any:
    """Names, sizes and times; None unless every file is there."""
    if not all(file.is_file() for file in files):
        return None
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _cifar10_stamp(folder: Path) -> Any:
    batches = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    return _stamp([folder / "cifar-10-batches-py" / name for name in batches])


def _read_cifar10(folder: Path) -> Splits:
    from torchvision import datasets

    arrays: list[Any] = []
    for train in (True, False):
        split = datasets.CIFAR10(str(folder), train=train)
        arrays += [split.data.transpose(0, 3, 1, 2), np.asarray(split.targets, dtype=np.int64)]
    return Splits(*arrays)


def _download_cifar10(folder: Path) -> None:
    from torchvision import datasets

    datasets.CIFAR10(str(folder), download=True)


def _mnist_stamp(folder: Path) -> Any:
    names = [
        f"{split}-{what}-ubyte" for split in ("train", "t10k") for what in ("images-idx3", "labels-idx1")
    ]
    raw = folder / "MNIST" / "raw"
    return _stamp([raw / name for name in names]) or _stamp([raw / f"{name}.gz" for name in names])


def _read_mnist(folder: Path) -> Splits:
    """Reads the gzipped or unpacked IDX files where they lie, so that a read-only folder will do."""
    import gzip
    import tempfile

    from torchvision.datasets.mnist import read_image_file, read_label_file

    raw = folder / "MNIST" / "raw"
    arrays: list[Any] = []
    with tempfile.TemporaryDirectory() as scratch:
        for split in ("train", "t10k"):
            for what, reader in (("images-idx3", read_image_file), ("labels-idx1", read_label_file)):
                file = raw / f"{split}-{what}-ubyte"
                if not file.is_file():
                    unpacked = Path(scratch) / file.name
                    unpacked.write_bytes(gzip.decompress((raw / f"{file.name}.gz").read_bytes()))
                    file = unpacked
                arrays.append(reader(str(file)).numpy())
    return Splits(arrays[0][:, None], arrays[1], arrays[2][:, None], arrays[3])


def _download_mnist(folder: Path) -> None:
    from torchvision import datasets

    datasets.MNIST(str(folder), download=True)


CIFAR10 = Dataset(
    info=DatasetInfo(
        name="cifar10",
        summary="CIFAR-10, 32×32 colour (Krizhevsky 2009)",
        channels=3,
        size=32,
        classes=10,
        train_images=50_000,
        test_images=10_000,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        eps_linf=8 / 255,
        eps_l2=0.5,
        get="cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html "
        "(163 MB), unpacked to {folder}/cifar-10-batches-py",
    ),
    fingerprint=_cifar10_stamp,
    read=_read_cifar10,
    download=_download_cifar10,
)

MNIST = Dataset(
    info=DatasetInfo(
        name="mnist",
        summary="MNIST, 28×28 grey (LeCun et al. 1998)",
        channels=1,
        size=28,
        classes=10,
        train_images=60_000,
        test_images=10_000,
        mean=(0.1307,),
        std=(0.3081,),
        eps_linf=0.3,
        eps_l2=2.0,
        get="the four *-ubyte.gz files of http://yann.lecun.com/exdb/mnist/ (11 MB) into {folder}/MNIST/raw",
    ),
    fingerprint=_mnist_stamp,
    read=_read_mnist,
    download=_download_mnist,
)
