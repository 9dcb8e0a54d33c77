"""Any folder of images with classes of its own: a tree of class folders, or Parquet files of an image hub.

A tree is ``train/CLASS/*.png`` and ``test`` or ``val`` alike, as torchvision's ImageFolder reads it; Parquet
files are those of ``parquet.py``. Classes are numbered in the sorted order of their names, and a split's
images are ordered by class and then by a hash of their pixels, so both forms of the same images are one data
set: same hash, same ids, same numbers.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robustness_bench.benchmark.data import parquet
from robustness_bench.benchmark.data.base import Dataset, DatasetInfo, Images, Labels, Reading, Source, Splits
from robustness_bench.benchmark.data.images import SUFFIXES, decode_plain, image_files, subfolders
from robustness_bench.benchmark.data.labels import numberings, numbers_of
from robustness_bench.benchmark.errors import BenchError, DataError

_NAME = "folder"
_TESTS = ("test", "val", "valid", "validation")
_FIT = re.compile(r"(crop|pad|stretch):([1-9]\d{0,3})")
_READERS = 1  # raise it when the same files come to be read differently


class Fit(NamedTuple):
    """How images become square and of one size: only if asked.

    crop cuts the middle of an image whose shorter side was scaled, pad puts the image whose longer side was
    scaled into the middle of a black square, stretch scales both sides. Bicubic, with Pillow.
    """

    how: str
    size: int


class _Labelled(NamedTuple):
    """A split before its images are read: for each what errors call it, what gives its content, its class."""

    cells: list[tuple[str, Callable[[], bytes]]]
    y: list[int]
    where: str


def parse_fit(text: str) -> Fit | None:
    """Parse ``crop:32``, ``pad:32`` or ``stretch:32``; an empty text gives None.

    Raises:
        BenchError: another text.
    """
    match = _FIT.fullmatch(text)
    if text and match is None:
        raise BenchError(f"--fit must be crop:SIZE, pad:SIZE or stretch:SIZE, such as crop:32, got {text!r}")
    return Fit(match[1], int(match[2])) if match else None


def find(folder: Path, fit: str = "") -> Source | None:
    """Find the class folders or the Parquet files in ``folder``; None if there are neither.

    Raises:
        DataError: both, a split that is missing, or classes that differ between splits.
    """
    asked = parse_fit(fit)
    if not folder.is_dir():
        return None
    tree = (folder / "train").is_dir() and bool(subfolders(folder / "train"))
    chosen = parquet.choose(folder, folder.resolve().name, alone=not tree)
    if tree and chosen:
        raise DataError(
            f"{folder} holds class folders and {chosen.files[0]}; move one of them to another folder"
        )
    decides = f"folder {_READERS} {fit}"
    if chosen:
        return Source(
            files=chosen.files,
            read=lambda: _read_parquet(chosen, asked, str(folder)),
            decides=decides,
            notes=chosen.notes,
        )
    return _tree(folder, asked, decides) if tree else None


def _tree(folder: Path, fit: Fit | None, decides: str) -> Source:
    place, notes = _test_split(folder)
    classes = [path.name for path in subfolders(folder / "train")]
    train, test = _split(folder / "train", classes), _split(place, classes)
    if lacking := [name for i, name in enumerate(classes) if i not in train.y]:
        raise DataError(f"{folder / 'train' / lacking[0]} holds no images; fill it, or remove it")
    return Source(
        files=tuple(Path(where) for split in (train, test) for where, _ in split.cells),
        read=lambda: _read(train, test, classes, fit, str(folder)),
        decides=decides,
        notes=notes,
    )


def _test_split(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the first of test, val, … with class folders, and a note if another is ignored."""
    there = [folder / name for name in _TESTS if (folder / name).is_dir()]
    usable = [place for place in there if subfolders(place)]
    if not usable:
        bare = f"{there[0]} has no class folders" if there else f"{folder} has train, but no test or val"
        raise DataError(f"{bare}: put the test images into {folder / 'test'}/CLASS/, as those of train")
    aside = [place.name for place in there if place != usable[0]]
    note = f"{folder}: {usable[0].name} is the test split, {', '.join(aside)} is left aside"
    return usable[0], (note,) if aside else ()


def _split(place: Path, classes: Sequence[str]) -> _Labelled:
    """Return the images of a split, class by class, in its folder and those below it."""
    images = [path for path in sorted(place.iterdir()) if path.suffix.lower() in SUFFIXES]
    if strays := [path for path in images if path.is_file() and not path.name.startswith(".")]:
        raise DataError(
            f"{strays[0]} lies outside of the class folders; move it into its class, or remove it"
        )
    files: list[Path] = []
    y: list[int] = []
    for each in subfolders(place):
        if each.name not in classes:
            raise DataError(f"{each} is a class that {place.parent / 'train'} lacks; remove it, or add it")
        found = _below(each)
        files += found
        y += [classes.index(each.name)] * len(found)
    return _Labelled([(str(file), file.read_bytes) for file in files], y, str(place))


def _below(place: Path) -> list[Path]:
    return [*image_files(place), *(file for inner in subfolders(place) for file in _below(inner))]


def _read_parquet(chosen: parquet.Chosen, fit: Fit | None, folder: str) -> Reading:
    train = parquet.open_train(chosen)
    test, note = parquet.open_test(chosen)
    classes = _classes(train)
    for part in test:
        if strange := [name for name in part.names or () if name.strip() not in classes]:
            raise DataError(
                f"{part.path} names the class {strange[0]!r}, which {train[0].path} lacks; give both the "
                "same names"
            )
    named = {str(part.path): part.names for part in train + test}
    maps, _ = numberings(named, tuple(classes), f"the sorted classes of {folder}")
    read = [_labelled(parts, maps, classes, folder) for parts in (train, test)]
    reading = _read(read[0], read[1], classes, fit, folder)
    return reading._replace(notes=(*filter(None, (note,)), *reading.notes))


def _classes(train: Sequence[parquet.Part]) -> list[str]:
    """Return the classes' names, in the schema or the labels, sorted; numbers are their own names."""
    named = {part.names for part in train}
    if len({frozenset(names) if names else None for names in named}) > 1:
        raise DataError(f"the files beside {train[0].path} name different classes; give all the same names")
    if names := train[0].names:
        return sorted(name.strip() for name in names)
    values = [value for part in train for value in part.values or ()]
    if all(isinstance(value, str) for value in values):
        return sorted({value.strip() for value in values})
    where = str(train[0].path)
    found = set(numbers_of(values, (), "it", where))
    if found != set(range(len(found))):
        raise DataError(
            f"{where} has labels {min(found)} to {max(found)} of {len(found)} classes and no names; number "
            "classes from 0 without a gap, or name them in the schema"
        )
    return [str(number) for number in sorted(found)]


def _labelled(
    parts: Sequence[parquet.Part], maps: dict[str, list[int]], classes: Sequence[str], folder: str
) -> _Labelled:
    cells: list[tuple[str, Callable[[], bytes]]] = []
    y: list[int] = []
    for part, labels in parquet.labelled(parts, maps, tuple(classes), f"the training split of {folder}"):
        encoded, column = parquet.image_cells(part)
        if encoded is None:
            kind = f"images of type {column.type}"
            raise DataError(f"{part.path} has {kind}; store them as PNG in {{bytes, path}}")
        cells += encoded
        y += labels.tolist()
    return _Labelled(cells, y, str(parts[0].path))


def _read(train: _Labelled, test: _Labelled, classes: Sequence[str], fit: Fit | None, folder: str) -> Reading:
    """Read both splits as arrays, with the facts of the data set.

    Raises:
        DataError: images of different or no square size, an empty split, or a single class.
    """
    if len(classes) < 2:
        raise DataError(f"{folder} has {len(classes)} class; there must be at least 2 to tell apart")
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise DataError(f"{folder} names the class {twice[0]!r} twice; mend its names")
    pixels = [_decoded(split, fit) for split in (train, test)]
    _check_sizes(zip([*train.cells, *test.cells], [*pixels[0], *pixels[1]], strict=True), fit)
    channels = 1 if all(each.ndim == 2 for split in pixels for each in split) else 3
    splits = Splits(*_ordered(pixels[0], train.y, channels), *_ordered(pixels[1], test.y, channels))
    shared = len({each.tobytes() for each in splits.train_x} & {each.tobytes() for each in splits.test_x})
    notes = (f"{folder}: {shared} test images are training images too",) if shared else ()
    return Reading(splits, notes=notes, info=_facts(splits, classes))


def _decoded(split: _Labelled, fit: Fit | None) -> list[Images]:
    if not split.cells:
        raise DataError(f"{split.where} holds no images; fill it, or is --data-dir right?")
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        return list(pool.map(lambda cell: _fitted(decode_plain(cell[1](), cell[0]), fit), split.cells))


def _fitted(pixels: Images, fit: Fit | None) -> Images:
    """Return (H, W) or (H, W, 3) as a square."""
    if fit is None or pixels.shape[:2] == (fit.size, fit.size):
        return pixels
    from PIL import Image, ImageOps

    image, box = Image.fromarray(pixels), (fit.size, fit.size)
    if fit.how == "crop":
        image = ImageOps.fit(image, box, Image.Resampling.BICUBIC)
    elif fit.how == "pad":
        image = ImageOps.pad(image, box, Image.Resampling.BICUBIC)
    else:
        image = image.resize(box, Image.Resampling.BICUBIC)
    return np.asarray(image)


def _check_sizes(read: "zip[tuple[tuple[str, Callable[[], bytes]], Images]]", fit: Fit | None) -> None:
    """Raise DataError unless all are squares of one size."""
    wanted: tuple[str, int] | None = None
    for (where, _), pixels in read:
        height, width = pixels.shape[:2]
        remedy = f"--fit crop:{min(height, width)}, pad or stretch makes all of them squares of one size"
        if height != width:
            raise DataError(f"{where} is {width}×{height}, not a square; {remedy}")
        wanted = wanted or (where, height)
        if height != wanted[1]:
            raise DataError(f"{where} is {width}×{height}, {wanted[0]} is {wanted[1]}×{wanted[1]}; {remedy}")


def _ordered(pixels: Sequence[Images], y: Sequence[int], channels: int) -> tuple[Images, Labels]:
    """Return images (N, C, H, W) and labels (N,), by class and then by a hash of the pixels."""
    images = [each[None] if each.ndim == 2 else each.transpose(2, 0, 1) for each in pixels]
    images = [np.ascontiguousarray(np.broadcast_to(x, (channels, *x.shape[1:]))) for x in images]
    keys = [(label, hashlib.sha256(x.tobytes()).digest()) for x, label in zip(images, y, strict=True)]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return np.stack([images[i] for i in order]), np.asarray([y[i] for i in order], dtype=np.int64)


def _facts(splits: Splits, classes: Sequence[str]) -> DatasetInfo:
    """Return the facts of a folder; mean and deviation are of the training images, to four digits."""
    x = splits.train_x
    n, channels, size, _ = x.shape
    means = [float(x[:, c].mean(dtype=np.float64)) / 255 for c in range(channels)]
    stds = [float(x[:, c].std(dtype=np.float64)) / 255 for c in range(channels)]
    return replace(
        FOLDER.info,
        channels=channels,
        size=size,
        classes=len(classes),
        train_images=n,
        test_images=len(splits.test_y),
        mean=tuple(round(each, 4) for each in means),
        std=tuple(max(round(each, 4), 1e-4) for each in stds),  # of images without any contrast
    )


FOLDER = Dataset(
    info=DatasetInfo(
        name=_NAME,
        summary="the images in --data-dir, with their own classes: train/CLASS/, test/CLASS/ or val/CLASS/, "
        "or Parquet files of an image hub; any square size, grey or colour",
        channels=0,
        size=0,
        classes=0,
        train_images=0,
        test_images=0,
        mean=(),
        std=(),
        eps_linf=8 / 255,
        eps_l2=0.5,
        get="class folders train/CLASS/*.png and test/CLASS/*.png, or train*.parquet and test*.parquet, "
        "into {folder}",
    ),
    classes=(),
    find=find,
)
