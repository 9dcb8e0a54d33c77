"""Folders of Parquet files as image hubs publish them: a column of images and a column of labels."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from robustness_bench.benchmark.data.base import Dataset, DatasetInfo, Images, Labels, Reading, Source, Splits
from robustness_bench.benchmark.data.images import decode_all, fit_arrays, unit_floats, whole_numbers
from robustness_bench.benchmark.data.labels import Names, check_split, numberings, numbers_of, renumbered
from robustness_bench.benchmark.errors import DataError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

_SPLITS = {"train": "train", "test": "test", "valid": "valid", "validation": "valid", "val": "valid"}
_FOLDERS = ("data", "plain_text", "default")
_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_NAME = re.compile(
    rf"(?:(?P<prefix>.+)[-_.])?(?P<split>{'|'.join(_SPLITS)})"
    r"(?:[-_.](?P<index>\d+)(?:[-_.]of[-_.](?P<total>\d+))?(?:-[0-9a-f]{8,})?)?"
)


class _File(NamedTuple):
    """A Parquet file, and what its name says."""

    path: Path
    word: str
    """As the split is written: train, test, valid, validation or val."""
    number: int | None
    total: int | None

    @property
    def split(self) -> str:
        return _SPLITS[self.word]

    @property
    def form(self) -> tuple[Path, str, bool, int | None]:
        """What the files of one set share."""
        return self.path.parent, self.word, self.number is None, self.total


@dataclass(frozen=True)
class Chosen:
    """The files of each split, those that are left aside, and what to say of them."""

    splits: dict[str, list[_File]]
    others: list[Path]
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All that are read."""
        return tuple(path for split in ("train", "test", "valid") for path in self.paths(split))

    def paths(self, split: str) -> list[Path]:
        return sorted(file.path for file in self.splits.get(split, ()))


def find(folder: Path, dataset: Dataset, *, alone: bool) -> Source | None:
    """Find the files of a known data set (``choose``).

    Args:
        alone: nothing else in the folder holds the data set.

    Raises:
        DataError: as ``choose``.
    """
    chosen = choose(folder, dataset.info.name, alone=alone)
    if chosen is None:
        return None
    return Source(files=chosen.files, read=lambda: _read(chosen, dataset), notes=chosen.notes)


def choose(folder: Path, name: str, *, alone: bool) -> Chosen | None:
    """Find Parquet files of a training and a test or validation split, in ``folder`` or one level down.

    A split's files are called by its word and numbered at most: train, test-00000-of-00002, data_set-val.
    A file whose name says more (test_corrupted) is another split's and left aside.

    Args:
        name: of the data set, which its files and folder may have.
        alone: nothing else in the folder holds the data set.

    Raises:
        DataError: a split that lies twice or lacks shards, or, if ``alone``, a split that is missing.
    """
    chosen = _choose(folder, name)
    there = [split for split in ("train", "test", "valid") if chosen.splits.get(split)]
    if "train" not in there or len(there) < 2:
        if alone and (there or any(_hints(path) for path in chosen.others)):
            raise _incomplete(folder, chosen, there)
        return None
    for split in there:
        _check_shards(split, chosen.splits[split])
    aside = ", ".join(str(path.relative_to(folder)) for path in chosen.others)
    notes = (f"{folder}: left aside {aside}, whose names are of no split",) if aside else ()
    return Chosen(chosen.splits, chosen.others, notes)


def _choose(folder: Path, name: str) -> Chosen:
    places = [folder, *(folder / each for each in (*_FOLDERS, name))]
    places += [place / each for place in places for each in _SPLITS]
    files: list[_File] = []
    others: list[Path] = []
    for place in places:
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if path.suffix.lower() != ".parquet" or path.name.startswith(".") or not path.is_file():
                continue
            file = _parsed(path, {name, folder.resolve().name})
            files += [file] if file else []
            others += [] if file else [path]
    return Chosen({each: [file for file in files if file.split == each] for each in _SPLITS.values()}, others)


def _parsed(path: Path, prefixes: set[str]) -> _File | None:
    stem = path.stem.lower()
    if path.parent.name in _SPLITS and stem.isdecimal():  # train/0000.parquet
        return _File(path, path.parent.name, int(stem), None)
    match = _NAME.fullmatch(stem)
    if match is None or (match["prefix"] and match["prefix"] not in {each.lower() for each in prefixes}):
        return None
    index, total = (int(match[key]) if match[key] else None for key in ("index", "total"))
    return _File(path, match["split"], index, total)


def _hints(path: Path) -> bool:
    """Return whether a file may be meant as a split, so that ignoring it silently would mislead."""
    return any(word in path.stem.lower() for word in _SPLITS)


def _incomplete(folder: Path, chosen: Chosen, there: list[str]) -> DataError:
    lacks = "train" if "train" not in there else "test"
    near = [path.name for path in chosen.others if _hints(path)]
    meant = f" (is it {' or '.join(near)}?)" if near else ""
    return DataError(
        f"{folder} has Parquet files but no {lacks} split{meant}: call its files {lacks}.parquet or "
        f"{lacks}-00000-of-00001.parquet"
    )


def _check_shards(split: str, files: list[_File]) -> None:
    """Check that each file of a split is there once, and none is missing.

    Raises:
        DataError: naming the files.
    """
    first = files[0]
    others = [file for file in files[1:] if file.form != first.form or file.number is None]
    if others:
        raise DataError(
            f"the {split} split lies twice: {first.path} and {others[0].path}; leave one set of files"
        )
    indices = [file.number for file in files if file.number is not None]
    if not indices:
        return
    if len(set(indices)) < len(indices):
        twice = next(index for index in indices if indices.count(index) > 1)
        shown = " and ".join(str(file.path) for file in files if file.number == twice)
        raise DataError(f"the {split} split has part {twice} twice: {shown}; remove one")
    start = 0 if first.total is not None else min(min(indices), 1)
    stop = start + (first.total or len(indices))
    wanted = set(range(start, stop))
    if missing := sorted(wanted - set(indices)):
        raise DataError(f"the {split} split lacks part {missing[0]} beside {first.path}; fetch it again")
    if extra := sorted(set(indices) - wanted):
        raise DataError(
            f"the {split} split has part {extra[0]} of {first.total} beside {first.path}; fetch it again"
        )


class Part(NamedTuple):
    """A file, opened: its columns' names, its labels before they are mapped."""

    path: Path
    image: str
    values: list[Any] | None
    """None where the file has no labels."""
    names: Names | None


def _read(chosen: Chosen, dataset: Dataset) -> Reading:
    train = open_train(chosen)
    test, note = open_test(chosen)
    maps, other = numberings(
        {str(part.path): part.names for part in train + test}, dataset.classes, dataset.info.name
    )
    splits = [_read_split(parts, maps, dataset) for parts in (train, test)]
    return Reading(Splits(*splits[0], *splits[1]), notes=tuple(filter(None, (note, other))))


def open_train(chosen: Chosen) -> list[Part]:
    """Open the training split.

    Raises:
        DataError: a file that cannot be read, or that has no labels.
    """
    parts = [_open(path) for path in chosen.paths("train")]
    if blank := [part for part in parts if part.values is None]:
        raise DataError(f"{blank[0].path} has no labels; expected a column label")
    return parts


def open_test(chosen: Chosen) -> tuple[list[Part], str]:
    """Open the test split, or the validation split if the test split has no labels; also return a note or "".

    Raises:
        DataError: a file that cannot be read, or neither has labels.
    """
    test, valid = chosen.paths("test"), chosen.paths("valid")
    parts = [_open(path) for path in test or valid]
    blank = [part for part in parts if part.values is None]
    if not blank:
        return parts, ""
    if len(blank) < len(parts) or not (test and valid):
        raise DataError(
            f"{blank[0].path} has no labels: nothing can be measured on it; add valid*.parquet with labels, "
            "or labels to it"
        )
    parts = [_open(path) for path in valid]
    if blank := [part for part in parts if part.values is None]:
        raise DataError(f"neither {test[0]} nor {blank[0].path} has labels: nothing can be measured on them")
    return parts, f"{test[0]} has no labels: {valid[0]} is the test split"


def _open(path: Path) -> Part:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            image, label = _columns(path, schema.names)
            labels = file.read(columns=[label]).column(0) if label else None
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    values = None if labels is None else _values(path, labels)
    return Part(path, image, values, _class_names(path, schema, label))


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"cannot read {path}: {first_line(error)}; fetch it again")


def _columns(path: Path, names: list[str]) -> tuple[str, str]:
    images = [name for name in names if name in _IMAGE_COLUMNS]
    labels = [name for name in names if name in _LABEL_COLUMNS]
    if not images:
        raise DataError(f"{path} has columns {', '.join(names)}; expected img or image, and label")
    for kind, found in (("images", images), ("labels", labels)):
        if len(found) > 1:
            raise DataError(f"{path} has {kind} in {' and '.join(found)}; leave one of these columns")
    return images[0], labels[0] if labels else ""


def _values(path: Path, labels: "pa.ChunkedArray") -> list[Any] | None:
    """Return a column of labels; None if all are null or -1, which is how hubs mark missing labels."""
    import pyarrow as pa

    kind = labels.type
    if pa.types.is_dictionary(kind):
        labels, kind = labels.cast(kind.value_type), kind.value_type
    plain = (pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_large_string)
    if not (pa.types.is_null(kind) or any(check(kind) for check in plain)):
        raise DataError(f"{path} has labels of type {kind}; expected whole numbers")
    values: list[Any] = labels.to_pylist()
    if values and all(value is None or value == -1 for value in values):
        return None
    if None in values:
        raise DataError(f"{path} has no label in row {values.index(None)}; remove the row, or label it")
    return values


def _class_names(path: Path, schema: "pa.Schema", label: str) -> Names | None:
    """Return the classes' names in the schema's metadata: Hugging Face's, or a line each under "classes"."""
    metadata = schema.metadata or {}
    found = []
    if lines := metadata.get(b"classes"):
        found.append(tuple(lines.decode("utf-8", "replace").split("\n")))
    if text := metadata.get(b"huggingface"):
        try:
            feature = json.loads(text)["info"]["features"].get(label, {})
            names = feature.get("names")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} has class names that cannot be read; write the file again") from error
        found += [tuple(str(name) for name in names)] if names else []
    if len(set(found)) > 1:
        raise DataError(f"{path} names its classes twice and differently; leave one of the lists")
    return found[0] if found else None


def _read_split(parts: list[Part], maps: dict[str, list[int]], dataset: Dataset) -> tuple[Images, Labels]:
    info, read = dataset.info, list(labelled(parts, maps, dataset.classes, dataset.info.name))
    if not read:
        raise DataError(f"{parts[0].path} holds no images; fetch it again")
    x = np.concatenate([_read_images(part, info) for part, _ in read])
    y = np.concatenate([labels for _, labels in read])
    check_split(x, y, info, str(parts[0].path))
    return x, y


def labelled(
    parts: Sequence[Part], maps: dict[str, list[int]], classes: Names, name: str
) -> Iterator[tuple[Part, Labels]]:
    """Yield every file that has rows, with its labels in the numbering of ``classes``.

    Args:
        maps: file -> the numbers that its own numbers stand for (``labels.numberings``).
        name: what an error calls the owner of the classes.

    Raises:
        DataError: a label beyond the classes.
    """
    for part in parts:
        where = str(part.path)
        if not part.values:
            continue  # a shard may be empty, a split may not
        numbers = numbers_of(part.values, classes, name, where)
        if not all(0 <= each < len(classes) for each in numbers):
            raise DataError(
                f"{where} has labels {min(numbers)} to {max(numbers)}, {name} has {len(classes)} classes "
                f"(0 to {len(classes) - 1}): is --data-dir right?"
            )
        y = np.asarray(numbers, dtype=np.int64)
        yield part, y if isinstance(part.values[0], str) else renumbered(y, maps.get(where), where)


def _read_images(part: Part, info: DatasetInfo) -> Images:
    encoded, column = image_cells(part)
    if encoded is not None:
        return decode_all(encoded, info)
    return _read_lists(column, column.type, info, str(part.path))


def image_cells(part: Part) -> tuple[list[tuple[str, Callable[[], bytes]]] | None, "pa.ChunkedArray"]:
    """Return a file's encoded images (None if it has none), and their column.

    Returns:
        For each image how an error calls it, and what gives its content.

    Raises:
        DataError: a file that cannot be read, rows without an image, or paths in their place.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = str(part.path)
    try:
        with pq.ParquetFile(part.path) as file:
            column = file.read(columns=[part.image]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(part.path, error) from error
    if column.null_count:
        raise DataError(f"{where} has rows without an image; remove them")
    kind = column.type
    if pa.types.is_struct(kind) and "bytes" in [field.name for field in kind]:
        column = pa.chunked_array([chunk.field("bytes") for chunk in column.chunks])
        if column.null_count:
            raise DataError(
                f"{where} has paths in place of images; embed their bytes in the column {part.image}"
            )
        kind = column.type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        return None, column
    cells: list[Callable[[], bytes]] = [value.as_py for value in column]
    return [(f"{where}, row {row}", cell) for row, cell in enumerate(cells)], column


def _read_lists(column: "pa.ChunkedArray", kind: "pa.DataType", info: DatasetInfo, where: str) -> Images:
    """Read nested lists of pixels: bytes, integers from 0 to 255, or floats of [0, 1]."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks])
        kind = column.type
    leaf = kind
    while pa.types.is_list(leaf) or pa.types.is_large_list(leaf) or pa.types.is_fixed_size_list(leaf):
        leaf = leaf.value_type
    number = pa.types.is_integer(leaf) or pa.types.is_floating(leaf)
    if leaf == kind or not number:
        raise DataError(f"{where} has images of type {kind}; store them as PNG in {{bytes, path}}")
    stacked = _stacked([value.as_py() for value in column], leaf, where)
    if pa.types.is_floating(leaf):
        pixels = unit_floats(stacked, where)
    else:
        pixels = stacked if stacked.dtype == np.uint8 else whole_numbers(stacked, where)
    return fit_arrays(pixels, info, where)


def _stacked(rows: Sequence[Any], leaf: "pa.DataType", where: str) -> Any:
    try:
        return np.stack([np.asarray(row, dtype=leaf.to_pandas_dtype()) for row in rows])
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{where} has images of unequal or ragged shape; store them all alike") from error
