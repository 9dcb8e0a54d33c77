"""Detectors of plugins: what they add, and how one that is wrong is named."""

import copy
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from robustness_bench.attacks import plugins
from robustness_bench.attacks.plugins import PresetError
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.plan.detectors import make_whole_plan
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.report.detectors.names import system_names
from robustness_bench.defenses.detectors import registry
from robustness_bench.defenses.detectors.registry import (
    build_detector,
    detector_presets,
    part_presets,
    system_presets,
)
from tests.conftest import Bench

Table = dict[str, Any]
GOOD: Table = {
    "system": {
        "label": "Mine",
        "source": "nobody 2026",
        "adaptive": False,
        "base": "magnet",
        "detectors": {"digits": ["odd"]},
    },
    "detectors": {
        "odd": {
            "detector": "bench_max_softmax_detector:Unsure",
            "label": "odd",
            "temperature": 2.0,
            "images": 0,
            "rate": {"digits": 0.05},
        }
    },
}
OFFERED: Any = GOOD


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """What a test lets be installed is not there for the next."""
    yield
    registry._presets.cache_clear()


def offer(
    monkeypatch: pytest.MonkeyPatch, table: Any, name: str = "mine", value: str = f"{__name__}:OFFERED"
) -> None:
    """Let ``table`` be installed as the detector ``name``."""
    monkeypatch.setattr(f"{__name__}.OFFERED", table)
    point = EntryPoint(name=name, value=value, group="bench.detectors")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    registry._presets.cache_clear()


def test_an_installed_plugin_is_a_system_like_any_other(bench: Bench) -> None:
    """The example, installed for the tests: last in its group, built by its identity, in the plan."""
    assert "max-softmax" in system_presets()
    assert system_names()[-1] == "max-softmax"
    preset = detector_presets()["unsure"]
    assert type(build_detector(preset.identity())).__name__ == "Unsure"
    assert len(preset.identity()["code"]) == 64
    assert "code" not in detector_presets()["jsd-10"].identity()
    last = bench("list", "detectors").out.splitlines()[-1]
    assert last.startswith("max-softmax ")
    assert "Maximum softmax; digits: unsure; mnist: unsure" in last
    with pytest.raises(BenchError, match=r"unknown defense 'max-sofmax'; did you mean max-softmax"):
        load_protocol(None, {"defenses": ["max-sofmax"]})


def test_one_task_has_one_path_though_a_grey_box_attacker_has_networks_of_his_own() -> None:
    """Else a threshold that needs no network is looked for where nothing was written."""
    protocol = load_protocol(None, {"defenses": ["max-softmax"]})
    tasks = make_whole_plan(protocol, {"digits": locate("digits", Path("nowhere"))})
    paths: dict[str, set[Path]] = {}
    for task in tasks:
        for each in task.lineage():
            paths.setdefault(each.id, set()).add(each.path)
    assert any(task.kind == "calibrate" for task in tasks)
    assert all(len(own) == 1 for own in paths.values())


def test_one_that_has_a_base_adds_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, GOOD)
    mine = system_presets()["mine"]
    assert mine.detectors == {"digits": ("reconstruction-1", "reconstruction-2", "odd")}
    assert (mine.reformer, mine.group) == (system_presets()["magnet"].reformer, "plugins")
    assert detector_presets()["odd"].parameters == {"temperature": 2.0}


def test_one_brings_parts_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    part = {
        **{"part": "bench_max_softmax_detector:Unsure", "gate": 0.1, "epochs": 1, "batch_size": 2},
        **{"lr": 0.1, "schedule": "quarter", "units": 3},
    }
    table = {**GOOD, "parts": {"digits": {"own": part}}}
    offer(monkeypatch, table)
    assert part_presets("digits")["own"].parameters == {"units": 3}
    assert part_presets("digits")["own"].identity()["code"]
    assert "own" not in part_presets("mnist")


def _changed(*path: str, to: Any) -> Callable[[], Any]:
    """GOOD with another value; a key is removed by None."""

    def build() -> Any:
        table = copy.deepcopy(GOOD)
        inner = table
        for key in path[:-1]:
            inner = inner[key]
        if to is None:
            del inner[path[-1]]
        else:
            inner[path[-1]] = to
        return table

    return build


DETECTOR = ("detectors", "odd")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ["list"], "must be a dict, got"),
        (_changed("system", to=None), "lacks system"),
        (_changed("sytem", to={}), "has the unknown key sytem; known: system, detectors, parts"),
        (_changed("system", "label", to=None), "system lacks label"),
        (_changed("system", "adaptive", to="no"), "adaptive must be of type bool, got 'no'"),
        (
            _changed("system", "group", to="best"),
            "group must be one of magnet, mi, control, plugins, got 'be",
        ),
        (_changed("system", "base", to="magnett"), "base 'magnett' is no detector; known: magnet, "),
        (_changed("system", "reformer", to="x"), "the reformer is that of its base magnet: leave it out"),
        (_changed("system", "detectors", to=None), "system.detectors must be a dict .* got None"),
        (_changed("system", "detectors", to={"digits": []}), "system.detectors must be a dict"),
        (
            _changed("system", "detectors", to={"svhn": ["odd"]}),
            "magnet has no recipe for svhn; it knows dig",
        ),
        (_changed("system", "detectors", to={"digits": ["od"]}), "'od' is none of the detectors recons"),
        (_changed("system", "detectors", to=["odd"]), "detector 'odd' has no rate for mnist: add it"),
        (_changed(*DETECTOR, "rate", to={"digits": 2.0}), "rate of digits must be a share .* got 2.0"),
        (
            _changed(*DETECTOR, "rate", to={"digits": 0.1}),
            "rate of digits must be a share below 0.1, got 0.1",
        ),
        (_changed(*DETECTOR, "rate", to=None), "detector 'odd' lacks rate"),
        (_changed(*DETECTOR, "images", to=-1), "images must be 0 .all. or more, got -1"),
        (_changed(*DETECTOR, "detector", to="Unsure"), "must name its code as \"module:Name\", got 'Unsure'"),
        (_changed(*DETECTOR, "detector", to="no_such:X"), "no_such:X cannot be found: there is no Python"),
        (_changed("detectors", "jsd-10", to=GOOD["detectors"]["odd"]), "detector 'jsd-10' exists already"),
        (_changed("parts", to={"digits": {"own": {"part": "a:B"}}}), "part 'own' lacks batch_size, epochs"),
        (
            lambda: {**GOOD, "system": {**GOOD["system"], "base": "", "reformer": "autoencoder-9"}},
            "there is no part 'autoencoder-9' for digits: add it to parts",
        ),
    ],
)
def test_a_plugin_that_is_wrong_is_named(
    build: Callable[[], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, build())
    with pytest.raises(PresetError, match=message) as error:
        system_presets()
    assert "\n" not in str(error.value)
    assert "detector 'mine' of the plugin" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("magnet", f"{__name__}:OFFERED", "offers detector 'magnet', which exists already"),
        ("mine", "nowhere:X", "detector 'mine' of the plugin nowhere:X cannot be loaded: No module"),
    ],
)
def test_names_that_are_taken_and_modules_that_are_absent(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    offer(monkeypatch, GOOD, name, value)
    said = bench("list", "detectors")
    assert (said.status, len(said.err.splitlines())) == (2, 1)
    assert message in said.err


def test_changed_code_is_another_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    codes = []
    for text in ("1", "2"):
        (tmp_path / "changing_detector.py").write_text(text)
        offer(monkeypatch, _changed(*DETECTOR, "detector", to="changing_detector:Odd")())
        codes.append(detector_presets()["odd"].identity())
    assert codes[0] != codes[1]
    assert plugins.file_points("bench.detectors") == ()
