"""The same few images in every form that people keep them in, and forms that are wrong in one place."""

import gzip
import io
import json
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from robustness_bench.benchmark.data import DATASETS
from robustness_bench.benchmark.data.base import Splits

CLASSES = 10
ACCURACY = 88.0
"""Of the class means of the training images, in %: 12 of the 100 test images are labelled wrongly."""
CIFAR_NAMES = DATASETS["cifar10"].classes
WNIDS = DATASETS["tiny-imagenet"].classes[:CLASSES]
Build = Callable[[Path], Any]
Pixels = NDArray[Any]


@cache
def images(dataset: str) -> Splits:
    """40 training images, by class, and 100 test images, mixed: noise around a pattern for each class."""
    info = DATASETS[dataset].info
    rng = np.random.default_rng(0)
    patterns = rng.integers(40, 216, (CLASSES, info.channels, info.size, info.size))
    train_y, test_y = np.repeat(np.arange(CLASSES), 4), rng.permutation(np.repeat(np.arange(CLASSES), 10))
    train_x, test_x = (
        (patterns[y] + rng.integers(-30, 31, (len(y), *patterns.shape[1:]))).astype(np.uint8)
        for y in (train_y, test_y)
    )
    test_y[:12] = (test_y[:12] + 1) % CLASSES
    return Splits(train_x, train_y, test_x, test_y)


def accuracy(splits: Splits) -> float:
    """Of the nearest mean of the training images, on the test images, in %."""
    x, test = (each.reshape(len(each), -1).astype(np.float64) for each in (splits.train_x, splits.test_x))
    classes = np.unique(splits.train_y)
    means = np.stack([x[splits.train_y == each].mean(0) for each in classes])
    nearest = classes[((test[:, None] - means[None]) ** 2).sum(2).argmin(1)]
    return float(100 * (nearest == splits.test_y).mean())


def shown(x: Pixels) -> Pixels:
    """(C, H, W) as Pillow takes it."""
    return x[0] if len(x) == 1 else x.transpose(1, 2, 0)


def encoded(pixels: Pixels, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG of any depth, written by hand: Pillow writes few of them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff(side: int, bits: int, photometric: int, samples: bytes) -> bytes:
    """A square grey TIFF of one strip, which Pillow would not write."""
    entries = {256: side, 257: side, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: side}
    tags = b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in (entries | {279: len(samples)}).items()
    )
    head = b"II*\0" + struct.pack("<I", 8 + len(samples)) + samples
    return head + struct.pack("<H", len(entries) + 1) + tags + struct.pack("<I", 0)


def huggingface(names: Sequence[str]) -> dict[bytes, bytes]:
    """Schema metadata as the datasets library writes them."""
    label = {"names": list(names), "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": label}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def cells(x: Pixels, kind: str = "PNG", **options: Any) -> list[dict[str, Any]]:
    return [{"bytes": encoded(shown(image), kind, **options), "path": None} for image in x]


def table(image: Any, label: Any, metadata: dict[bytes, bytes] | None = None, **columns: Any) -> pa.Table:
    held = {"image": image, "label": label, **columns}
    return pa.table({key: value for key, value in held.items() if value is not None}).replace_schema_metadata(
        metadata
    )


def write(file: Path, content: pa.Table) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, file)


def parquet(
    folder: Path,
    dataset: str = "cifar10",
    *,
    train: str = "train",
    test: str = "test",
    names: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None),
    image: Callable[[Pixels], Any] = cells,
    label: Callable[[Sequence[int]], Any] = list,
) -> None:
    """Both splits as Parquet files; each split's labels in the order of its names, if it has names."""
    held = images(dataset)
    for name, x, y, own in (
        (train, held.train_x, held.train_y, names[0]),
        (test, held.test_x, held.test_y, names[1]),
    ):
        numbers = y.tolist()
        if own:
            theirs = [own_number(each, dataset, own) for each in numbers]
            kept = [row for row, each in enumerate(theirs) if each is not None]
            x, numbers = x[kept], [theirs[row] for row in kept]
        write(folder / f"{name}.parquet", table(image(x), label(numbers), huggingface(own) if own else None))


def own_number(number: int, dataset: str, names: Sequence[str]) -> int | None:
    name = DATASETS[dataset].classes[number]
    return list(names).index(name) if name in names else None


def idx(values: Pixels, kind: int = 8) -> bytes:
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, kind, values.ndim, *values.shape)
    return head + values.astype(values.dtype.newbyteorder(">")).tobytes()


def mnist_parts() -> dict[str, bytes]:
    held = images("mnist")
    return {
        "train-images-idx3-ubyte": idx(held.train_x[:, 0]),
        "train-labels-idx1-ubyte": idx(held.train_y.astype(np.uint8)),
        "t10k-images-idx3-ubyte": idx(held.test_x[:, 0]),
        "t10k-labels-idx1-ubyte": idx(held.test_y.astype(np.uint8)),
    }


def mnist(folder: Path, *, dotted: bool = False, packed: bool = False, **changed: bytes) -> None:
    """Four IDX files; ``changed`` by the name's words, such as t10k_labels."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in mnist_parts().items():
        content = changed.get("_".join(name.split("-")[:2]), content)
        name = name.replace("-idx", ".idx") if dotted else name
        (folder / f"{name}{'.gz' if packed else ''}").write_bytes(
            gzip.compress(content) if packed else content
        )


def batches(folder: Path, *, meta: Sequence[str] | None = None, **changed: Any) -> None:
    """CIFAR-10's six pickles; ``changed`` are files that hold something else."""
    folder.mkdir(parents=True, exist_ok=True)
    held = images("cifar10")
    order = [CIFAR_NAMES.index(name) for name in meta] if meta else list(range(CLASSES))
    rows = [slice(8 * part, 8 * part + 8) for part in range(5)]
    parts = [(held.train_x[each], held.train_y[each]) for each in rows] + [(held.test_x, held.test_y)]
    for name, (x, y) in zip([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"], parts, strict=True):
        content = {"data": x.reshape(len(x), -1), "labels": [order.index(each) for each in y.tolist()]}
        (folder / name).write_bytes(pickle.dumps(changed.get(name, content), protocol=2))
    if meta:
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(meta)}, protocol=2))


def tiny(
    root: Path, *, direct: bool = False, sort: str = "", annotations: bool = True, listed: bool = True
) -> None:
    """Tiny-ImageNet's folders; ``sort`` puts val into class folders, with this folder in each."""
    held = images("tiny-imagenet")
    for number, (image, label) in enumerate(zip(held.train_x, held.train_y, strict=True)):
        below = root / "train" / WNIDS[label] / ("" if direct else "images")
        _put(below / f"{WNIDS[label]}_{number:03}.JPEG", image)
    rows = []
    for number, (image, label) in enumerate(zip(held.test_x, held.test_y, strict=True)):
        below = root / "val" / (f"{WNIDS[label]}/{sort}" if sort else "images")
        _put(below / f"val_{number}.JPEG", image)
        rows.append(f"val_{number}.JPEG\t{WNIDS[label]}\t0\t0\t62\t62\n")
    if annotations:
        (root / "val" / "val_annotations.txt").write_text("".join(rows))
    if listed:
        (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)))


def _put(file: Path, image: Pixels) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encoded(shown(image)))


def shards(folder: Path, split: str, names: Sequence[str]) -> None:
    """A split of CIFAR-10 in as many parts as there are names."""
    held = images("cifar10")
    x, y = (held.train_x, held.train_y) if split == "train" else (held.test_x, held.test_y)
    rows = np.array_split(np.arange(len(y)), len(names))
    for name, part in zip(names, rows, strict=True):
        write(folder / f"{name}.parquet", table(cells(x[part]), y[part].tolist()))


def copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, to)
