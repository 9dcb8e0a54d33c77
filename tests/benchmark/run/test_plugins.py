"""Defenses from outside: a file named by `--plugin`, and an installed package's entry point."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from robustness_bench.attacks import plugins as offered
from robustness_bench.attacks.registry import PresetError
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Task, make_plan
from robustness_bench.benchmark.store.cards import read_card
from robustness_bench.defenses import plugins, registry
from robustness_bench.defenses.registry import build_defense, defense_presets
from tests.conftest import ROOT, Bench, _install_plugin

EXAMPLE = ROOT / "examples" / "defense_plugin" / "logit_pairing.py"
TINY = ["--epochs", 1, "--train-limit", 64, "--width", 2, "--n-examples", 12, "--norm", "linf"]
SMALL = [*TINY, "--threat", "white", "--attacks", "pgd-40"]

HEAD = """
from dataclasses import dataclass
from typing import ClassVar
from torch.nn import functional
from robustness_bench.defenses.base import Batch, Defense
from robustness_bench.defenses.namid import NAMID
"""
MINE = f"""{HEAD}
@dataclass(frozen=True, kw_only=True)
class Mine(Defense):
    weight: float = 2.0

    def terms(self, batch):
        return {{"mine": self.weight * functional.cross_entropy(batch.adversarial_logits, batch.y)}}
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No plugin before or after, installed ones included."""
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    registry._installed.cache_clear()
    before = set(sys.modules)
    yield
    plugins._loaded.clear()
    for name in set(sys.modules) - before:
        if name.startswith("bench_plugin_"):
            del sys.modules[name]
    registry._installed.cache_clear()


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def lines(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "results.csv").read_text().splitlines()))


def snapshot(out: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in out.rglob("*") if file.suffix in (".parquet", ".json")}


def planned(file: Path) -> Task:
    """The training of a plugin's defense."""
    name = plugins.load_plugin(file)
    protocol = load_protocol(None, {"defenses": [name], "norms": ["linf"], "threats": ["white"]})
    tasks = make_plan(protocol, {"digits": locate("digits", Path("data"))})
    return next(task for task in tasks if task.kind == "train")


def test_a_file_is_a_row_and_again_there_is_nothing_to_do(bench: Bench, tmp_path: Path) -> None:
    """Each of two worker processes loads the file by itself."""
    command = ["run", *SMALL, "--plugin", EXAMPLE, "--out", tmp_path]
    said = bench(*command, "--workers", 2)
    assert said.status == 0, said.err
    assert "2 of 2 cells to do, 4 tasks" in said.out
    (row,) = [line for line in said.out.splitlines() if line.startswith("Logit pairing")]
    figures = {line["attack"]: line["mean"] for line in lines(tmp_path)}
    assert {line["defense"] for line in lines(tmp_path)} == {"logit-pairing"}
    assert set(figures) == {"none", "pgd-40", "worst-case"}
    assert [f"{float(mean):.1f}" for mean in figures.values()] == row.replace("*", "").split()[2:]
    card = read_card(next(tmp_path.glob("checkpoints/digits/logit-pairing-*.safetensors")))
    assert card["spec"]["defense"]["weight"] == 0.5
    assert {"adversarial", "pairing"} <= set(card["history"][0])

    before = snapshot(tmp_path)
    again = bench(*command)
    assert again.status == 0
    assert "nothing to do: all 2 cells are done" in again.out
    assert row in again.out.splitlines()
    assert snapshot(tmp_path) == before


def test_next_to_built_in_defenses_and_gone_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--defense says what runs; without the file the store's lines stay, its row does not."""
    said = bench(
        "run", *SMALL, "--plugin", EXAMPLE, "--defense", "undefended,logit-pairing", "--out", tmp_path
    )
    assert said.status == 0, said.err
    labels = [line[:13].strip() for line in said.out.splitlines()]
    assert labels.index("Undefended") < labels.index("Logit pairing")
    before = lines(tmp_path)
    plugins._loaded.clear()
    said = bench("run", *SMALL, "--defense", "undefended", "--out", tmp_path)
    assert said.status == 0, said.err
    assert "nothing to do" in said.out
    assert "Logit pairing" not in said.out
    assert lines(tmp_path) == before
    assert bench("run", *SMALL, "--defense", "logit-pairing", "--out", tmp_path).status == 2


def test_it_reaches_the_training_of_several_processes(tmp_path: Path) -> None:
    """Each process that trains the model loads the file too."""
    from robustness_bench.benchmark.context import Context
    from robustness_bench.benchmark.train.defenses import train

    task = planned(EXAMPLE)
    task.spec["training"] |= {"epochs": 1, "train_limit": 48, "batch_size": 24, "attack_steps": 1}
    context = Context(out=tmp_path, device="cpu", batch_size=0, threads=1, processes=2, plugins=(EXAMPLE,))
    train(task, context, lambda *progress: None)
    assert {"adversarial", "pairing"} <= set(read_card(tmp_path / task.path)["history"][0])


def test_one_that_requires_estimators_is_trained_with_them(bench: Bench, tmp_path: Path) -> None:
    """A subclass of NAMID; the objective it wants is what its estimators are trained by."""
    text = f"""{HEAD}
@dataclass(frozen=True, kw_only=True)
class Bolder(NAMID):
    requires: ClassVar = ("estimators",)
    estimators: ClassVar = {{"objective": "eq-4"}}
    label: ClassVar = "Bolder NAMID"
    alpha: float = 9.0
    natural_first: int = 0
"""
    config = write(tmp_path, "[estimators]\nunits = 8\n", "units.toml")
    file = write(tmp_path, text, "bolder_namid.py")
    attacks = ["--threat", "white", "--attacks", "none", "--config", config]
    said = bench("run", *TINY, *attacks, "--plugin", file, "--out", tmp_path / "r")
    assert said.status == 0, said.err
    assert "Bolder NAMID" in said.out
    card = read_card(next(tmp_path.glob("r/checkpoints/digits/bolder-namid-*.safetensors")))
    assert {"adversarial", "mi"} <= set(card["history"][0])
    assert card["spec"]["defense"]["alpha"] == 9.0
    assert card["spec"]["defense"]["base"] == {"defense": "defenses.standard:Standard"}
    fitted = read_card(next(tmp_path.glob("r/checkpoints/digits/estimators-*.safetensors")))
    assert fitted["spec"]["estimators"]["objective"] == "eq-4"
    assert fitted["id"] == card["spec"]["parents"]["estimators"]


def test_a_misspelt_estimator_setting_is_named(bench: Bench, tmp_path: Path) -> None:
    for setting, message in (
        ("objectiv", "the estimators of defense 'mine': unknown key 'objectiv'; did you mean objective"),
        ("bound", "the estimators of defense 'mine': unknown bound 'eq-4'"),
    ):
        estimators = (
            f"requires: ClassVar = ('estimators',)\n    estimators: ClassVar = {{'{setting}': 'eq-4'}}"
        )
        text = MINE.replace("weight: float", f"{estimators}\n    weight: float")
        said = bench("run", *SMALL, "--plugin", write(tmp_path, text), "--out", tmp_path / "r")
        refused(said.status, said.err, tmp_path / "r")
        assert message in said.err


def test_the_code_and_the_hyperparameters_decide_the_id(tmp_path: Path) -> None:
    first = planned(write(tmp_path, MINE))
    assert planned(write(tmp_path, MINE)).id == first.id
    (tmp_path / "elsewhere").mkdir()
    plugins._loaded.clear()
    moved = planned(write(tmp_path / "elsewhere", MINE))
    assert moved.id == first.id  # where it lies decides nothing
    plugins._loaded.clear()
    edited = planned(write(tmp_path, MINE.replace("self.weight *", "self.weight * 1.0 *")))
    assert edited.id != first.id
    assert edited.spec["defense"]["weight"] == first.spec["defense"]["weight"] == 2.0
    heavier = planned(write(tmp_path, MINE.replace("2.0", "3.0")))
    assert heavier.spec["defense"]["weight"] == 3.0
    assert len({first.id, edited.id, heavier.id}) == 3


def test_the_id_is_of_the_hyperparameters_themselves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Even where the hash of the file said nothing."""
    monkeypatch.setattr(registry, "source_hash", lambda defense: "")
    first, heavier = (planned(write(tmp_path, text)) for text in (MINE, MINE.replace("2.0", "3.0")))
    assert "code" not in first.spec["defense"]
    assert first.id != heavier.id


def test_a_file_changed_within_a_second_is_run_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Same size, same second: Python 3.11's bytecode cache, where it may write, takes the old one for it."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    weights = []
    for weight in ("2.0", "3.0"):
        file = write(tmp_path, MINE.replace("2.0", weight))
        os.utime(file, (1e9, 1e9))
        name = plugins.load_plugin(file)
        built = build_defense(defense_presets()[name].identity())
        weights.append(vars(built)["weight"])
    assert weights == [2.0, 3.0]
    assert not list(tmp_path.rglob("__pycache__"))


def test_what_a_preset_says_of_itself_is_what_is_built(tmp_path: Path) -> None:
    plugins.load_plugin(write(tmp_path, MINE, "my_own.py"))
    preset = defense_presets()["my-own"]
    assert (preset.label, preset.group, preset.adversarial, preset.requires) == ("Mine", "plugins", True, ())
    built = build_defense(preset.identity())
    assert type(built).__name__ == "Mine"
    assert vars(built) == {"weight": 2.0}
    assert list(defense_presets())[-1] == "my-own"


def test_classes_that_are_no_defense_of_its_own_do_not_count(tmp_path: Path) -> None:
    """Imported ones, an abstract one to inherit from, and a second name of the one."""
    text = MINE.replace("class Mine(Defense):", "class Mine(Shared):").replace(
        HEAD, f"{HEAD}\nclass Shared(Defense):\n    pass\n"
    )
    assert plugins.load_plugin(write(tmp_path, f"{text}\nAlias = Mine\n")) == "mine"


BROKEN = {
    "syntax": ("def (", "cannot be loaded: SyntaxError: invalid syntax"),
    "leaves": ("raise SystemExit(0)", "cannot be loaded: SystemExit: 0"),
    "raises": ("1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
    "import": ("import no_such_module_at_all", "cannot be loaded: ModuleNotFoundError: No module named"),
    "none": ("x = 1", "must define exactly one Defense class, it has none"),
    "two": (
        MINE + MINE.replace(HEAD, "").replace("class Mine", "class Other"),
        "must define exactly one Defense class, it has Mine, Other",
    ),
    "abstract": (
        f"{HEAD}\n@dataclass(frozen=True, kw_only=True)\nclass Mine(Defense):\n    weight: float = 2.0\n",
        "must define exactly one Defense class, it has none",
    ),
    "no default": (
        MINE.replace("weight: float = 2.0", "weight: float"),
        "Mine() cannot be built: ",
    ),
    "not JSON": (
        MINE.replace("weight: float = 2.0", "weight: float = 2.0\n    names: frozenset = frozenset('a')"),
        "names = frozenset({'a'}) cannot be stored; hyperparameters are finite numbers",
    ),
    "not finite": (
        MINE.replace("weight: float = 2.0", "weight: float = float('inf')"),
        "weight = inf cannot be stored; hyperparameters are finite numbers",
    ),
    "requires": (
        MINE.replace("weight: float", "requires: ClassVar = ('teacher', 'estimators')\n    weight: float"),
        'requires may hold "estimators" only, got teacher',
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_no_plugin_is_named_in_one_line(bench: Bench, tmp_path: Path, case: str) -> None:
    text, message = BROKEN[case]
    file = write(tmp_path, text)
    said = bench("run", *SMALL, "--plugin", file, "--out", tmp_path / "r")
    refused(said.status, said.err, tmp_path / "r")
    assert message in said.err
    assert f"bench: error: --plugin {file}" in said.err
    assert plugins._loaded == {}


@pytest.mark.parametrize("name", ["absent.py", "mine.txt", "folder.py"])
def test_what_is_no_python_file_is_named_in_one_line(bench: Bench, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.txt").write_text(MINE)
    (tmp_path / "folder.py").mkdir()
    said = bench("run", *SMALL, "--plugin", tmp_path / name, "--out", tmp_path / "r")
    refused(said.status, said.err, tmp_path / "r")
    assert "is not a Python file: give a .py file with one Defense class" in said.err


@pytest.mark.parametrize("name", ["standard.py", "namid_eq_4.py"])
def test_a_name_that_is_taken_is_refused(bench: Bench, tmp_path: Path, name: str) -> None:
    said = bench("run", *SMALL, "--plugin", write(tmp_path, MINE, name), "--out", tmp_path / "r")
    refused(said.status, said.err, tmp_path / "r")
    taken = name.removesuffix(".py").replace("_", "-")
    assert f"the plugin's defense {taken!r} exists already: rename the file" in said.err


def test_two_files_of_one_name_are_refused(bench: Bench, tmp_path: Path) -> None:
    """Else the first would be trained as the second, or not at all."""
    (tmp_path / "other").mkdir()
    files = write(tmp_path, MINE), write(tmp_path / "other", MINE.replace("2.0", "3.0"))
    said = bench("run", *SMALL, "--plugin", files[0], "--plugin", files[1], "--out", tmp_path / "r")
    refused(said.status, said.err, tmp_path / "r")
    assert f"--plugin {files[1]} offers defense 'mine', as {files[0]} does: rename one of them" in said.err


def refused(status: int, err: str, out: Path) -> None:
    assert status == 2
    assert len(err.strip().splitlines()) == 1, err
    assert not out.exists()


def test_an_installed_package_is_listed(tmp_path: Path) -> None:
    """By the command itself, which has to find and import it."""
    (tmp_path / "site").mkdir()
    path = list(sys.path)
    try:
        _install_plugin(EXAMPLE.parent, tmp_path / "site")
    finally:
        sys.path[:] = path
    visible = os.pathsep.join([str(ROOT), str(EXAMPLE.parent), str(tmp_path / "site")])
    command = [sys.executable, "-m", "robustness_bench.benchmark.cli", "list", "defenses"]
    said = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": visible},
    )
    last = said.stdout.splitlines()[-1]
    expected = "logit-pairing Logit pairing; weight=0.5; Kannan et al. 2018, arXiv:1803.06373"
    assert " ".join(last.split()) == expected


class Point:
    """An entry point."""

    def __init__(self, name: str, found: Any) -> None:
        self.name, self.value, self._found = name, "somewhere:Thing", found

    def load(self) -> Any:
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


def _points(point: Point, group: str) -> list[Point]:
    """The entry points of a group where one plugin is installed."""
    return [point] if group == "bench.defenses" else []


def test_installed_plugins_that_do_not_work_are_named(
    monkeypatch: pytest.MonkeyPatch, bench: Bench, tmp_path: Path
) -> None:
    plugins.load_plugin(write(tmp_path, MINE))
    mine, base = plugins._loaded.pop("mine"), sys.modules["bench_plugin_mine"].__dict__["Defense"]
    cases: list[tuple[str, Any, str]] = [
        ("mine", ImportError("no torch"), "the plugin somewhere:Thing cannot be loaded: no torch"),
        (
            "mine",
            base,
            "must be a concrete Defense class, got <class 'robustness_bench.defenses.base.Defense'>",
        ),
        ("mine", 3, "must be a concrete Defense class, got 3"),
        ("standard", mine, "the plugin somewhere:Thing offers defense 'standard', which exists already"),
    ]
    for name, found, message in cases:
        monkeypatch.setattr(registry, "entry_points", partial(_points, Point(name, found)))
        registry._installed.cache_clear()
        with pytest.raises(PresetError, match=message):
            defense_presets()
        said = bench("list", "defenses")
        assert said.status == 2
        assert message in said.err
        assert len(said.err.strip().splitlines()) == 1
    monkeypatch.setattr(registry, "entry_points", partial(_points, Point("mine", mine)))
    registry._installed.cache_clear()
    assert defense_presets()["mine"].parameters == {"weight": 2.0}
    entries = json.loads(bench("list", "defenses", "--json").out)
    assert entries[-1]["defense"] == "bench_plugin_mine:Mine"


def test_the_example_builds_what_it_says(tmp_path: Path) -> None:
    """Its two terms by hand: cross-entropy, and half of the mean squared difference of the logits."""
    import torch
    from torch import nn

    from robustness_bench.defenses.base import Batch

    shutil.copy(EXAMPLE, tmp_path / "mine.py")
    plugins.load_plugin(tmp_path / "mine.py")
    x, x_adv = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    terms = build_defense(defense_presets()["mine"].identity()).terms(
        Batch(nn.Identity(), x, torch.tensor([0, 1]), x_adv)
    )
    assert terms["pairing"].item() == pytest.approx(0.5 * (1 + 0 + 0 + 4) / 4)
    loss = (torch.log(torch.tensor(2.0)) + torch.log1p(torch.exp(torch.tensor(-3.0)))) / 2
    assert terms["adversarial"].item() == pytest.approx(loss.item())


NETWORK = """
from torch import nn

class Small(nn.Module):
    def __init__(self, channels, classes, width, size):
        super().__init__()
        self.linear = nn.Linear(channels * size * size, classes)

    def forward(self, x):
        return self.linear(x.flatten(1))

OFFERS = {"bench.models": {"network": f"{__name__}:Small", "summary": "one layer"}}
"""


@pytest.fixture
def _no_offers() -> Iterator[None]:
    yield
    offered._files.clear()


@pytest.mark.usefixtures("_no_offers")
def test_a_file_may_offer_a_network(bench: Bench, tmp_path: Path) -> None:
    """To two worker processes, then to this one."""
    file, config = write(tmp_path, NETWORK, "one_layer.py"), tmp_path / "p.toml"
    config.write_text('[dataset.digits.model]\nname = "one-layer"\n')
    command = ["run", *SMALL, "--plugin", file, "--config", config, "--defense", "undefended"]
    said = bench(*command, "--workers", 2, "--out", tmp_path / "r")
    assert said.status == 0, said.err
    assert "one-layer of width 2" in said.out
    card = read_card(next(tmp_path.glob("r/checkpoints/digits/undefended-one-layer-*.safetensors")))
    assert card["spec"]["architecture"]["network"] == "bench_plugin_one_layer:Small"
    file.write_text(NETWORK.replace("size * size, classes", "size * size, classes, bias=False"))
    again = bench(*command, "--out", tmp_path / "r")
    assert "2 of 2 cells to do" in again.out  # other code, other ids


@pytest.mark.usefixtures("_no_offers")
def test_a_network_that_is_offered_is_named_by_an_option(bench: Bench, tmp_path: Path) -> None:
    file = write(tmp_path, NETWORK, "one_layer.py")
    said = bench("plan", *SMALL, "--plugin", file, "--model", "one-layer", "--out", tmp_path)
    assert said.status == 0, said.err
    assert "train undefended-one-layer" in said.out


@pytest.mark.usefixtures("_no_offers")
def test_what_a_file_offers_is_not_passed_over(bench: Bench, tmp_path: Path) -> None:
    """A table of resnet-18 beside ``--plugin my_net.py`` would be read as one of my-net."""
    bars = (ROOT / "examples" / "dataset_plugin" / "bench_bars.py").read_text().replace('"bars"', '"my-bars"')
    softmax = (ROOT / "examples" / "detector_plugin" / "bench_max_softmax.py").read_text()
    softmax = softmax.replace('"unsure"', '"my-unsure"')
    files = {
        "--model one-layer": write(tmp_path, NETWORK, "one_layer.py"),
        "--dataset my-bars": write(tmp_path, f'{bars}\nOFFERS = {{"bench.datasets": BARS}}\n', "my_bars.py"),
        "--defense my-softmax": write(
            tmp_path, f'{softmax}\nOFFERS = {{"bench.detectors": PRESET}}\n', "my_softmax.py"
        ),
    }
    for remedy, file in files.items():
        said = bench("run", *SMALL, "--plugin", file, "--defense", "undefended", "--out", tmp_path / "r")
        assert said.status == 2
        assert "which nothing here uses" in said.err
        assert f"add {remedy}, or leave the plugin out" in said.err
    assert not (tmp_path / "r").exists()


@pytest.mark.usefixtures("_no_offers")
def test_a_file_may_offer_a_data_set_and_a_detector(bench: Bench, tmp_path: Path) -> None:
    bars = (ROOT / "examples" / "dataset_plugin" / "bench_bars.py").read_text().replace('"bars"', '"my-bars"')
    write(tmp_path, f'{bars}\nOFFERS = {{"bench.datasets": BARS}}\n', "my_bars.py")
    said = bench(
        "plan", *TINY, "--plugin", tmp_path / "my_bars.py", "--dataset", "my-bars", "--out", tmp_path
    )
    assert said.status == 0, said.err
    assert "my-bars train undefended-resnet-18" in said.out
    preset = (ROOT / "examples" / "detector_plugin" / "bench_max_softmax.py").read_text()
    text = preset.replace('"unsure"', '"my-unsure"') + '\nOFFERS = {"bench.detectors": PRESET}\n'
    said = bench("plan", "--plugin", write(tmp_path, text, "my_softmax.py"), "--out", tmp_path)
    assert said.status == 0, said.err
    assert "digits my-softmax × none (natural)" in said.out  # a detector runs unless --defense says


@pytest.mark.usefixtures("_no_offers")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("OFFERS = 3", "OFFERS must be a dict with keys of bench.datasets, bench.models, bench.detectors"),
        ("OFFERS = {'bench.modles': {}}", "OFFERS has the unknown key 'bench.modles'; known: bench.datasets"),
        ("OFFERS = {'bench.models': {'summary': 's'}}", "lacks network"),
        ("OFFERS = {'bench.datasets': 3}", "must be a robustness_bench.benchmark.data.base.Dataset, got 3"),
        ("OFFERS = {'bench.detectors': {}}", "lacks system"),
    ],
)
def test_offers_that_are_wrong_are_named(bench: Bench, tmp_path: Path, text: str, message: str) -> None:
    said = bench("run", *SMALL, "--plugin", write(tmp_path, text), "--out", tmp_path / "r")
    refused(said.status, said.err, tmp_path / "r")
    assert message in said.err
