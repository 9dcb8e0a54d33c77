"""Data sets by name, decoded once and cached as plain arrays next to their content hash."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmark.atomic import short_hash
from benchmark.datasets import parquet
from benchmark.datasets.base import Dataset, DatasetInfo, Splits
from benchmark.datasets.digits import DIGITS
from benchmark.datasets.tiny_imagenet import TINY_IMAGENET
from benchmark.datasets.vision import CIFAR10, MNIST
from benchmark.errors import DataError, unknown

Facts = dict[str, Any]
DATASETS = {dataset.info.name: dataset for dataset in (DIGITS, MNIST, CIFAR10, TINY_IMAGENET)}


class Located(NamedTuple):
    """A data set that is there: what it is called in results, its hash, its decoded arrays' folder."""

    info: DatasetInfo
    label: str
    """The data set's name; for a folder of Parquet files the folder's own, since it may hold a variant."""
    hash: str
    train_images: int
    test_images: int
    arrays: Path

    def load(self) -> Splits:
        """The decoded images, memory-mapped."""
        return Splits(*(np.load(self.arrays / f"{field}.npy", mmap_mode="r") for field in Splits._fields))


def dataset_named(name: str) -> Dataset:
    """The data set, or the error that lists them."""
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return DATASETS[name]


def locate(name: str, folder: Path, *, download: bool = False) -> Located:
    """Find a data set in ``folder``, decode it unless the cache holds it, and say what it is.

    Raises:
        DataError: not there (the message says what to fetch and where to put it), or not readable.
    """
    dataset = dataset_named(name)
    embedded = dataset.download is None  # its images are not looked for in any folder
    as_parquet = parquet.fingerprint(folder) if folder.is_dir() and not embedded else None
    stamp = as_parquet or dataset.fingerprint(folder)
    if stamp is None and download and dataset.download is not None:
        _download(dataset, folder)
        stamp = dataset.fingerprint(folder)
    if stamp is None:
        get = dataset.info.get.format(folder=folder)
        raise DataError(
            f"no {name} in {folder}: put {get}, or train*.parquet and test*.parquet into {folder}; "
            "or name another --data-dir, or add --download"
        )
    home = _cache_home() / f"{name}-{short_hash([name, str(folder.resolve()), stamp])}"
    facts = _kept(home)
    if facts is None:
        splits = parquet.read(folder, dataset.info) if as_parquet else dataset.read(folder)
        facts = _keep(home, splits)
    label = folder.resolve().name if as_parquet else name
    return Located(dataset.info, label, facts["hash"], facts["train"], facts["test"], home)


def _download(dataset: Dataset, folder: Path) -> None:
    assert dataset.download is not None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        dataset.download(folder)
    except (OSError, RuntimeError) as error:
        get = dataset.info.get.format(folder=folder)
        raise DataError(f"cannot download {dataset.info.name}: {error}; by hand: put {get}") from error


def _cache_home() -> Path:
    base = os.environ.get("BENCH_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "robustness-bench"


def _kept(home: Path) -> Facts | None:
    """What the cache says of a data set, or None if it is absent or damaged: it is made anew then."""
    try:
        facts: Facts = json.loads((home / "data.json").read_text())
        whole = all((home / name).stat().st_size == size for name, size in facts["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return facts if whole else None


def _keep(home: Path, splits: Splits) -> Facts:
    """Write the arrays into a folder that appears under its name only when it is complete."""
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=home.parent, prefix=".decoding-"))
        try:
            for field, array in splits._asdict().items():
                np.save(scratch / f"{field}.npy", array)
            facts = {
                "files": {file.name: file.stat().st_size for file in sorted(scratch.iterdir())},
                "hash": splits.content_hash(),
                "train": len(splits.train_y),
                "test": len(splits.test_y),
            }
            (scratch / "data.json").write_text(json.dumps(facts))
            if home.exists():
                shutil.rmtree(home)  # a damaged cache
            scratch.rename(home)
            return facts
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"cannot keep decoded images in {home.parent}: {error.strerror}; "
            "set BENCH_CACHE to a folder with room"
        ) from error
