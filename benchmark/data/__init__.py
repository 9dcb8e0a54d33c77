"""Data sets by name, decoded once and cached as plain arrays next to their content hash."""

import hashlib
import inspect
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustness_bench.benchmark.data import folder as folders
from robustness_bench.benchmark.data import parquet
from robustness_bench.benchmark.data.base import Dataset, DatasetInfo, Reading, Source, Splits
from robustness_bench.benchmark.data.folder import FOLDER
from robustness_bench.benchmark.data.registry import DATASETS, dataset_named, described, is_plugin
from robustness_bench.benchmark.errors import DataError
from robustness_bench.benchmark.files import cache_home, short_hash

Facts = dict[str, Any]
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

    @property
    def identity(self) -> dict[str, Any]:
        """The data set, as it enters ids."""
        return {"dataset": self.label, "data": self.hash, **described(self.info)}

    def load(self) -> Splits:
        """Read the decoded images, memory-mapped."""
        return Splits(*(np.load(self.arrays / f"{field}.npy", mmap_mode="r") for field in Splits._fields))


def locate(name: str, folder: Path, *, download: bool = False, fit: str = "") -> Located:
    """Find a data set in ``folder``, decode it unless the cache holds it, and say what it is.

    What a user should know of the choice of files goes to stderr, a line each.

    Args:
        fit: how images of "folder" are made squares of one size (``folder.Fit``); empty: they must be.

    Raises:
        DataError: not there (the message says what to fetch and where to put it), or not readable.
    """
    dataset = dataset_named(name)
    try:
        source, as_parquet = _find(dataset, folder, fit)
        if source is None and download and dataset.download is not None:
            _download(dataset, folder)
            source, as_parquet = _find(dataset, folder, fit)
        if source is None:
            raise _missing(dataset, folder)
        home = cache_home() / f"{name}-{short_hash([name, str(folder.resolve()), _stamp(dataset, source)])}"
        facts = _kept(home)
        if facts is None:
            facts = _keep(home, source.read())
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename or folder}: {error.strerror or error}; "
            "fix it, or name another --data-dir"
        ) from error
    label, told = _label(dataset, folder, facts, as_parquet=as_parquet)
    for note in (*source.notes, *facts["notes"], *told):
        print(f"bench: note: {note}", file=sys.stderr)
    return Located(_info(dataset, facts), label, facts["hash"], facts["train"], facts["test"], home)


def present(name: str, folder: Path) -> str:
    """Say which files hold a data set, without reading its images.

    Raises:
        DataError: it is not in ``folder``; the message says what to fetch and where to put it.
    """
    dataset = dataset_named(name)
    source, _ = _find(dataset, folder, "")
    if source is None:
        raise _missing(dataset, folder)
    more = f" and {len(source.files) - 1} more" if source.files[1:] else ""
    return f"{source.files[0]}{more}" if source.files else "embedded"


def _info(dataset: Dataset, facts: Facts) -> DatasetInfo:
    """Return what is known of the data set; for a folder of images, what its files said."""
    told = facts.get("info")
    if told is None:
        return dataset.info
    return DatasetInfo(**{**told, "mean": tuple(told["mean"]), "std": tuple(told["std"])})


def _find(dataset: Dataset, folder: Path, fit: str) -> tuple[Source | None, bool]:
    """Return the files that hold a data set, and whether results name it by its folder, as a variant."""
    if dataset is FOLDER:
        return folders.find(folder, fit), True
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
    if dataset is FOLDER:
        return DataError(f"no images with classes in {folder}: put {get}; or name another --data-dir")
    if dataset.download is None:
        return DataError(f"no {dataset.info.name} in {folder}: put {get}; or name another --data-dir")
    return DataError(
        f"no {dataset.info.name} in {folder}: put {get}, or train*.parquet and test*.parquet into {folder}; "
        "or name another --data-dir, or add --download"
    )


def _stamp(dataset: Dataset, source: Source) -> str:
    """Return a hash that changes with any file that is read: its name, size, times or, if small, content.

    A plugin's code is one of these files, because a plugin may change without a new version.
    """
    digest = hashlib.sha256(f"{_READERS} {source.decides}".encode())
    if is_plugin(dataset) and (code := inspect.getsourcefile(source.read)):
        digest.update(Path(code).read_bytes())
    states = [(file, file.stat()) for file in source.files]
    for file, state in states:
        digest.update(f"{file}\0{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}\0".encode())
    if sum(state.st_size for _, state in states) <= _CHEAP:
        for file in source.files:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _label(dataset: Dataset, folder: Path, facts: Facts, *, as_parquet: bool) -> tuple[str, list[str]]:
    """Return what results call these images, and notes on that name."""
    name, own = dataset.info.name, folder.resolve().name
    official = facts["official"] or facts["hash"] == dataset.content
    if official and not as_parquet:
        return name, []
    if official and _plain(own) == _plain(name):
        return own, []
    every = [*DATASETS.values(), FOLDER]
    taken = {_plain(each) for data in every for each in (data.info.name, data.own_folder)}
    label = own if _plain(own) not in taken else f"{own or name}-{facts['hash'][:8]}"
    if as_parquet and label == own:
        return label, []
    return label, [
        f"the files in {folder} are not known to be {name} as published: results call them {label}"
    ]


def _plain(name: str) -> str:
    """Return one spelling for names that a reader takes for the same: CIFAR-10 and cifar10."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _download(dataset: Dataset, folder: Path) -> None:
    assert dataset.download is not None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        dataset.download(folder)
    except (OSError, RuntimeError) as error:
        get = dataset.info.get.format(folder=folder)
        raise DataError(f"cannot download {dataset.info.name}: {error}; by hand: put {get}") from error


def _kept(home: Path) -> Facts | None:
    """Return what the cache says of a data set; None if it is absent or damaged, and must be made again."""
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
                "info": None if reading.info is None else asdict(reading.info),
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
