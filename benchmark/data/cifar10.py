"""CIFAR-10 (Krizhevsky 2009) in the pickled batches of its official archive."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from robustness_bench.benchmark.data.base import Dataset, DatasetInfo, Images, Labels, Reading, Source, Splits
from robustness_bench.benchmark.data.labels import check_split, numberings, numbers_of, renumbered
from robustness_bench.benchmark.errors import DataError

_FOLDER = "cifar-10-batches-py"
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST, _META = "test_batch", "batches.meta"
_PIXELS = 3 * 32 * 32
# All that a batch needs. Unpickling anything else could run code from the file's author.
_MODULES = {"numpy.core.multiarray": "numpy._core.multiarray", "numpy": "numpy", "_codecs": "_codecs"}
_NEEDED = {"_reconstruct", "ndarray", "dtype", "scalar", "encode"}


def find(folder: Path) -> Source | None:
    """Find the six batches in ``folder`` or its ``cifar-10-batches-py``.

    Raises:
        DataError: some are there, others not, or both folders have them.
    """
    batches = (*_TRAIN, _TEST)
    roots = [root for root in (folder, folder / _FOLDER) if any((root / name).is_file() for name in batches)]
    if not roots:
        return None
    if len(roots) > 1:
        raise DataError(
            f"{roots[0]} and {roots[1]} both hold CIFAR-10: name the one that counts as --data-dir"
        )
    if missing := [name for name in batches if not (roots[0] / name).is_file()]:
        raise DataError(
            f"CIFAR-10 is incomplete: {roots[0] / missing[0]} is missing; unpack the archive again"
        )
    names = (*batches, _META) if (roots[0] / _META).is_file() else batches
    files = tuple(roots[0] / name for name in names)
    return Source(files=files, read=lambda: _read(files))


def _read(files: tuple[Path, ...]) -> Reading:
    from torchvision.datasets import CIFAR10 as PUBLISHED

    contents = {file: file.read_bytes() for file in files}
    digests = {file.name: hashlib.md5(content).hexdigest() for file, content in contents.items()}
    published = dict([*PUBLISHED.train_list, *PUBLISHED.test_list])
    official = all(digests[name] == digest for name, digest in published.items())
    numbers, notes = _numbers(files[-1], contents)
    parts = [_batch(file, contents[file], numbers) for file in files[:6]]
    train_x, train_y = (np.concatenate(part) for part in zip(*parts[:5], strict=True))
    return Reading(Splits(train_x, train_y, *parts[5]), official=official, notes=notes)


def _numbers(meta: Path, contents: dict[Path, bytes]) -> tuple[list[int] | None, tuple[str, ...]]:
    """Return what the batches' labels stand for, by the names in ``batches.meta`` if it exists."""
    if meta.name != _META:
        return None, ()
    names = _unpickled(meta, contents[meta]).get("label_names")
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise DataError(f"{meta} has no list label_names; unpack the archive again")
    spelled = tuple(name.decode("latin1") if isinstance(name, bytes) else name for name in names)
    maps, note = numberings({str(meta): spelled}, CIFAR10.classes, CIFAR10.info.name)
    return maps[str(meta)], (note,) if note else ()


def _batch(file: Path, content: bytes, numbers: list[int] | None) -> tuple[Images, Labels]:
    batch = _unpickled(file, content)
    data, labels = batch.get("data"), batch.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (_PIXELS,):
        raise DataError(f"{file} has no uint8 data of {_PIXELS} bytes an image; unpack the archive again")
    if not isinstance(labels, list | np.ndarray):
        raise DataError(f"{file} has no labels; unpack the archive again")
    y = np.asarray(numbers_of(list(labels), CIFAR10.classes, CIFAR10.info.name, str(file)), dtype=np.int64)
    x = data.reshape(-1, 3, 32, 32)
    check_split(x, y, CIFAR10.info, str(file))
    return x, renumbered(y, numbers, str(file))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _MODULES.get(module.replace("numpy._core", "numpy.core"))
        if known is None or name not in _NEEDED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(known, name)


def _unpickled(file: Path, content: bytes) -> dict[str, Any]:
    broken = (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError)
    try:
        held = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except (*broken, ImportError, MemoryError, OverflowError) as error:
        raise DataError(f"{file} is no batch of CIFAR-10: {error}; unpack the archive again") from error
    if not isinstance(held, dict):
        raise DataError(
            f"{file} is no batch of CIFAR-10: it holds a {type(held).__name__}; unpack the archive again"
        )
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in held.items()
    }


def _download(folder: Path) -> None:
    from torchvision import datasets

    datasets.CIFAR10(str(folder), download=True)


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
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    find=find,
    own_folder=_FOLDER,
    download=_download,
)
