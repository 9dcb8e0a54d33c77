"""What holds for every data set, ours and those of plugins; and how a plugin that is wrong is named."""

import dataclasses
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustness_bench.attacks import plugins
from robustness_bench.attacks.plugins import PresetError, Registry
from robustness_bench.benchmark.data import DATASETS, locate
from robustness_bench.benchmark.data.base import Dataset, DatasetInfo, Reading, Source, Splits
from robustness_bench.benchmark.data.registry import _OWN, _accept, dataset_names
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import make_plan
from tests.conftest import Bench

each_dataset = pytest.mark.parametrize("name", list(DATASETS))
EMBEDDED = [name for name, dataset in DATASETS.items() if dataset.find(Path("no such folder")) is not None]


@each_dataset
def test_its_facts_fit_together(name: str) -> None:
    dataset = DATASETS[name]
    info = dataset.info
    assert info.name == name
    assert len(info.mean) == len(info.std) == info.channels in (1, 3)
    assert all(0 < each < 1 for each in (*info.mean, *info.std))
    assert len(set(dataset.classes)) == len(dataset.classes) == info.classes > 1
    assert 0 < info.eps_linf <= 1
    assert 0 < info.eps_l2 <= info.widest("l2")
    assert info.summary
    assert info.get


@each_dataset
def test_an_empty_folder_is_no_data_set_unless_it_is_embedded(name: str, tmp_path: Path) -> None:
    found = DATASETS[name].find(tmp_path)
    assert (found is not None) == (name in EMBEDDED)
    if found is not None:
        assert found.files == ()


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_images_are_what_its_facts_say(name: str) -> None:
    located = locate(name, Path("nowhere"))
    info, splits = located.info, located.load()
    assert located.label == name
    assert (located.train_images, located.test_images) == (info.train_images, info.test_images)
    for x, y, count in (
        (splits.train_x, splits.train_y, info.train_images),
        (splits.test_x, splits.test_y, info.test_images),
    ):
        assert x.shape == (count, info.channels, info.size, info.size)
        assert x.dtype == np.uint8
        assert y.dtype == np.int64
        assert y.shape == (count,)
        assert set(y.tolist()) == set(range(info.classes))
    pixels = splits.train_x / 255
    assert pixels.mean((0, 2, 3)) == pytest.approx(info.mean, abs=5e-3)
    assert pixels.std((0, 2, 3)) == pytest.approx(info.std, abs=5e-3)
    seen = {image.tobytes() for image in splits.train_x}
    assert not any(image.tobytes() in seen for image in splits.test_x)


@pytest.mark.parametrize("name", EMBEDDED)
def test_it_reads_the_same_each_time(name: str) -> None:
    source = DATASETS[name].find(Path("nowhere"))
    assert source is not None
    first, second = (source.read().splits.content_hash() for _ in range(2))
    assert first == second == locate(name, Path("elsewhere")).hash


# --- plugins -----------------------------------------------------------------------------------------------


def _read() -> Reading:
    x, y = np.zeros((4, 1, 8, 8), np.uint8), np.array([0, 1, 0, 1])
    return Reading(Splits(x, y, x[:2] + 1, y[:2]), official=True)


INFO: dict[str, Any] = {
    **dataclasses.asdict(DATASETS["digits"].info),
    **{"name": "mine", "classes": 2, "train_images": 4, "test_images": 2},
}


def mine(change: dict[str, Any] | None = None, classes: tuple[str, ...] = ("a", "b")) -> Dataset:
    info = DatasetInfo(**{**INFO, **(change or {})})
    return Dataset(info=info, classes=classes, find=lambda folder: Source(files=(), read=_read))


OFFERED: Any = mine()


def registry(monkeypatch: pytest.MonkeyPatch, name: str, value: str = f"{__name__}:OFFERED") -> Registry[Any]:
    """What there is where ``value`` is installed as the data set ``name``."""
    point = EntryPoint(name=name, value=value, group="bench.datasets")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    return Registry("bench.datasets", "data set", _OWN, _accept)


@pytest.mark.parametrize(
    ("name", "offer", "message"),
    [
        ("mine", lambda: INFO, "must be a robustness_bench.benchmark.data.base.Dataset, got {'name'"),
        ("other", mine, "calls itself 'mine': give info.name and the entry point one name"),
        ("mnist", lambda: mine({"name": "mnist"}), "offers data set 'mnist', which exists already"),
        ("folder", lambda: mine({"name": "folder"}), "has the name of any folder of images: rename it"),
        ("mine", lambda: mine({"channels": 2}), "info.channels must be 1 or 3"),
        ("mine", lambda: mine({"size": 0}), "info.size must be at least 1"),
        ("mine", lambda: mine({"classes": 1}, ("a",)), "info.classes must be at least 2"),
        ("mine", lambda: mine({}, ("a", "a")), "classes must hold info.classes different names"),
        ("mine", lambda: mine({}, ("a", "b", "c")), "classes must hold info.classes different names"),
        ("mine", lambda: mine({"mean": (0.1, 0.1)}), "mean and info.std must hold a number for each channel"),
        ("mine", lambda: mine({"std": (0.0,)}), "info.std must be positive"),
        ("mine", lambda: mine({"eps_linf": 1.5}), "info.eps_linf must be above 0 and at most 1"),
        ("mine", lambda: mine({"eps_l2": 8.1}), "info.eps_l2 must be above 0 and fit into the pixel box"),
    ],
)
def test_a_plugin_that_is_wrong_is_named(
    name: str, offer: Callable[[], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.OFFERED", offer())
    with pytest.raises(PresetError, match=message) as error:
        list(registry(monkeypatch, name))
    assert "\n" not in str(error.value)
    assert f"{__name__}:OFFERED" in str(error.value)


def test_one_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        PresetError, match=r"data set 'mine' of the plugin nowhere:X cannot be loaded: No mod"
    ):
        list(registry(monkeypatch, "mine", "nowhere:X"))


def test_a_plugins_data_set_is_one_like_any_other(bench: Bench) -> None:
    assert dataset_names() == [*_OWN, "bars", "folder"]
    listed = bench("list", "datasets").out.splitlines()
    assert [line.split()[0] for line in listed] == dataset_names()
    assert "1×8×8, 3 classes, 240 + 90 images; ε = 0.1 (L∞), 0.5 (L2)" in listed[-2]
    with pytest.raises(BenchError, match=r"unknown data set 'bar'; did you mean bars\?"):
        load_protocol(None, {"datasets": ["bar"]})


def test_a_plugins_facts_are_part_of_ids_and_ours_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The normalisation and the number of outputs decide the network, and no file of ours fixes them."""
    found = []
    bars = locate("bars", Path("nowhere"))
    protocol = load_protocol(None, {"datasets": ["bars"], "defenses": ["undefended"]})
    for mean in ((0.214,), (0.3,)):
        data = bars._replace(info=dataclasses.replace(bars.info, mean=mean))
        found.append({task.id for task in make_plan(protocol, {"bars": data})})
    assert not found[0] & found[1]
    assert "facts" not in locate("digits", Path("nowhere")).identity
    assert bars.identity["facts"] == {"name": "bars", "classes": 3, "mean": [0.214], "std": [0.18]}


def test_the_cache_sees_that_a_plugins_code_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = (Path(__file__).parents[3] / "examples" / "dataset_plugin" / "bench_bars.py").read_text()
    hashes = []
    for number, seed in enumerate((0, 1)):
        file = tmp_path / "changing_bars.py"
        file.write_text(text.replace("default_rng(0)", f"default_rng({seed})"))
        namespace: dict[str, Any] = {"__name__": f"changing_bars_{number}"}
        exec(compile(file.read_text(), str(file), "exec"), namespace)
        monkeypatch.setattr(DATASETS, "_known", ((), {**DATASETS, "bars": namespace["BARS"]}))
        hashes.append(locate("bars", tmp_path).hash)
    assert hashes[0] != hashes[1]
