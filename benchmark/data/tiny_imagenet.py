"""Tiny-ImageNet (Wu et al. 2017) in the folder layout of its official zip; its validation split tests."""

import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustness_bench.benchmark.data.base import Dataset, DatasetInfo, Reading, Source, Splits
from robustness_bench.benchmark.data.images import decode_all, image_files, subfolders
from robustness_bench.benchmark.data.labels import check_split, numberings
from robustness_bench.benchmark.data.wordnet import TINY_IMAGENET_WNIDS
from robustness_bench.benchmark.errors import DataError

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
_NAME = "tiny-imagenet-200"
_TRAIN_EACH, _VAL_EACH = 500, 50
_COPY = re.compile(r"\(\d+\)$| copy( \d+)?$|~$", re.IGNORECASE)
_NUMBERED = re.compile(r"val_(\d+)", re.IGNORECASE)


class _Image(NamedTuple):
    file: Path
    wnid: str


class _Layout(NamedTuple):
    """What the folders and lists say, before any image is read."""

    root: Path
    wnids: list[str]
    train: list[_Image]
    val: list[_Image]
    lists: list[Path]


def find(folder: Path) -> Source | None:
    """Find the layout in ``folder`` or its ``tiny-imagenet-200``; ``val`` as published or in class folders.

    Raises:
        DataError: parts are missing, contradict each other, or name unknown classes.
    """
    roots = [root for root in (folder, folder / _NAME) if _is_root(root)]
    if not roots:
        return None
    if len(roots) > 1:
        raise DataError(f"{roots[0]} and {roots[1]} both hold Tiny-ImageNet: name one of them as --data-dir")
    layout = _layout(roots[0])
    files = (*layout.lists, *(image.file for image in layout.train + layout.val))
    return Source(files=files, read=lambda: _read(layout))


def _damaged(what: str) -> DataError:
    return DataError(f"{what}; unpack the zip again")


def _is_root(root: Path) -> bool:
    if (root / "wnids.txt").is_file():
        return True
    train, val = root / "train", root / "val"
    return train.is_dir() and val.is_dir() and bool(subfolders(train))


def _layout(root: Path) -> _Layout:
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise _damaged(f"Tiny-ImageNet is incomplete: {root / part} is missing")
    listed, annotations = root / "wnids.txt", root / "val" / "val_annotations.txt"
    folders = subfolders(root / "train")
    wnids = _lines(listed) if listed.is_file() else [path.name for path in folders]
    _check_classes(root, wnids, folders, listed)
    train = [image for wnid in sorted(wnids) for image in _class_images(root / "train" / wnid)]
    return _Layout(
        root,
        wnids,
        train,
        _val(root / "val", wnids, annotations),
        [f for f in (listed, annotations) if f.is_file()],
    )


def _check_classes(root: Path, wnids: list[str], folders: list[Path], listed: Path) -> None:
    if not wnids:
        raise _damaged(f"{listed if listed.is_file() else root / 'train'} names no classes")
    if twice := [wnid for wnid, count in Counter(wnids).items() if count > 1]:
        raise _damaged(f"{listed} names {twice[0]} twice")
    names = [path.name for path in folders]
    if missing := [wnid for wnid in wnids if wnid not in names]:
        raise _damaged(f"Tiny-ImageNet is incomplete: {root / 'train' / missing[0]} is missing")
    if extra := [name for name in names if name not in wnids]:
        raise DataError(
            f"{root / 'train' / extra[0]} is a class that {listed} does not name; remove one of the two"
        )


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise _damaged(f"{file} is no text: {error}") from error


def _images(place: Path) -> list[Path]:
    """Return the images in a folder, by name.

    Raises:
        DataError: a file that is none, or a copy of another.
    """
    found = image_files(place)
    stems = Counter(path.stem.lower() for path in found)
    if copies := [path for path in found if _COPY.search(path.stem) or stems[path.stem.lower()] > 1]:
        raise DataError(f"{copies[0]} is a copy of another image; remove one of the two")
    return found


def _class_images(place: Path) -> list[_Image]:
    """Return the images of a class, in its folder or in ``images`` below."""
    inner = place / "images"
    direct, below = _images(place), _images(inner) if inner.is_dir() else []
    if direct and below:
        raise DataError(f"{place} has images of its own and in {inner.name}; leave one of the two")
    if not direct and not below:
        raise _damaged(f"{place} holds no images")
    return [_Image(file, place.name) for file in direct or below]


def _val(place: Path, wnids: list[str], annotations: Path) -> list[_Image]:
    """Return the validation images in the order of the list; without a list, by number or name."""
    rows = _rows(annotations) if annotations.is_file() else {}
    flat = _images(place / "images") if (place / "images").is_dir() else []
    folders = [path for path in subfolders(place) if path.name != "images"]
    if flat and folders:
        raise DataError(f"{place} has images in {folders[0].name} and in images; leave one of the two")
    if not flat and not folders:
        raise _damaged(f"Tiny-ImageNet is incomplete: {place} holds no images")
    if flat and not rows:
        raise _damaged(f"Tiny-ImageNet is incomplete: {annotations} is missing")
    files = {path.name: _Image(path, rows.get(path.name, "")) for path in flat}
    for image in (image for folder in folders for image in _class_images(folder)):
        if image.file.name in files:
            raise DataError(
                f"{image.file} and {files[image.file.name].file} have one name; remove one of them"
            )
        files[image.file.name] = image
    _check_rows(place, files, rows, annotations, wnids)
    return [files[name] for name in (rows or sorted(files, key=_by_number))]


def _rows(annotations: Path) -> dict[str, str]:
    """Return file name -> wnid, from the list that came with the images."""
    rows: dict[str, str] = {}
    for number, line in enumerate(_lines(annotations), start=1):
        cells = line.split("\t")
        if len(cells) < 2:
            raise _damaged(f"{annotations}, line {number}: no file and class with a tab between")
        if cells[0] in rows:
            raise _damaged(f"{annotations} lists {cells[0]} twice")
        rows[cells[0]] = cells[1]
    return rows


def _by_number(name: str) -> tuple[int, str]:
    match = _NUMBERED.match(name)
    return (int(match[1]) if match else -1, name)


def _check_rows(
    place: Path, files: dict[str, _Image], rows: dict[str, str], annotations: Path, wnids: list[str]
) -> None:
    known = set(wnids)
    for name, image in files.items():
        wnid = rows.get(name, image.wnid) if rows else image.wnid
        if rows and name not in rows:
            raise DataError(f"{image.file} is not in {annotations}; remove it, or unpack the zip again")
        if wnid not in known:
            source = annotations if rows else image.file
            raise _damaged(f"{source}: {name} is of the class {wnid}, which train lacks")
        if wnid != image.wnid:
            raise _damaged(f"{image.file} is of {wnid} by {annotations}")
    if missing := [name for name in rows if name not in files]:
        raise _damaged(f"{annotations} lists {missing[0]}, which {place} lacks")


def _read(layout: _Layout) -> Reading:
    """Classes are numbered in the sorted order of their WordNet ids, as image hubs do."""
    info, where = TINY_IMAGENET.info, str(layout.root)
    names = tuple(sorted(layout.wnids))
    maps, note = numberings({where: names}, TINY_IMAGENET.classes, info.name)
    classes = dict(zip(names, maps[where], strict=True))
    arrays: list[Any] = []
    for images in (layout.train, layout.val):
        x = decode_all([(str(image.file), image.file.read_bytes) for image in images], info)
        y = np.asarray([classes[image.wnid] for image in images], dtype=np.int64)
        check_split(x, y, info, where)
        arrays += [x, y]
    splits = Splits(*arrays)
    return Reading(splits, official=_is_whole(splits), notes=(note,) if note else ())


def _is_whole(splits: Splits) -> bool:
    """Return whether there are as many images of each class as published; no hash of those is known."""
    parts = ((splits.train_y, _TRAIN_EACH), (splits.test_y, _VAL_EACH))
    classes = TINY_IMAGENET.info.classes
    return all((np.bincount(y, minlength=classes) == each).all() for y, each in parts)


def download(folder: Path, url: str = URL, md5: str = MD5) -> None:
    """Fetch the zip, check it, unpack it."""
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(url, str(folder), filename=f"{_NAME}.zip", md5=md5)


TINY_IMAGENET = Dataset(
    info=DatasetInfo(
        name="tiny-imagenet",
        summary="Tiny-ImageNet, 64×64 colour, 200 classes (Wu et al. 2017)",
        channels=3,
        size=64,
        classes=200,
        train_images=100_000,
        test_images=10_000,
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        eps_linf=8 / 255,
        eps_l2=0.5,
        get=f"{URL} (237 MB), unpacked to {{folder}}/{_NAME}",
    ),
    classes=TINY_IMAGENET_WNIDS,
    find=find,
    own_folder=_NAME,
    download=download,
)
