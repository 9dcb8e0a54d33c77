"""Any folder of images: class folders and Parquet files of one's own classes, and folders that are wrong."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from robustness_bench.benchmark.data import DATASETS, locate
from robustness_bench.benchmark.data.folder import FOLDER
from robustness_bench.benchmark.errors import BenchError, DataError
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.run.work import locate_for
from robustness_bench.benchmark.store.cells import find_records, read_record
from tests.conftest import Bench

Pixels = NDArray[np.uint8]
Rows = list[tuple[str, Pixels]]
NAMES = ("dot", "bar", "cross")  # not sorted: their numbers are those of bar, cross, dot
SIDE = 8


def rows(each: int, seed: int, *, channels: int = 3, side: int = SIDE) -> Rows:
    """Class and (H, W, 3) or (H, W) of ``each`` images of every class."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(each):
        for name in NAMES:
            x = rng.integers(0, 60, (side, side, channels), dtype=np.uint8)
            middle = slice(side // 2 - 1, side // 2 + 1)
            if name in ("bar", "cross"):
                x[middle] = 220
            if name == "cross":
                x[:, middle] = 220
            if name == "dot":
                x[middle, middle] = 220
            made.append((name, x if channels == 3 else x[..., 0]))
    return made


def png(x: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(x).save(buffer, "PNG")
    return buffer.getvalue()


def tree(folder: Path, train: Rows, test: Rows, *, test_name: str = "val") -> Path:
    """Class folders; the files' names say nothing of the images' order."""
    for split, held in (("train", train), (test_name, test)):
        for number, (name, x) in enumerate(held):
            file = folder / split / name / f"{number * 7 % 31:02}-{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(x))
    return folder


def hub(folder: Path, train: Rows, test: Rows, names: Sequence[str] | None = NAMES) -> Path:
    """Parquet files as the datasets library writes them, in another order than the class folders."""
    for split, held in (("train", train), ("test", test)):
        mixed = [held[i] for i in np.random.default_rng(len(held)).permutation(len(held))]
        order = list(names or sorted(NAMES))
        cells = [{"bytes": png(x), "path": None} for _, x in mixed]
        table = pa.table({"image": cells, "label": [order.index(name) for name, _ in mixed]})
        if names:
            features = {"image": {"_type": "Image"}, "label": {"names": order, "_type": "ClassLabel"}}
            table = table.replace_schema_metadata(
                {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
            )
        file = folder / "data" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file)
    return folder


TRAIN, TEST = rows(8, 0), rows(3, 1)


def test_class_folders_are_read_as_they_are(tmp_path: Path) -> None:
    located = locate("folder", tree(tmp_path / "shapes", TRAIN, TEST))
    info, splits = located.info, located.load()
    assert located.label == "shapes"
    assert (info.channels, info.size, info.classes) == (3, SIDE, 3)
    assert (info.train_images, info.test_images) == (24, 9) == (located.train_images, located.test_images)
    assert splits.train_y.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    for number, name in enumerate(sorted(NAMES)):
        there = {x.tobytes() for x in splits.train_x[splits.train_y == number]}
        assert there == {x.transpose(2, 0, 1).tobytes() for each, x in TRAIN if each == name}
    pixels = splits.train_x / 255
    assert info.mean == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-4)
    assert info.std == pytest.approx(pixels.std((0, 2, 3)), abs=1e-4)
    assert (info.eps_linf, info.eps_l2) == (8 / 255, 0.5)
    assert located.hash == splits.content_hash()


@pytest.mark.parametrize("names", [NAMES, None], ids=["named", "numbers"])
def test_class_folders_and_parquet_files_are_one_data_set(
    tmp_path: Path, names: tuple[str, ...] | None
) -> None:
    """Same hash, hence same ids: neither form, nor the order of files, rows or names decides anything."""
    first = locate("folder", tree(tmp_path / "a" / "shapes", TRAIN, TEST))
    second = locate("folder", hub(tmp_path / "b" / "shapes", TRAIN, TEST, names))
    assert first.identity == second.identity
    assert first.info == second.info
    one, other = first.load(), second.load()
    assert np.array_equal(one.train_x, other.train_x)
    assert np.array_equal(one.test_x, other.test_x)
    assert one.test_y.tolist() == other.test_y.tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_labels_that_are_texts_name_the_classes(tmp_path: Path) -> None:
    for split, held in (("train", TRAIN), ("test", TEST)):
        cells = [{"bytes": png(x), "path": None} for _, x in held]
        pq.write_table(
            pa.table({"image": cells, "label": [name for name, _ in held]}), tmp_path / f"{split}.parquet"
        )
    assert locate("folder", tmp_path).hash == locate("folder", tree(tmp_path / "t", TRAIN, TEST)).hash


def test_grey_images_have_one_channel_and_beside_colour_three(tmp_path: Path) -> None:
    grey = [rows(2, seed, channels=1) for seed in (0, 1)]
    assert locate("folder", tree(tmp_path / "grey", *grey)).load().train_x.shape == (6, 1, SIDE, SIDE)
    mixed = locate("folder", tree(tmp_path / "mixed", grey[0], rows(2, 1))).load()
    assert mixed.train_x.shape == (6, 3, SIDE, SIDE)
    assert (mixed.train_x == mixed.train_x[:, :1]).all()


def test_a_change_of_any_file_is_seen(tmp_path: Path) -> None:
    folder = tree(tmp_path / "shapes", TRAIN, TEST)
    before = locate("folder", folder).hash
    file = next((folder / "val" / "dot").iterdir())
    file.write_bytes(png(rows(1, 9)[0][1]))
    changed = locate("folder", folder).hash
    assert changed != before
    file.unlink()
    assert locate("folder", folder).test_images == 8
    shutil.move(next((folder / "train" / "dot").iterdir()), folder / "train" / "bar" / "moved.png")
    assert locate("folder", folder).load().train_y.tolist() == [0] * 9 + [1] * 8 + [2] * 7


def test_a_folder_with_the_name_of_a_data_set_is_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mnist", "folder", "bars"):
        located = locate("folder", tree(tmp_path / name, TRAIN, TEST))
        assert located.label == f"{name}-{located.hash[:8]}"
        assert f"results call them {located.label}" in capsys.readouterr().err


def test_test_images_that_were_trained_on_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locate("folder", tree(tmp_path / "shapes", TRAIN, [*TEST, TRAIN[0], TRAIN[1]]))
    assert "2 test images are training images too" in capsys.readouterr().err


def test_a_test_split_without_labels_is_left_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tree(tmp_path / "shapes", TRAIN, TEST)
    (folder / "test").mkdir()
    (folder / "test" / "unlabelled.png").write_bytes(png(TEST[0][1]))
    assert locate("folder", folder).test_images == 9
    assert "val is the test split, test is left aside" in capsys.readouterr().err
    tree(folder, [], TEST[:3], test_name="test")
    (folder / "test" / "unlabelled.png").unlink()
    assert locate("folder", folder).test_images == 3


@pytest.mark.parametrize(
    ("fit", "middle"), [("crop:4", (0, 0, 255, 255)), ("stretch:4", None), ("pad:4", (0, 0, 0, 0))]
)
def test_other_sizes_become_squares_only_if_asked(
    tmp_path: Path, fit: str, middle: tuple[int, ...] | None
) -> None:
    """A 4×8 image, black above and white below: what of it is left."""
    tall = np.zeros((8, 4, 3), np.uint8)
    tall[4:] = 255
    folder = tree(tmp_path / "shapes", rows(2, 0, side=4), rows(1, 1, side=4))
    file = folder / "val" / "dot" / "tall.png"
    file.write_bytes(png(tall))
    with pytest.raises(DataError, match=r"tall\.png is 4×8, not a square; --fit crop:4, pad or stretch"):
        locate("folder", folder)
    made = locate("folder", folder, fit=fit).load().test_x
    assert made.shape[1:] == (3, 4, 4)
    (own,) = [x for x in made if (x == x[:1]).all() and (x[:, -1] > 200).any()]
    if middle is not None:
        assert tuple(own[0, :, 0]) == middle
    else:
        assert own[0, 0, 0] < 30
        assert own[0, -1, 0] > 225
    assert locate("folder", folder, fit=fit).hash != locate("folder", folder, fit="stretch:8").hash


def test_images_of_the_right_size_are_left_as_they_are(tmp_path: Path) -> None:
    folder = tree(tmp_path / "shapes", TRAIN, TEST)
    assert locate("folder", folder, fit="pad:8").hash == locate("folder", folder).hash


def _no_train(folder: Path) -> None:
    shutil.rmtree(folder / "train")


def _no_test(folder: Path) -> None:
    shutil.rmtree(folder / "val")


def _flat_test(folder: Path) -> None:
    shutil.rmtree(folder / "val")
    (folder / "test").mkdir()


def _one_class(folder: Path) -> None:
    for split in ("train", "val"):
        for name in ("dot", "cross"):
            shutil.rmtree(folder / split / name)


def _other_class(folder: Path) -> None:
    (folder / "val" / "dot").rename(folder / "val" / "dots")


def _empty_class(folder: Path) -> None:
    (folder / "train" / "empty").mkdir()


def _stray(folder: Path) -> None:
    shutil.copy(next((folder / "train" / "dot").iterdir()), folder / "train" / "stray.png")


def _text(folder: Path) -> None:
    (folder / "train" / "dot" / "notes.csv").write_text("a,b")


def _broken(folder: Path) -> None:
    (folder / "train" / "dot" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")


def _larger(folder: Path) -> None:
    (folder / "train" / "dot" / "larger.png").write_bytes(png(np.zeros((16, 16, 3), np.uint8)))


def _both(folder: Path) -> None:
    hub(folder, TRAIN, TEST)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_train, "no images with classes in .*: put class folders train/CLASS/"),
        (_no_test, "has train, but no test or val: put the test images into .*/test/CLASS/"),
        (_flat_test, "test has no class folders: put the test images into"),
        (_one_class, "has 1 class; there must be at least 2"),
        (_other_class, "val/dots is a class that .*train lacks; remove it, or add it"),
        (_empty_class, "train/empty holds no images; fill it, or remove it"),
        (_stray, r"train/stray\.png lies outside of the class folders"),
        (_text, r"notes\.csv is no image; remove it"),
        (_broken, r"broken\.png cannot be decoded"),
        (_larger, r"larger\.png is 16×16, .* is 8×8; --fit crop:16, pad or stretch"),
        (_both, r"holds class folders and .*\.parquet; move one"),
    ],
)
def test_class_folders_that_are_wrong_are_named(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = tree(tmp_path / "shapes", TRAIN, TEST)
    spoil(folder)
    with pytest.raises(DataError, match=message) as error:
        locate("folder", folder)
    assert "\n" not in str(error.value)


def _write(folder: Path, split: str, change: Callable[[pa.Table], pa.Table]) -> None:
    file = folder / "data" / f"{split}-00000-of-00001.parquet"
    pq.write_table(change(pq.read_table(file)), file)


def _numbers(table: pa.Table, labels: Sequence[object]) -> pa.Table:
    return table.set_column(1, "label", pa.array(labels)).replace_schema_metadata(None)


def test_parquet_files_that_are_wrong_are_named(tmp_path: Path) -> None:
    cases: list[tuple[str, Callable[[pa.Table], pa.Table], str]] = [
        (
            "test",
            lambda t: t.set_column(1, "label", [[3] * len(t)]),
            "labels 3 to 3, the training split of .* has 3 classes",
        ),
        ("train", lambda t: _numbers(t, [0, 5] * (len(t) // 2)), "labels 0 to 5 of 2 classes and no names"),
        ("train", lambda t: t.drop_columns(["label"]), "has no labels; expected a column label"),
        (
            "train",
            lambda t: t.set_column(0, "image", pa.array([[[1]]] * len(t))),
            "has images of type list.*store them as PNG",
        ),
    ]
    for number, (split, change, message) in enumerate(cases):
        folder = hub(tmp_path / f"shapes-{number}", TRAIN, TEST)
        _write(folder, split, change)
        with pytest.raises(DataError, match=message):
            locate("folder", folder)
    folder = hub(tmp_path / "renamed", TRAIN, TEST)
    features = {"label": {"names": ["dot", "bar", "cross hairs"], "_type": "ClassLabel"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    _write(folder, "test", lambda t: t.replace_schema_metadata(metadata))
    with pytest.raises(DataError, match=r"names the class 'cross hairs', which .*train.* lacks"):
        locate("folder", folder)


def test_options_that_mean_nothing_are_refused(tmp_path: Path, bench: Bench) -> None:
    for asked, message in (
        (["--dataset", "folder", "--fit", "crop"], "--fit must be crop:SIZE, pad:SIZE or stretch:SIZE"),
        (["--dataset", "folder", "--fit", "crop:0"], "such as crop:32, got 'crop:0'"),
        (
            ["--dataset", "digits", "--fit", "crop:8"],
            "--fit crop:8 is of a folder of images: --dataset folder",
        ),
        (["--dataset", "folders"], "unknown data set 'folders'; did you mean folder?"),
        (["--dataset", "folder", "--data-dir", tmp_path / "none"], "no images with classes in"),
        (["--dataset", "folder", "--defense", "magnet"], "magnet has no recipe for folder; it knows digits"),
    ):
        folder = tree(tmp_path / "shapes", TRAIN, TEST)
        said = bench("run", "--out", tmp_path / "r", "--data-dir", folder, *asked)
        assert said.status == 2
        assert message in said.err
        assert len([line for line in said.err.splitlines() if "note" not in line]) == 1


def test_a_budget_beyond_the_pixel_box_is_found_once_the_images_are_read(tmp_path: Path) -> None:
    tree(tmp_path / "shapes", TRAIN, TEST)
    protocol = load_protocol(None, {"datasets": ["folder"], "eps": {"l2": 14.0}})
    with pytest.raises(BenchError, match=r"fit into the pixel box, got 14\.0 for l2"):
        locate_for(protocol.settings[0], tmp_path / "shapes")
    assert (3 * SIDE**2) ** 0.5 < 14


def test_it_is_no_data_set_that_others_may_send_something_in_for() -> None:
    assert FOLDER.info.name not in DATASETS


TINY = ["--norm", "linf", "--threat", "white", "--attacks", "pgd-40", "--width", 2, "--epochs", 2]
RUN = ["run", "--dataset", "folder", "--defense", "undefended", *TINY, "--schedule", "fast", "--workers", 1]


def _figures(out: Path) -> dict[str, str]:
    lines = csv.DictReader((out / "results.csv").read_text().splitlines())
    return {line["attack"]: line["mean"] for line in lines if line["dataset"] == "shapes"}


def test_a_run_gives_the_same_numbers_for_both_forms_and_skips_what_is_done(
    bench: Bench, tmp_path: Path
) -> None:
    folders = tree(tmp_path / "a" / "shapes", TRAIN, TEST), hub(tmp_path / "b" / "shapes", TRAIN, TEST)
    for folder, out in zip(folders, ("r", "s"), strict=True):
        said = bench(*RUN, "--data-dir", folder, "--out", tmp_path / out)
        assert said.status == 0, said.err
        assert "White box, shapes" in said.out
        assert "L∞ (ε = 8/255)" in said.out
    assert _figures(tmp_path / "r") == _figures(tmp_path / "s")
    assert {"none", "pgd-40", "worst-case"} == _figures(tmp_path / "r").keys()
    again = bench(*RUN, "--data-dir", folders[1], "--out", tmp_path / "r")
    assert "nothing to do: all 2 cells are done" in again.out
    for path in find_records(tmp_path / "r"):
        spec = read_record(path).spec
        assert spec["dataset"] == "shapes"
        assert (spec["facts"]["name"], spec["facts"]["classes"]) == ("folder", 3)
        assert spec["data"] == locate("folder", folders[0]).hash
