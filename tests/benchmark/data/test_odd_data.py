"""Other people's files: the right number, or one line with the file and the remedy; never a wrong number."""

import io
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from robustness_bench.benchmark import data
from robustness_bench.benchmark.data import DATASETS, locate
from robustness_bench.benchmark.data.base import Splits
from robustness_bench.benchmark.errors import DataError
from tests.benchmark.data.odd_data import (
    ACCURACY,
    CIFAR_NAMES,
    WNIDS,
    Build,
    Pixels,
    accuracy,
    batches,
    cells,
    copy,
    encoded,
    huggingface,
    idx,
    images,
    mnist,
    parquet,
    png,
    shards,
    shown,
    table,
    tiff,
    tiny,
    write,
)
from tests.conftest import Bench

_DIGITS = tuple("0123456789")
_TURNED = tuple(reversed(CIFAR_NAMES))
_RNG = np.random.default_rng(1)


def _lists(x: Pixels) -> Any:
    return pa.array([shown(image).tolist() for image in x], pa.list_(pa.list_(pa.list_(pa.uint8()))))


def _grey_lists(kind: pa.DataType, scale: float = 1) -> Any:
    def make(x: Pixels) -> Any:
        rows = [(image[0] * scale if scale != 1 else image[0]).tolist() for image in x]
        if pa.types.is_integer(kind) and kind != pa.uint8():
            rows[0][0][:2] = [0, 255]
        return pa.array(rows, pa.list_(pa.list_(kind)))

    return make


def _deep(x: Pixels) -> Any:
    return [{"bytes": encoded(image[0].astype(np.uint16) * 257), "path": None} for image in x]


def _mode(mode: str, kind: str = "PNG", **options: Any) -> Any:
    """Cells whose images were converted by Pillow, without loss, before they were saved."""

    def make(x: Pixels) -> Any:
        held = []
        for image in x:
            picture = Image.fromarray(shown(image)).convert(mode)
            held.append({"bytes": encoded(np.asarray(picture), kind, **options), "path": None})
        return held

    return make


def _palette(x: Pixels) -> Any:
    """Greys as a palette turned round, so that indices are not levels."""
    held = []
    for image in x:
        picture = Image.fromarray(255 - image[0])
        picture = Image.frombytes("P", picture.size, picture.tobytes())
        picture.putpalette([255 - level for level in range(256) for _ in range(3)])
        held.append({"bytes": _saved(picture), "path": None})
    return held


def _saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _moved(folder: Path, to: str, **options: Any) -> None:
    parquet(folder / to, **options)


def _sharded(folder: Path) -> None:
    shards(folder, "train", [f"train-{n:05}-of-00002" for n in range(2)])
    shards(folder, "test", [f"test-{n:05}-of-00003-0123456789abcdef" for n in range(3)])


def _numbered_folders(folder: Path) -> None:
    shards(folder / "default" / "train", "train", ["0000", "0001"])
    shards(folder / "default" / "test", "test", ["0000"])


def _valid_beside(folder: Path, blank: Any) -> None:
    """A test split without labels, and one for validation with them."""
    parquet(folder, test="valid")
    held = images("cifar10")
    write(folder / "test.parquet", table(cells(held.test_x[:5]), blank))


def _with_stranger(folder: Path, name: str, label: int = 3) -> None:
    parquet(folder)
    write(folder / f"{name}.parquet", table(cells(images("cifar10").test_x), [label] * 100))


def _torchvision_mnist(folder: Path) -> None:
    mnist(folder / "MNIST" / "raw")
    mnist(folder / "MNIST" / "raw", packed=True)


def _folder_each(folder: Path) -> None:
    mnist(folder)
    for file in list(folder.iterdir()):
        file.rename(folder / "x")
        copy(folder / "x", folder / file.name / file.name)
        (folder / "x").unlink()


def _clutter(folder: Path) -> None:
    tiny(folder)
    for name in (".DS_Store", "Thumbs.db", "._n.JPEG", f"{WNIDS[0]}_boxes.txt"):
        (folder / "train" / WNIDS[0] / "images" / name).write_bytes(b"clutter")


# (data set, how it is made): all of them hold the very same images and labels.
FORMS: dict[str, tuple[str, Build]] = {
    "parquet": ("cifar10", parquet),
    "parquet in data/": ("cifar10", lambda f: _moved(f, "data")),
    "parquet in plain_text/": ("cifar10", lambda f: _moved(f, "plain_text")),
    "parquet in a folder of the data set's name": ("cifar10", lambda f: _moved(f, "cifar10")),
    "parquet called by the data set": (
        "cifar10",
        lambda f: parquet(f, train="cifar10-train", test="cifar10-test"),
    ),
    "parquet in shards": ("cifar10", _sharded),
    "parquet in default/train/0000": ("cifar10", _numbered_folders),
    "parquet, val-00000-of-00001": ("cifar10", lambda f: parquet(f, test="val-00000-of-00001")),
    "parquet, validation": ("cifar10", lambda f: parquet(f, test="validation")),
    "parquet, capitals": ("cifar10", lambda f: parquet(f, train="TRAIN", test="Test")),
    "parquet, test without labels: null": ("cifar10", lambda f: _valid_beside(f, pa.nulls(5))),
    "parquet, test without labels: -1": ("cifar10", lambda f: _valid_beside(f, [-1] * 5)),
    "parquet, test without labels: no column": ("cifar10", lambda f: _valid_beside(f, None)),
    "parquet beside test_corrupted": ("cifar10", lambda f: _with_stranger(f, "test_corrupted")),
    "parquet beside train_small": ("cifar10", lambda f: _with_stranger(f, "train_small")),
    "parquet beside data/test-extra": ("cifar10", lambda f: _with_stranger(f, "data/test-extra")),
    "parquet, names in order": ("cifar10", lambda f: parquet(f, names=(CIFAR_NAMES, CIFAR_NAMES))),
    "parquet, names turned round": ("cifar10", lambda f: parquet(f, names=(_TURNED, _TURNED))),
    "parquet, only test turned round": ("cifar10", lambda f: parquet(f, names=(CIFAR_NAMES, _TURNED))),
    "parquet, only train turned round": ("cifar10", lambda f: parquet(f, names=(_TURNED, CIFAR_NAMES))),
    "parquet, labels as names": (
        "cifar10",
        lambda f: parquet(f, label=lambda y: [CIFAR_NAMES[i] for i in y]),
    ),
    "parquet, labels as text numbers": ("cifar10", lambda f: parquet(f, label=lambda y: [str(i) for i in y])),
    "parquet, labels as categories": (
        "cifar10",
        lambda f: parquet(f, label=lambda y: pa.array([CIFAR_NAMES[i] for i in y]).dictionary_encode()),
    ),
    "parquet, whole float labels": ("cifar10", lambda f: parquet(f, label=lambda y: [float(i) for i in y])),
    "parquet, uint8 labels": ("cifar10", lambda f: parquet(f, label=lambda y: pa.array(y, pa.uint8()))),
    "parquet, plain bytes": ("cifar10", lambda f: parquet(f, image=lambda x: [c["bytes"] for c in cells(x)])),
    "parquet, lists of bytes": ("cifar10", lambda f: parquet(f, image=_lists)),
    "parquet, BMP": ("cifar10", lambda f: parquet(f, image=lambda x: cells(x, "BMP"))),
    "parquet, TIFF": ("cifar10", lambda f: parquet(f, image=lambda x: cells(x, "TIFF"))),
    "parquet, WebP without loss": (
        "cifar10",
        lambda f: parquet(f, image=lambda x: cells(x, "WEBP", lossless=True)),
    ),
    "parquet, opaque alpha": ("cifar10", lambda f: parquet(f, image=_mode("RGBA"))),
    "batches": ("cifar10", lambda f: batches(f / "cifar-10-batches-py")),
    "batches' own folder": ("cifar10", batches),
    "batches, names turned round": ("cifar10", lambda f: batches(f, meta=_TURNED)),
    "IDX below MNIST/raw, packed and not": ("mnist", _torchvision_mnist),
    "IDX packed": ("mnist", lambda f: mnist(f / "MNIST" / "raw", packed=True)),
    "IDX in the folder": ("mnist", mnist),
    "IDX in raw/": ("mnist", lambda f: mnist(f / "raw")),
    "IDX with a dot": ("mnist", lambda f: mnist(f, dotted=True)),
    "IDX with a dot, packed": ("mnist", lambda f: mnist(f, dotted=True, packed=True)),
    "IDX, a folder each": ("mnist", _folder_each),
    "grey parquet": ("mnist", lambda f: parquet(f, "mnist")),
    "grey parquet, names of digits": ("mnist", lambda f: parquet(f, "mnist", names=(_DIGITS, _DIGITS))),
    "grey parquet, 16 bits": ("mnist", lambda f: parquet(f, "mnist", image=_deep)),
    "grey parquet as RGB": ("mnist", lambda f: parquet(f, "mnist", image=_mode("RGB"))),
    "grey parquet, opaque alpha": ("mnist", lambda f: parquet(f, "mnist", image=_mode("LA"))),
    "grey parquet, palette": ("mnist", lambda f: parquet(f, "mnist", image=_palette)),
    "grey parquet, lists of bytes": ("mnist", lambda f: parquet(f, "mnist", image=_grey_lists(pa.uint8()))),
    "grey parquet, lists of floats": (
        "mnist",
        lambda f: parquet(f, "mnist", image=_grey_lists(pa.float32(), 1 / 255)),
    ),
    "class folders": ("tiny-imagenet", lambda f: tiny(f / "tiny-imagenet-200")),
    "class folders given themselves": ("tiny-imagenet", tiny),
    "class folders without images/": ("tiny-imagenet", lambda f: tiny(f, direct=True)),
    "class folders, val sorted": ("tiny-imagenet", lambda f: tiny(f, sort=".")),
    "class folders, val sorted into images/": ("tiny-imagenet", lambda f: tiny(f, sort="images")),
    "class folders, val sorted, no list": ("tiny-imagenet", lambda f: tiny(f, sort=".", annotations=False)),
    "class folders without wnids.txt": ("tiny-imagenet", lambda f: tiny(f, listed=False)),
    "class folders with clutter": ("tiny-imagenet", _clutter),
    "64×64 parquet": ("tiny-imagenet", lambda f: parquet(f, "tiny-imagenet", test="valid")),
    "64×64 parquet, names and words": (
        "tiny-imagenet",
        lambda f: parquet(
            f,
            "tiny-imagenet",
            label=lambda y: [f"{DATASETS['tiny-imagenet'].classes[i]} goldfish" for i in y],
        ),
    ),
}


def _same(held: Splits, expected: Splits) -> bool:
    return all(np.array_equal(getattr(held, each), getattr(expected, each)) for each in Splits._fields)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_images_gives_the_same_number(form: str, tmp_path: Path) -> None:
    dataset, build = FORMS[form]
    build(tmp_path)
    held = locate(dataset, tmp_path).load()
    assert accuracy(held) == ACCURACY
    assert _same(held, images(dataset))


def _one(pixels: bytes) -> Any:
    """A grey data set whose test split is one image."""

    def build(folder: Path) -> None:
        parquet(folder, "mnist")
        write(folder / "test.parquet", table([{"bytes": pixels, "path": None}], [0]))

    return build


_RAMP = np.arange(28 * 28).reshape(28, 28)
_BITS = (_RAMP % 3 == 0).astype(np.uint8)
_PACKED = b"".join(b"\0" + np.packbits(row).tobytes() for row in _BITS)
_QUARTERS = (_RAMP % 4).astype(np.uint8)
_PAIRS = b"".join(
    b"\0" + (row.reshape(-1, 4) @ np.array([64, 16, 4, 1])).astype(np.uint8).tobytes() for row in _QUARTERS
)
_STEEP = (_RAMP * 83).astype(np.uint16)
PIXELS: dict[str, tuple[bytes, Pixels]] = {
    "white is zero, 8 bits": (tiff(28, 8, 0, (_RAMP % 256).astype(np.uint8).tobytes()), 255 - _RAMP % 256),
    "1 bit": (png(28, 28, 1, 0, _PACKED), _BITS * 255),
    "2 bits": (png(28, 28, 2, 0, _PAIRS), _QUARTERS * 85),
    "16 bits PNG": (encoded(_STEEP), np.rint(_STEEP / 257)),
    "16 bits TIFF": (encoded(_STEEP, "TIFF"), np.rint(_STEEP / 257)),
    "16 bits TIFF, high byte first": (
        _saved(Image.frombytes("I;16B", (28, 28), _STEEP.astype(">u2").tobytes()), "TIFF"),
        np.rint(_STEEP / 257),
    ),
    "floats of [0, 1]": (encoded((_RAMP / 783).astype(np.float32), "TIFF"), np.rint(_RAMP / 783 * 255)),
    "8 bits": (encoded((_RAMP % 256).astype(np.uint8)), _RAMP % 256),
}


@pytest.mark.parametrize("kind", PIXELS)
def test_pixels_keep_their_place_in_the_range(kind: str, tmp_path: Path) -> None:
    content, expected = PIXELS[kind]
    _one(content)(tmp_path)
    assert np.array_equal(locate("mnist", tmp_path).load().test_x[0, 0], expected)


def _changed(dataset: str, **columns: Any) -> Build:
    """A good training split, and a test split with one column changed: image or label."""

    def build(folder: Path) -> None:
        parquet(folder, dataset)
        held = images(dataset)
        good = {"image": cells(held.test_x[:4]), "label": held.test_y[:4].tolist()}
        write(folder / "test.parquet", table(**{**good, **columns}))

    return build


def _labels(values: Any) -> Build:
    return _changed("cifar10", label=values)


def _bad(pixels: Any, kind: str = "PNG", **options: Any) -> Build:
    content = pixels if isinstance(pixels, bytes) else encoded(pixels, kind, **options)
    return _changed("mnist", image=[{"bytes": content, "path": None}] * 4)


def _sizes(folder: Path) -> None:
    held = cells(images("cifar10").test_x[:4])
    held[2]["bytes"] = encoded(np.zeros((31, 32, 3), np.uint8))
    _changed("cifar10", image=held)(folder)


def _twice(folder: Path) -> None:
    parquet(folder, test="test-00000-of-00001")
    copy(folder / "test-00000-of-00001.parquet", folder / "data" / "test-00000-of-00001.parquet")


def _file_as_folder(folder: Path) -> Path:
    (folder / "train.parquet").write_bytes(b"")
    return folder / "train.parquet"


def _rename_both(folder: Path) -> None:
    for part in ("train", "val"):
        (folder / part / WNIDS[0]).rename(folder / part / "n00000001")
    (folder / "wnids.txt").unlink(missing_ok=True)
    (folder / "val" / "val_annotations.txt").unlink(missing_ok=True)


def _pair(folder: Path, test: list[str], train: tuple[str, ...] = ("train",)) -> None:
    shards(folder, "train", train)
    shards(folder, "test", test)


def _raw_names(train: Any, test: Any) -> Build:
    """Names in the schema that say nothing of the labels' order."""

    def build(folder: Path) -> None:
        held = images("cifar10")
        for name, x, y, own in (
            ("train", held.train_x, held.train_y, train),
            ("test", held.test_x, held.test_y, test),
        ):
            metadata = own if isinstance(own, dict) else huggingface(own) if own else None
            write(folder / f"{name}.parquet", table(cells(x), y.tolist(), metadata))

    return build


def _then(build: Build, change: Any) -> Build:
    """What ``build`` makes, changed in one place."""

    def made(folder: Path) -> None:
        build(folder)
        change(folder)

    return made


def _annotated(text: str) -> Any:
    def change(folder: Path) -> None:
        file = folder / "val" / "val_annotations.txt"
        lines = file.read_text().splitlines()
        file.write_text("\n".join([text, *lines[1:]]))

    return change


def _batch(**content: Any) -> Build:
    held = images("cifar10")
    good = {"data": held.test_x.reshape(100, -1), "labels": held.test_y.tolist()}
    whole = {key: value for key, value in {**good, **content}.items() if value is not None}
    return lambda folder: batches(folder, test_batch=whole)


class _Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("touched-by-a-pickle"),)


def _frames(folder: Path) -> None:
    first, second = (Image.fromarray(np.full((28, 28), level, np.uint8)) for level in (10, 200))
    _bad(_saved(first, "TIFF", save_all=True, append_images=[second]))(folder)


def _turned_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(np.zeros((28, 28), np.uint8), "JPEG", exif=exif)


_GREY = np.zeros((28, 28), np.uint8)
_CLEAR = np.zeros((28, 28, 4), np.uint8)
_LONG = 1 << 62
_ROW0 = Path("train") / WNIDS[0] / "images"

# (data set, how it is made, what the line says)
REFUSED: dict[str, tuple[str, Build, str]] = {
    # files that do not belong, or lack
    "same file at two levels": (
        "cifar10",
        _twice,
        "test split lies twice: .*test-00000.* and .*data.*; leave",
    ),
    "shard missing": ("cifar10", lambda f: _pair(f, ["test-00000-of-00002"]), "test split lacks part 1"),
    "train shard missing": (
        "cifar10",
        lambda f: _pair(f, ["test"], ("train-00001-of-00002",)),
        "train.* lacks part 0",
    ),
    "shard too many": (
        "cifar10",
        lambda f: _pair(f, ["test-00000-of-00001", "test-00001-of-00001"]),
        "has part 1 of 1",
    ),
    "two sets of shards": (
        "cifar10",
        lambda f: _pair(f, ["test", "test-00000-of-00001"]),
        "test split lies twice",
    ),
    "shards of two totals": (
        "cifar10",
        lambda f: _pair(f, ["test-0-of-1", "test-1-of-2"]),
        "test split lies twice",
    ),
    "shard twice": ("cifar10", lambda f: _pair(f, ["test-0", "test-00"]), "has part 0 twice"),
    "gap in numbered parts": ("cifar10", lambda f: _pair(f, ["test-0", "test-2"]), "lacks part 1"),
    "val and validation": ("cifar10", lambda f: _pair(f, ["val", "validation"]), "valid split lies twice"),
    "only a corrupted test split": (
        "cifar10",
        lambda f: _pair(f, ["test_corrupted"]),
        r"no test split \(is it test_corr",
    ),
    "no training split": (
        "cifar10",
        lambda f: shards(f, "test", ["test"]),
        "no train split.*call its files train.parq",
    ),
    "two forms": ("mnist", _then(mnist, lambda f: parquet(f, "mnist")), "holds mnist twice: .*move one"),
    "a file as folder": ("cifar10", _file_as_folder, "is a file: name the folder"),
    # names of classes
    "one name unknown": (
        "cifar10",
        _raw_names([*CIFAR_NAMES[:9], "lorry"], None),
        "the class 'lorry', which cifar10 lacks",
    ),
    "a name twice": ("cifar10", _raw_names([*CIFAR_NAMES[:9], "cat"], None), "names the class 'cat' twice"),
    "two names of one class": (
        "cifar10",
        _raw_names([*CIFAR_NAMES[:9], "3"], None),
        "two names for one class",
    ),
    "own names, test has others": (
        "cifar10",
        _raw_names("abcdefghij", "abcdefghiz"),
        "names the class 'z', which .*train",
    ),
    "own names beside known ones": (
        "cifar10",
        _raw_names("abcdefghij", CIFAR_NAMES),
        "name different classes",
    ),
    "names in one split, turned": (
        "cifar10",
        _raw_names(_TURNED, None),
        "another order than cifar10, .* names none",
    ),
    "names fewer than labels": (
        "cifar10",
        _raw_names(CIFAR_NAMES[:5], CIFAR_NAMES),
        "labels 0 to 9 and names 5 classes",
    ),
    "names damaged": ("cifar10", _raw_names({b"huggingface": b"{"}, None), "class names that cannot be read"),
    "names twice": (
        "cifar10",
        _raw_names(
            {b"classes": b"a\nb", **{b"huggingface": b'{"info":{"features":{"label":{"names":["c"]}}}}'}},
            None,
        ),
        "names its classes twice",
    ),
    "batches with a foreign name": (
        "cifar10",
        _then(
            batches, lambda f: (f / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "cow"]}))
        ),
        "the class 'cow', which cifar10 lacks",
    ),
    # labels
    "labels null": ("cifar10", _labels([1, None, 2, 3]), "no label in row 1"),
    "labels all null": (
        "cifar10",
        _labels(pa.nulls(4)),
        "test.parquet has no labels: nothing can be measured",
    ),
    "labels all -1": ("cifar10", _labels([-1] * 4), "has no labels"),
    "one label -1": ("cifar10", _labels([1, -1, 2, 3]), "labels -1 to 3"),
    "no label column": ("cifar10", _changed("cifar10", label=None), "test.parquet has no labels"),
    "labels fractional": (
        "cifar10",
        _labels([1.0, 2.5, 3.0, 4.0]),
        "the label 2.5; expected whole numbers from 0 to 9",
    ),
    "labels not numbers": ("cifar10", _labels([1.0, float("nan"), 3.0, 4.0]), "the label nan"),
    "labels infinite": ("cifar10", _labels([1.0, float("inf"), 3.0, 4.0]), "the label inf"),
    "labels unknown words": (
        "cifar10",
        _labels(["cat", "cow", "dog", "dog"]),
        "the label 'cow', no class of cifar10",
    ),
    "labels true or false": ("cifar10", _labels([True, False, True, True]), "labels of type bool"),
    "labels lists": ("cifar10", _labels([[1], [2], [3], [4]]), "labels of type list"),
    "labels out of range": ("cifar10", _labels([1, 2, 10, 3]), "labels 1 to 10, cifar10 has 10 classes"),
    "labels huge": (
        "cifar10",
        _labels(pa.array([1, 2, 2 * _LONG + 7, 3], pa.uint64())),
        "cifar10 has 10 classes",
    ),
    "two label columns": (
        "cifar10",
        _changed("cifar10", fine_label=[0] * 4),
        "labels in label and fine_label",
    ),
    "two image columns": ("cifar10", _changed("cifar10", img=[b""] * 4), "images in image and img"),
    # images
    "empty split": (
        "cifar10",
        _changed("cifar10", image=pa.array([], pa.binary()), label=pa.array([], pa.int64())),
        "holds no images",
    ),
    "one image of another size": ("cifar10", _sizes, r"row 2 holds 32×31 images, cifar10 is 32×32"),
    "image null": ("cifar10", _changed("cifar10", image=[None, b"", b"", b""]), "rows without an image"),
    "paths only": (
        "cifar10",
        _changed("cifar10", image=[{"bytes": None, "path": "a.png"}] * 4),
        "paths in place of images",
    ),
    "text": ("cifar10", _changed("cifar10", image=["a.png"] * 4), "images of type string"),
    "raw pixels as bytes": (
        "cifar10",
        _changed("cifar10", image=[bytes(3072)] * 4),
        "row 0 cannot be decoded",
    ),
    "empty bytes": ("cifar10", _changed("cifar10", image=[b""] * 4), "row 0 cannot be decoded"),
    "flat lists": (
        "mnist",
        _changed("mnist", image=pa.array([[0] * 784] * 4, pa.list_(pa.uint8()))),
        "shape 784",
    ),
    "ragged lists": ("mnist", _changed("mnist", image=[[[1, 2], [3]]] * 4), "unequal or ragged shape"),
    "lists of another size": (
        "mnist",
        _changed("mnist", image=[[[0.5] * 8] * 8] * 4),
        "shape 8×8, mnist is 28×28",
    ),
    "floats of 0 to 255": (
        "mnist",
        _changed("mnist", image=[[[254.0] * 28] * 28] * 4),
        "float pixels outside",
    ),
    "integers of 0 to 16": (
        "mnist",
        _changed("mnist", image=[[[0, 16] * 14] * 28] * 4),
        "integer pixels of 0 to 16",
    ),
    "colours in grey": (
        "mnist",
        _changed("mnist", image=cells(_RNG.integers(0, 255, (4, 3, 28, 28), np.uint8))),
        "has colours, mnist is grey",
    ),
    "truncated": (
        "mnist",
        _bad(encoded(_RNG.integers(0, 255, (28, 28), np.uint8))[:200]),
        "cannot be decoded",
    ),
    "broken chunk": ("mnist", _bad(encoded(_GREY).replace(b"IDAT", b"IDAX")), "cannot be decoded"),
    "a bomb": ("mnist", _bad(png(60000, 60000, 8, 0, b"")), "far too large an image"),
    "transparent": ("mnist", _bad(_CLEAR), "partly transparent"),
    "transparent palette": (
        "mnist",
        _bad(_saved(Image.new("P", (28, 28)), transparency=0)),
        "partly transparent",
    ),
    "CMYK": ("mnist", _bad(_saved(Image.new("CMYK", (28, 28)), "JPEG")), "of kind CMYK"),
    "LAB": ("mnist", _bad(_saved(Image.new("LAB", (28, 28)), "TIFF")), "of kind LAB"),
    "colours of 16 bits": (
        "mnist",
        _bad(png(28, 28, 16, 2, bytes((1 + 28 * 6) * 28))),
        "colours or alpha of 16 bits",
    ),
    "greys of 32 bits": ("mnist", _bad(_RAMP.astype(np.int32), "TIFF"), r"unusual depth \(I\)"),
    "floats of 0 to 783": ("mnist", _bad(_RAMP.astype(np.float32), "TIFF"), "float pixels outside"),
    "floats that are none": (
        "mnist",
        _bad(np.full((28, 28), np.nan, np.float32), "TIFF"),
        "float pixels outside",
    ),
    "deep white is zero": ("mnist", _bad(tiff(28, 16, 0, bytes(2 * 28 * 28))), "unusual depth"),
    "greys of 12 bits": ("mnist", _bad(tiff(28, 12, 1, bytes(42 * 28))), "unusual depth"),
    "several frames": ("mnist", _frames, "several frames"),
    "on its side": ("mnist", _bad(_turned_exif()), "EXIF orientation"),
    "no Parquet": (
        "cifar10",
        _then(parquet, lambda f: (f / "test.parquet").write_bytes(b"PAR1 cut")),
        "cannot read .*test.parquet",
    ),
    "empty Parquet file": (
        "cifar10",
        _then(parquet, lambda f: (f / "test.parquet").write_bytes(b"")),
        "cannot read .*test.parquet",
    ),
    "no image column": ("cifar10", _changed("cifar10", image=None, pixels=[1] * 4), "expected img or image"),
    # IDX
    "1,000 images and 500 labels": (
        "mnist",
        lambda f: mnist(f, t10k_labels=idx(np.zeros(50, np.uint8))),
        "100 images and 50 labels",
    ),
    "32×32 IDX": (
        "mnist",
        lambda f: mnist(f, train_images=idx(np.zeros((40, 32, 32), np.uint8))),
        "32×32 images, mnist is 28×28",
    ),
    "IDX labels out of range": (
        "mnist",
        lambda f: mnist(f, train_labels=idx(np.full(40, 26, np.uint8))),
        "labels 26 to 26",
    ),
    "IDX of floats": (
        "mnist",
        lambda f: mnist(f, train_images=idx(np.zeros((40, 28, 28), np.float32), 13)),
        "type 0x0d",
    ),
    "IDX of labels for images": (
        "mnist",
        lambda f: mnist(f, train_images=idx(np.zeros(40, np.uint8))),
        "in 1 dimensions",
    ),
    "IDX cut off": (
        "mnist",
        lambda f: mnist(f, train_images=idx(np.zeros((40, 28, 28), np.uint8))[:-1]),
        "holds 31359",
    ),
    "IDX with more behind": (
        "mnist",
        lambda f: mnist(f, train_labels=idx(np.zeros(40, np.uint8)) + b"x"),
        "holds 41",
    ),
    "IDX empty": ("mnist", lambda f: mnist(f, train_labels=b""), "no IDX file"),
    "IDX without images": (
        "mnist",
        lambda f: mnist(
            f, t10k_images=idx(np.zeros((0, 28, 28), np.uint8)), t10k_labels=idx(np.zeros(0, np.uint8))
        ),
        "holds no images",
    ),
    "IDX is text": ("mnist", lambda f: mnist(f, train_labels=b"<html>not found</html>"), "no IDX file"),
    "IDX packing cut off": (
        "mnist",
        _then(lambda f: mnist(f, packed=True), lambda f: _cut(f / "train-images-idx3-ubyte.gz")),
        "cannot unpack",
    ),
    "IDX missing": (
        "mnist",
        _then(mnist, lambda f: (f / "t10k-labels-idx1-ubyte").unlink()),
        "t10k-labels-idx1-ubyte is missing",
    ),
    "IDX packed holds another": (
        "mnist",
        _then(mnist, lambda f: mnist(f, packed=True, t10k_labels=idx(np.zeros(100, np.uint8)))),
        "hold different data",
    ),
    # batches
    "batch missing": (
        "cifar10",
        _then(batches, lambda f: (f / "data_batch_3").unlink()),
        "data_batch_3 is missing",
    ),
    "batch twice": (
        "cifar10",
        _then(batches, lambda f: batches(f / "cifar-10-batches-py")),
        "both hold CIFAR-10",
    ),
    "batch of fewer labels": ("cifar10", _batch(labels=[1, 2, 3]), "100 images and 3 labels"),
    "batch labels out of range": ("cifar10", _batch(labels=[10] * 100), "labels 10 to 10"),
    "batch fractional labels": ("cifar10", _batch(labels=[0.5] * 100), "the label 0.5"),
    "batch without labels": ("cifar10", _batch(labels=None, fine_labels=[1] * 100), "has no labels"),
    "batch of floats": ("cifar10", _batch(data=np.zeros((100, 3072))), "no uint8 data"),
    "batch of 28×28": ("cifar10", _batch(data=np.zeros((100, 784), np.uint8)), "no uint8 data of 3072"),
    "batch that runs code": ("cifar10", _batch(labels=_Evil()), "it asks for"),
    "batch is no pickle": (
        "cifar10",
        _then(batches, lambda f: (f / "test_batch").write_bytes(b"<html>")),
        "no batch of CIFAR-10",
    ),
    "batch is a list": ("cifar10", lambda f: batches(f, test_batch=[1, 2]), "it holds a list"),
    # class folders
    "unknown wnid": (
        "tiny-imagenet",
        _then(tiny, _annotated("val_0.JPEG\tn99999999\t0\t0\t1\t1")),
        "val_0.JPEG is of the class n99999999",
    ),
    "list without classes": (
        "tiny-imagenet",
        _then(tiny, _annotated("val_0.JPEG")),
        "line 1: no file and class",
    ),
    "list twice": (
        "tiny-imagenet",
        _then(tiny, _annotated(f"val_1.JPEG\t{WNIDS[0]}")),
        "lists val_1.JPEG twice",
    ),
    "image not listed": (
        "tiny-imagenet",
        _then(tiny, _annotated(f"val_x.JPEG\t{WNIDS[0]}")),
        "is not in .*val_annotations",
    ),
    "listed image missing": (
        "tiny-imagenet",
        _then(tiny, lambda f: (f / "val/images/val_7.JPEG").unlink()),
        "lists val_7.JPEG, which",
    ),
    "class missing": (
        "tiny-imagenet",
        _then(tiny, lambda f: shutil.rmtree(f / "train" / WNIDS[3])),
        f"{WNIDS[3]} is missing",
    ),
    "class of no images": (
        "tiny-imagenet",
        _then(tiny, lambda f: [p.unlink() for p in (f / _ROW0).iterdir()]),
        "holds no images",
    ),
    "class not listed": (
        "tiny-imagenet",
        _then(tiny, lambda f: (f / "train" / "n00000001").mkdir()),
        "n00000001 is a class that",
    ),
    "class listed twice": (
        "tiny-imagenet",
        _then(tiny, lambda f: (f / "wnids.txt").write_text("\n".join([*WNIDS, WNIDS[0]]))),
        "names n01443537 twice",
    ),
    "wnids empty": (
        "tiny-imagenet",
        _then(tiny, lambda f: (f / "wnids.txt").write_text("")),
        "names no classes",
    ),
    "wnids no text": (
        "tiny-imagenet",
        _then(tiny, lambda f: (f / "wnids.txt").write_bytes(b"\xff\xfe\x00")),
        "is no text",
    ),
    "half of the classes unknown": (
        "tiny-imagenet",
        _then(
            lambda f: tiny(f, sort="."),
            _rename_both,
        ),
        "the class 'n00000001', which tiny-imagenet lacks",
    ),
    "val missing": ("tiny-imagenet", _then(tiny, lambda f: shutil.rmtree(f / "val")), "val is missing"),
    "list missing": ("tiny-imagenet", lambda f: tiny(f, annotations=False), "val_annotations.txt is missing"),
    "val sorted against the list": (
        "tiny-imagenet",
        _then(lambda f: tiny(f, sort="."), lambda f: _swap(f / "val")),
        "is of n.* by .*val_annotations",
    ),
    "val sorted and not": (
        "tiny-imagenet",
        _then(
            lambda f: tiny(f, sort="."),
            lambda f: copy(next((f / "val" / WNIDS[0]).iterdir()), f / "val/images/val_0.JPEG"),
        ),
        "leave one of the two",
    ),
    "val class unknown": (
        "tiny-imagenet",
        _then(
            lambda f: tiny(f, sort=".", annotations=False),
            lambda f: (f / "val" / WNIDS[0]).rename(f / "val/n00000001"),
        ),
        "class n00000001, which train lacks",
    ),
    "a copy": (
        "tiny-imagenet",
        _then(tiny, lambda f: copy(f / _ROW0 / f"{WNIDS[0]}_000.JPEG", f / _ROW0 / "a (1).JPEG")),
        "is a copy",
    ),
    "two formats of one": (
        "tiny-imagenet",
        _then(tiny, lambda f: copy(f / _ROW0 / f"{WNIDS[0]}_000.JPEG", f / _ROW0 / f"{WNIDS[0]}_000.png")),
        "is a copy",
    ),
    "no image among them": (
        "tiny-imagenet",
        _then(tiny, lambda f: (f / _ROW0 / "notes.doc").write_text("")),
        "notes.doc is no image",
    ),
    "image of another size": (
        "tiny-imagenet",
        _then(tiny, lambda f: (f / "val/images/val_5.JPEG").write_bytes(encoded(_GREY))),
        "val_5.JPEG holds 28×28",
    ),
    "image damaged": (
        "tiny-imagenet",
        _then(tiny, lambda f: (f / "val/images/val_5.JPEG").write_bytes(b"JFIF")),
        "val_5.JPEG cannot be decoded",
    ),
    "image empty": (
        "tiny-imagenet",
        _then(tiny, lambda f: (f / "val/images/val_5.JPEG").write_bytes(b"")),
        "val_5.JPEG cannot be decoded",
    ),
}


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-50])


def _swap(val: Path) -> None:
    image = next(iter(sorted((val / WNIDS[0]).iterdir())))
    image.rename(val / WNIDS[1] / image.name)


def _all(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    store = tmp_path / "store"
    (store / "records").mkdir(parents=True)
    (store / "results.csv").write_text("kept")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return store


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_right_is_one_line(case: str, tmp_path: Path, own_store: Path, bench: Bench) -> None:
    dataset, build, line = REFUSED[case]
    folder = tmp_path / "given"
    folder.mkdir()
    built = build(folder)
    before = _all(folder)
    options = ("--dataset", dataset, "--data-dir", built if isinstance(built, Path) else folder)
    small = (
        "--defense",
        "undefended",
        "--attacks",
        "pgd-40",
        "--norm",
        "linf",
        "--threat",
        "white",
        "--epochs",
        1,
    )
    said = bench("run", *options, *small, "--width", 4, "--n-examples", 4, "--out", own_store)
    assert said.status == 2
    errors = [each for each in said.err.splitlines() if not each.startswith("bench: note: ")]
    assert len(errors) == 1, said.err
    assert re.search(line, errors[0]), errors[0]
    assert str(folder) in errors[0], "no file is named"
    assert re.search(r"; |: (call|lay|leave|name|remove) |\?$", errors[0]), "no remedy"
    assert _all(own_store) == {"results.csv": b"kept"}
    assert not list((tmp_path / "cache").rglob("*.npy")), "a refused data set was kept"
    assert _all(folder) == before
    assert not Path("touched-by-a-pickle").exists()


def _labels_in_class_order(folder: Path) -> None:
    """Test images of the digits 1 to 9 only, numbered from the first name there is, as a writer does."""
    parquet(folder, "mnist", names=(_DIGITS, _DIGITS[1:]))


def test_a_split_that_lacks_a_class_is_numbered_by_names(tmp_path: Path) -> None:
    _labels_in_class_order(tmp_path)
    held, expected = locate("mnist", tmp_path).load(), images("mnist")
    there = expected.test_y > 0
    assert held.test_y.tolist() == expected.test_y[there].tolist()
    assert accuracy(held) == accuracy(
        expected._replace(test_x=expected.test_x[there], test_y=expected.test_y[there])
    )


def _retouched(file: Path, content: bytes) -> None:
    """Another content of the same length, under the same name and time."""
    state = file.stat()
    assert len(content) == state.st_size
    file.write_bytes(content)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_images_that_were_replaced_are_read_again(tmp_path: Path) -> None:
    tiny(tmp_path)
    before = locate("tiny-imagenet", tmp_path).load()
    names = [tmp_path / "val" / "images" / f"val_{number}.JPEG" for number in range(100)]
    order = np.roll(np.arange(100), 1)
    contents = [file.read_bytes() for file in names]
    for file, number in zip(names, order, strict=True):
        file.write_bytes(contents[number])
    after = locate("tiny-imagenet", tmp_path).load()
    assert np.array_equal(after.test_x, before.test_x[order])
    assert accuracy(before) == ACCURACY
    assert accuracy(after) == accuracy(before._replace(test_x=before.test_x[order])) < 50


@pytest.mark.parametrize("cheap", [0, 1 << 30])
@pytest.mark.parametrize("where", ["train", "val"])
def test_one_image_of_the_same_length_and_time_is_seen(
    where: str, cheap: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where contents are hashed, and where there are too many bytes for it."""
    monkeypatch.setattr(data, "_CHEAP", cheap)
    tiny(tmp_path)
    file = sorted((tmp_path / where).rglob("*.JPEG"))[5]
    file.write_bytes(encoded(np.zeros((64, 64, 3), np.uint8), "BMP"))
    before = locate("tiny-imagenet", tmp_path).hash
    _retouched(file, encoded(np.full((64, 64, 3), 9, np.uint8), "BMP"))
    assert locate("tiny-imagenet", tmp_path).hash != before


@pytest.mark.parametrize("form", ["parquet", "batches", "mnist"])
def test_a_file_of_the_same_length_and_time_is_seen(form: str, tmp_path: Path) -> None:
    dataset = "mnist" if form == "mnist" else "cifar10"
    builds: dict[str, Build] = {"parquet": parquet, "batches": batches, "mnist": mnist}
    builds[form](tmp_path)
    before = locate(dataset, tmp_path).hash
    file = {"parquet": "test.parquet", "batches": "batches.meta", "mnist": "t10k-labels-idx1-ubyte"}[form]
    if form == "batches":
        batches(tmp_path, meta=_TURNED)
        held = locate(dataset, tmp_path).load()
        assert _same(held, images(dataset))
        (tmp_path / file).unlink()
    elif form == "mnist":
        _retouched(tmp_path / file, (tmp_path / file).read_bytes()[:-1] + b"\x09")
    else:
        write(
            tmp_path / "test.parquet",
            table(cells(images(dataset).test_x), images(dataset).test_y[::-1].tolist()),
        )
    assert locate(dataset, tmp_path).hash != before


def test_a_cache_of_other_readers_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = locate("digits", tmp_path).arrays
    monkeypatch.setattr(data, "_READERS", data._READERS + 1)
    assert locate("digits", tmp_path).arrays != first


LABELS = [
    ("mnist", mnist, "things", "things"),
    ("mnist", lambda f: mnist(f / "MNIST" / "raw"), "fashion", "fashion"),
    ("mnist", lambda f: mnist(f / "raw"), "MNIST", r"MNIST-[0-9a-f]{8}"),
    ("mnist", mnist, "mnist", r"mnist-[0-9a-f]{8}"),
    ("mnist", lambda f: parquet(f, "mnist"), "mnist", r"mnist-[0-9a-f]{8}"),
    ("mnist", lambda f: parquet(f, "mnist"), "cifar10", r"cifar10-[0-9a-f]{8}"),
    ("cifar10", batches, "cifar-10-batches-py", r"cifar-10-batches-py-[0-9a-f]{8}"),
    ("cifar10", batches, "CIFAR-10", r"CIFAR-10-[0-9a-f]{8}"),
    ("cifar10", lambda f: batches(f / "cifar-10-batches-py"), "mine", "mine"),
    ("cifar10", parquet, "cifar10-jpeg", "cifar10-jpeg"),
    ("tiny-imagenet", tiny, "tiny-imagenet-200", r"tiny-imagenet-200-[0-9a-f]{8}"),
    ("tiny-imagenet", lambda f: tiny(f / "tiny-imagenet-200"), "ten-classes", "ten-classes"),
]


@pytest.mark.parametrize(("dataset", "build", "name", "label"), LABELS)
def test_unknown_content_is_never_called_like_a_data_set(
    dataset: str, build: Build, name: str, label: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(tmp_path / name)
    found = locate(dataset, tmp_path / name)
    assert re.fullmatch(label, found.label)
    assert found.label not in DATASETS
    told = [line for line in capsys.readouterr().err.splitlines() if "not known to be" in line]
    assert len(told) == (0 if name == "cifar10-jpeg" else 1)


def test_the_choice_of_files_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _valid_beside(tmp_path, None)
    write(tmp_path / "test_corrupted.parquet", table([b""], [0]))
    for _ in range(2):  # decoded, and out of the cache
        locate("cifar10", tmp_path)
        told = capsys.readouterr().err
        assert re.search(r"note: .*test\.parquet has no labels: .*valid\.parquet is the test split", told)
        assert "left aside test_corrupted.parquet" in told


def test_own_names_of_classes_keep_the_files_order_and_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _raw_names("abcdefghij", "abcdefghij")(tmp_path)
    assert _same(locate("cifar10", tmp_path).load(), images("cifar10"))
    assert "names classes of its own (a, …), not cifar10's" in capsys.readouterr().err


def test_an_unreadable_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path)
    real = Path.iterdir

    def refuse(self: Path) -> Any:
        if self == tmp_path:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"cannot read .*: Permission denied; fix it"):
        locate("cifar10", tmp_path)
