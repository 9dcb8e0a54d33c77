"""Data sets by name, decoded once and cached as plain arrays next to their content hash."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustness_bench.benchmark.data import parquet
from robustness_bench.benchmark.data.base import Dataset, DatasetInfo, Reading, Source, Splits
from robustness_bench.benchmark.data.cifar10 import CIFAR10
from robustness_bench.benchmark.data.digits import DIGITS
from robustness_bench.benchmark.data.mnist import MNIST
from robustness_bench.benchmark.data.tiny_imagenet import TINY_IMAGENET
from robustness_bench.benchmark.errors import DataError, unknown
from robustness_bench.benchmark.files import short_hash

Facts = dict[str, Any]
DATASETS = {dataset.info.name: dataset for dataset in (DIGITS, MNIST, CIFAR10, TINY_IMAGENET)}
_READERS = 2  # raise it when a reader decodes the same files differently
_CHEAP = 32 << 20
"""Bytes of files up to which their content is hashed each time, beside names, sizes and times."""


class Located(NamedTuple):
    """A data set that is there: what it is called in results, its hash, its decoded arrays' folder."""

    info: DatasetInfo
    label: str
    """The data set's name where the files are the published ones. Otherwise, and for Parquet files, the
    folder's own name, since it may hold a variant; with the hash's start where that is a data set's name."""
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

    What a user should know of the choice of files goes to stderr, a line each.

    Raises:
        DataError: not there (the message says what to fetch and where to put it), or not readable.
    """
    dataset = dataset_named(name)
    try:
        source, as_parquet = _find(dataset, folder)
        if source is None and download and dataset.download is not None:
            _download(dataset, folder)
            source, as_parquet = _find(dataset, folder)
        if source is None:
            raise _missing(dataset, folder)
        home = _cache_home() / f"{name}-{short_hash([name, str(folder.resolve()), _stamp(source)])}"
        facts = _kept(home)
        if facts is None:
            facts = _keep(home, source.read())
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename or folder}: {error.strerror or error}; "
            "mend it, or name another --data-dir"
        ) from error
    label, told = _label(dataset, folder, facts, as_parquet=as_parquet)
    for note in (*source.notes, *facts["notes"], *told):
        print(f"bench: note: {note}", file=sys.stderr)
    return Located(dataset.info, label, facts["hash"], facts["train"], facts["test"], home)


def _find(dataset: Dataset, folder: Path) -> tuple[Source | None, bool]:
    """The files that hold a data set, and whether they are Parquet."""
    own = dataset.find(folder)
    if dataset.download is None or not folder.is_dir():  # embedded images are looked for in no folder
        return own, False
    as_parquet = parquet.find(folder, dataset, alone=own is None)
    if own and as_parquet:
        raise DataError(
            f"{folder} holds {dataset.info.name} twice: {own.files[0]} and {as_parquet.files[0]}; "
            "move one of them to another folder"
        )
    return as_parquet or own, as_parquet is not None


def _missing(dataset: Dataset, folder: Path) -> DataError:
    if folder.exists() and not folder.is_dir():
        return DataError(f"--data-dir {folder} is a file: name the folder it lies in")
    get = dataset.info.get.format(folder=folder)
    return DataError(
        f"no {dataset.info.name} in {folder}: put {get}, or train*.parquet and test*.parquet into {folder}; "
        "or name another --data-dir, or add --download"
    )


def _stamp(source: Source) -> str:
    """Changes whenever a file that is read does: in name, size, either time or, where cheap, content."""
    digest = hashlib.sha256(f"{_READERS} {source.decides}".encode())
    states = [(file, file.stat()) for file in source.files]
    for file, state in states:
        digest.update(f"{file}\0{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}\0".encode())
    if sum(state.st_size for _, state in states) <= _CHEAP:
        for file in source.files:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _label(dataset: Dataset, folder: Path, facts: Facts, *, as_parquet: bool) -> tuple[str, list[str]]:
    """What results call these images, and what to say of it."""
    name, own = dataset.info.name, folder.resolve().name
    official = facts["official"] or facts["hash"] == dataset.content
    if official and not as_parquet:
        return name, []
    if official and _plain(own) == _plain(name):
        return own, []
    taken = {_plain(each) for data in DATASETS.values() for each in (data.info.name, data.own_folder)}
    label = own if _plain(own) not in taken else f"{own or name}-{facts['hash'][:8]}"
    if as_parquet and label == own:
        return label, []
    return label, [
        f"the files in {folder} are not known to be {name} as published: results call them {label}"
    ]


def _plain(name: str) -> str:
    """Spellings that a reader takes for one: MNIST and mnist, CIFAR-10 and cifar10."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


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


def _keep(home: Path, reading: Reading) -> Facts:
    """Write the arrays into a folder that appears under its name only when it is complete."""
    splits = reading.splits
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
                "official": reading.official,
                "notes": list(reading.notes),
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
