"""Tiny-ImageNet (Wu et al. 2017) in the folder layout of its official zip; its validation split tests."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.datasets.base import Dataset, DatasetInfo, Images, Splits
from benchmark.errors import DataError

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
_NAME = "tiny-imagenet-200"


def fingerprint(folder: Path) -> Any:
    """Times of the class folders and the lists; None unless the layout is there."""
    root = folder / _NAME
    lists = [root / "wnids.txt", root / "val" / "val_annotations.txt"]
    if not all(file.is_file() for file in lists):
        return None
    folders = [root / "train" / wnid / "images" for wnid in _wnids(root)]
    if missing := [str(path) for path in folders if not path.is_dir()]:
        raise DataError(f"Tiny-ImageNet is incomplete: {missing[0]} is missing; unpack the zip again")
    return [[str(path.relative_to(root)), path.stat().st_mtime_ns] for path in lists + folders]


def _wnids(root: Path) -> list[str]:
    return (root / "wnids.txt").read_text().split()


def read(folder: Path) -> Splits:
    """Classes are numbered in the sorted order of their WordNet ids, as image hubs do."""
    root = folder / _NAME
    classes = {wnid: number for number, wnid in enumerate(sorted(_wnids(root)))}
    train = [
        (file, number)
        for wnid, number in classes.items()
        for file in sorted((root / "train" / wnid / "images").iterdir())
    ]
    lines = (root / "val" / "val_annotations.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines if line]
    test = [(root / "val" / "images" / row[0], classes[row[1]]) for row in rows]
    arrays: list[Any] = []
    for split in (train, test):
        with ThreadPoolExecutor() as pool:
            images = list(pool.map(_read_image, [file for file, _ in split]))
        arrays += [np.stack(images), np.asarray([label for _, label in split], dtype=np.int64)]
    return Splits(*arrays)


def _read_image(file: Path) -> Images:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error}; unpack the zip again") from error


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
    fingerprint=fingerprint,
    read=read,
    download=download,
)
