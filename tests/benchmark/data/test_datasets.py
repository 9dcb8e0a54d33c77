import gzip
import hashlib
import io
import pickle
import struct
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from robustness_bench.benchmark.data import DATASETS, locate, tiny_imagenet
from robustness_bench.benchmark.data.base import subset
from robustness_bench.benchmark.errors import BenchError, DataError


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _pixels(n: int, size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def _write_parquet(file: Path, pixels: np.ndarray, labels: list[int], column: str = "img") -> None:
    cells = [{"bytes": _png(image), "path": None} for image in pixels]
    pq.write_table(pa.table({column: cells, "label": labels}), file)


def test_digits_are_what_they_say() -> None:
    data = locate("digits", Path("nowhere"))
    splits = data.load()
    assert splits.train_x.shape == (1437, 1, 8, 8)
    assert splits.test_x.shape == (360, 1, 8, 8)
    assert splits.train_x.dtype == np.uint8
    assert splits.train_x.max() == 255
    assert set(splits.test_y.tolist()) == set(range(10))
    info = data.info
    assert splits.train_x.mean() / 255 == pytest.approx(info.mean[0], abs=2e-3)
    assert splits.train_x.std() / 255 == pytest.approx(info.std[0], abs=2e-3)
    seen = {image.tobytes() for image in splits.train_x}
    assert sum(image.tobytes() in seen for image in splits.test_x) == 0, "test images in the training set"


def test_parquet_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-variant"
    folder.mkdir()
    train, test = _pixels(6, 32, 0), _pixels(4, 32, 1)
    _write_parquet(folder / "train-00000.parquet", train[:3], [0, 1, 2])
    _write_parquet(folder / "train-00001.parquet", train[3:], [3, 4, 9])
    _write_parquet(folder / "test.parquet", test, [5, 6, 7, 8])
    data = locate("cifar10", folder)
    splits = data.load()
    assert data.label == "my-variant"  # a folder may hold a variant: it is not called cifar10
    assert np.array_equal(splits.train_x, train.transpose(0, 3, 1, 2))
    assert splits.train_y.tolist() == [0, 1, 2, 3, 4, 9]
    assert np.array_equal(splits.test_x, test.transpose(0, 3, 1, 2))
    assert locate("cifar10", folder).hash == data.hash == splits.content_hash()

    _write_parquet(folder / "test.parquet", test, [5, 6, 7, 0])
    assert locate("cifar10", folder).hash != data.hash


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    data = locate("digits", tmp_path)
    whole = data.load().content_hash()
    for name, content in (("train_x.npy", b"cut off"), ("data.json", b"{"), ("data.json", b"[]")):
        (data.arrays / name).write_bytes(content)
        assert locate("digits", tmp_path).load().content_hash() == whole
    (data.arrays / "test_y.npy").unlink()
    assert locate("digits", tmp_path).load().content_hash() == whole


def test_embedded_data_ignores_what_lies_in_the_folder(tmp_path: Path) -> None:
    _write_parquet(tmp_path / "train.parquet", _pixels(2, 32, 0), [0, 1])
    _write_parquet(tmp_path / "test.parquet", _pixels(2, 32, 0), [0, 1])
    assert locate("digits", tmp_path).label == "digits"
    assert locate("cifar10", tmp_path).label == tmp_path.name


def test_wrong_parquet_is_named(tmp_path: Path) -> None:
    _write_parquet(tmp_path / "train.parquet", _pixels(2, 32, 0), [0, 1])
    _write_parquet(tmp_path / "test.parquet", _pixels(2, 16, 0), [0, 1])
    with pytest.raises(DataError, match="16×16 images, cifar10 is 32×32"):
        locate("cifar10", tmp_path)
    _write_parquet(tmp_path / "test.parquet", _pixels(2, 32, 0), [0, 10])
    with pytest.raises(DataError, match="labels 0 to 10, cifar10 has 10 classes"):
        locate("cifar10", tmp_path)
    _write_parquet(tmp_path / "test.parquet", _pixels(2, 32, 0), [0, 1], column="pixels")
    with pytest.raises(DataError, match="has columns pixels, label"):
        locate("cifar10", tmp_path)
    (tmp_path / "test.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(DataError, match="cannot read"):
        locate("cifar10", tmp_path)


@pytest.mark.parametrize("name", [name for name, data in DATASETS.items() if data.download is not None])
def test_missing_data_says_what_to_fetch_and_where_to_put_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\d+ MB") as error:
        locate(name, tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "--download" in str(error.value)


def _tiny_imagenet(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """The official layout with two classes; the list names them out of order."""
    train, test = _pixels(4, 64, 0), _pixels(3, 64, 1)
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("n02\nn01\n")
    for wnid, part in (("n01", train[:2]), ("n02", train[2:])):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for number, image in enumerate(part):
            (folder / f"{wnid}_{number}.JPEG").write_bytes(_png(image))
    lines = []
    for number, image in enumerate(test):
        (root / "val" / "images" / f"val_{number}.JPEG").write_bytes(_png(image))
        lines.append(f"val_{number}.JPEG\t{['n02', 'n01', 'n02'][number]}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return train, test


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """The folder behind HTTP on the loopback interface."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_tiny_imagenet_folder_and_download(tmp_path: Path) -> None:
    source = tmp_path / "source"
    train, test = _tiny_imagenet(source / "tiny-imagenet-200")
    splits = locate("tiny-imagenet", source).load()
    assert np.array_equal(splits.train_x, train.transpose(0, 3, 1, 2))
    assert splits.train_y.tolist() == [0, 0, 1, 1]
    assert np.array_equal(splits.test_x, test.transpose(0, 3, 1, 2))
    assert splits.test_y.tolist() == [1, 0, 1]

    archive = tmp_path / "served.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for file in sorted(source.rglob("*")):
            zipped.write(file, file.relative_to(source))
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    with _served(tmp_path) as address:
        tiny_imagenet.download(tmp_path / "fetched", url=f"{address}/served.zip", md5=md5)
        with pytest.raises(RuntimeError, match=r"corrupted|not found"):
            tiny_imagenet.download(tmp_path / "altered", url=f"{address}/served.zip", md5="0" * 32)
    assert locate("tiny-imagenet", tmp_path / "fetched").hash == locate("tiny-imagenet", source).hash


def test_a_failed_download_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = (tmp_path / "gone.zip").as_uri()
    monkeypatch.setattr(tiny_imagenet.download, "__defaults__", (gone, "0" * 32))
    with pytest.raises(DataError, match=r"cannot download tiny-imagenet.*by hand"):
        locate("tiny-imagenet", tmp_path / "data", download=True)


def test_mnist_files_packed_or_not(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for split in ("train", "t10k"):
        for what, content in (
            ("images-idx3", struct.pack(">iiii", 2051, 3, 28, 28) + pixels.tobytes()),
            ("labels-idx1", struct.pack(">ii", 2049, 3) + bytes([7, 2, 1])),
        ):
            (raw / f"{split}-{what}-ubyte.gz").write_bytes(gzip.compress(content))
    packed = locate("mnist", tmp_path)
    assert np.array_equal(packed.load().train_x[:, 0], pixels)
    assert packed.load().test_y.tolist() == [7, 2, 1]
    for file in list(raw.iterdir()):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    assert locate("mnist", tmp_path).hash == packed.hash


def test_cifar10_in_its_batches(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    for index, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        content = {"data": rows[index : index + 1], "labels": [index]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    splits = locate("cifar10", tmp_path).load()
    assert np.array_equal(splits.train_x.reshape(5, -1), rows[:5])
    assert splits.train_y.tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(splits.test_x.reshape(1, -1), rows[5:])


def test_unknown_data_set_lists_near_matches() -> None:
    with pytest.raises(BenchError, match=r"unknown data set 'cifar'; did you mean cifar10\?.*known: digits"):
        locate("cifar", Path("data"))


def test_subset_is_nested_and_fixed() -> None:
    assert set(subset(100, 10)) < set(subset(100, 20))
    assert subset(5, 0).tolist() == subset(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert subset(100, 4).tolist() == sorted(subset(100, 4).tolist())


@pytest.mark.data
def test_real_mnist_is_bit_exact(shared_data: Path) -> None:
    data = locate("mnist", shared_data / "mnist")
    splits = data.load()
    assert (data.label, data.hash) == ("mnist", DATASETS["mnist"].content)
    assert splits.train_x.shape == (60000, 1, 28, 28)
    assert splits.train_x.mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert splits.test_y[:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.data
def test_real_tiny_imagenet_has_200_classes_and_some_grey_images(shared_data: Path) -> None:
    splits = locate("tiny-imagenet", shared_data / "tiny-imagenet-subset").load()
    assert splits.test_x.shape == (2000, 3, 64, 64)
    assert len(set(splits.test_y.tolist())) == 200
