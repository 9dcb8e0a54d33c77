"""Folders of Parquet files as image hubs publish them: an image column {bytes, path} and a label column."""

import functools
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.datasets.base import DatasetInfo, Images, Labels, Splits
from benchmark.errors import DataError

_TEST_PREFIXES = ("test", "valid")  # the first that exists; some data sets label no test split


def _files(folder: Path, prefix: str) -> list[Path]:
    return sorted([*folder.glob(f"{prefix}*.parquet"), *folder.glob(f"data/{prefix}*.parquet")])


def split_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files of the training and of the test split; empty lists where there are none."""
    tests = (files for prefix in _TEST_PREFIXES if (files := _files(folder, prefix)))
    return _files(folder, "train"), next(tests, [])


def fingerprint(folder: Path) -> Any:
    """Names, sizes and times of the files, or None unless both splits are there."""
    train, test = split_files(folder)
    if not train or not test:
        return None
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in train + test]


def read(folder: Path, info: DatasetInfo) -> Splits:
    """Decode both splits.

    Raises:
        DataError: a file that is no Parquet, lacks the columns, or holds images of another size.
    """
    train, test = split_files(folder)
    return Splits(*_read_split(train, info), *_read_split(test, info))


def _read_split(files: list[Path], info: DatasetInfo) -> tuple[Images, Labels]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images, labels = [], []
    for file in files:
        try:
            table = pq.read_table(file)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"cannot read {file}: {error}; fetch it again") from error
        image_column, label_column = _columns(file, table.column_names)
        encoded = [cell["bytes"] for cell in table.column(image_column).to_pylist()]
        with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
            images += list(pool.map(functools.partial(_decode, info=info, file=file), encoded))
        labels.append(np.asarray(table.column(label_column).to_pylist(), dtype=np.int64))
    x, y = np.stack(images), np.concatenate(labels)
    if y.min() < 0 or y.max() >= info.classes:
        raise DataError(
            f"{files[0]} has labels {y.min()} to {y.max()}, {info.name} has {info.classes} classes"
        )
    return x, y


def _columns(file: Path, names: list[str]) -> tuple[str, str]:
    image = next((name for name in ("img", "image") if name in names), None)
    label = next((name for name in ("label", "labels", "fine_label") if name in names), None)
    if image is None or label is None:
        raise DataError(f"{file} has columns {', '.join(names)}; expected img or image, and label")
    return image, label


def _decode(content: bytes, info: DatasetInfo, file: Path) -> Images:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("L" if info.channels == 1 else "RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{file} holds an image that cannot be decoded: {error}") from error
    if pixels.shape[:2] != (info.size, info.size):
        raise DataError(
            f"{file} holds {pixels.shape[1]}×{pixels.shape[0]} images, "
            f"{info.name} is {info.size}×{info.size}: is --data-dir right?"
        )
    return pixels[None] if info.channels == 1 else pixels.transpose(2, 0, 1)
