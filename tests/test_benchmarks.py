"""The scripts in ``benchmarks/`` run and compute what they say; what they time is not tested."""

import csv
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.defenses.registry import build_defense, defense_presets

ROOT = Path(__file__).parents[1]
N, STEPS = 4, 2
SMALL = {
    "--width": 2,
    "--batch-size": N,
    "--steps": 1,
    "--rounds": 1,
    "--dataset-shape": "3x8x8",
    "--threads": 1,
    "--attack-steps": STEPS,
}
PASSES = {
    "undefended": (1, 1),
    "standard": (STEPS + 1, STEPS + 1),
    "wmim": (STEPS + 1, STEPS + 1),
    "namid": (STEPS + 2, STEPS + 2),
    "trades": (STEPS + 3, STEPS + 2),  # h(x) of the inner attack has no gradient
    "namid-t": (STEPS + 3, STEPS + 2),
    "mart": (STEPS + 2, STEPS + 2),
    "namid-m": (STEPS + 2, STEPS + 2),
}
COLUMNS = (
    "kind,name,seconds_per_step,relative_to,relative,relative_min,relative_max,forwards_per_image,"
    "backwards_per_image,images_per_second,seconds_per_epoch,tflop_per_step,tflop_per_second,percent_of_peak,"
    "date,hardware,cpus,device,torch,threads,precision,model,width,norm,attack_steps,batch_size,shape,"
    "classes,steps,rounds"
)
MACS = {  # per image of 3×8×8 at width 2: 3×3 convolutions, 1×1 shortcuts, the linear layer
    "stem": 64 * 9 * 3 * 2,
    "stage 1": 64 * 9 * 4 * 2 * 2,
    "stage 2": 16 * (9 * (2 * 4 + 3 * 4 * 4) + 2 * 4),
    "stage 3": 4 * (9 * (4 * 8 + 3 * 8 * 8) + 4 * 8),
    "stage 4": 1 * (9 * (8 * 16 + 3 * 16 * 16) + 8 * 16),
    "linear": 16 * 10,
}


class Ran(NamedTuple):
    """A run of the script."""

    rows: dict[str, dict[str, Any]]
    file: list[dict[str, str]]


def options() -> list[str]:
    """Arguments of a run of seconds."""
    return [str(part) for option in SMALL.items() for part in option]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """``benchmarks/training.py`` as a module."""
    spec = importlib.util.spec_from_file_location("benchmarks_training", ROOT / "benchmarks" / "training.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ran(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    path = tmp_path_factory.mktemp("training") / "training.csv"
    rows = script.main([*options(), "--peak-tflops", "2", "--out", str(path)])
    with path.open(encoding="utf-8") as file:
        return Ran({row["name"]: row for row in rows}, list(csv.DictReader(file)))


def test_the_file_has_every_row_and_column(ran: Ran) -> None:
    assert ",".join(ran.file[0]) == COLUMNS
    assert [row["name"] for row in ran.file] == list(ran.rows)
    assert [row["name"] for row in ran.file if row["kind"] == "defense"] == list(PASSES)
    assert [row["kind"] for row in ran.file[8:]] == ["part", *["alternative"] * 4]
    for row in ran.file:
        assert float(row["seconds_per_step"]) == ran.rows[row["name"]]["seconds_per_step"] > 0
        assert (row["width"], row["batch_size"], row["shape"], row["threads"]) == ("2", str(N), "3x8x8", "1")


def test_times_are_relative_to_standard(ran: Ran) -> None:
    standard = ran.rows["standard"]
    assert [standard[name] for name in ("relative", "relative_min", "relative_max")] == [1.0, 1.0, 1.0]
    for row in ran.rows.values():
        other = ran.rows[row["relative_to"]]
        assert row["relative"] == row["seconds_per_step"] / other["seconds_per_step"]
        assert row["relative_to"] == ("inner attack" if "attack, " in row["name"] else "standard")


def test_passes_are_those_of_the_definitions(ran: Ran) -> None:
    counted = {
        name: (row["forwards_per_image"], row["backwards_per_image"]) for name, row in ran.rows.items()
    }
    assert {name: counted[name] for name in PASSES} == PASSES
    assert {counted[name] for name in counted if "attack" in name} == {(STEPS, STEPS)}


def test_operations_are_those_of_the_layers(ran: Ran) -> None:
    forward = 2 * N * sum(MACS.values())
    natural = 3 * forward - 2 * N * MACS["stem"]  # the images need no gradient there
    attack = STEPS * 2 * forward
    known = {
        "undefended": natural,
        "standard": attack + natural,
        "trades": attack + forward + 2 * natural,
        "mart": attack + 2 * natural,
        "inner attack": attack,
        "inner attack, batch norm not folded": attack,
        "inner attack, weights require gradients": attack,
        "inner attack, gradients of weights computed": STEPS * 3 * forward,
        "standard, not channels-last": attack + natural,
    }
    for name, operations in known.items():
        assert ran.rows[name]["tflop_per_step"] == pytest.approx(operations / 1e12), name
    for name, base in (("wmim", "standard"), ("namid", "mart"), ("namid-t", "trades"), ("namid-m", "mart")):
        assert ran.rows[name]["tflop_per_step"] > ran.rows[base]["tflop_per_step"]


def test_figures_by_hand(script: ModuleType) -> None:
    timed = [script.Entry("defense", name, "standard", None) for name in ("standard", "trades")]
    seconds = {"standard": [1.0, 2.0, 4.0], "trades": [3.0, 9.0, 4.0]}
    counts = dict.fromkeys(seconds, script.Count(44, 36, 8 * 10**12))
    standard, trades = script.rows(timed, seconds, counts, batch_size=4, peak=16.0)
    assert (standard["seconds_per_step"], trades["seconds_per_step"]) == (2.0, 4.0)
    assert (trades["relative"], trades["relative_min"], trades["relative_max"]) == (2.0, 1.0, 4.5)
    assert (trades["forwards_per_image"], trades["backwards_per_image"]) == (11.0, 9.0)
    assert (trades["images_per_second"], trades["seconds_per_epoch"]) == (1.0, 50_000.0)
    assert (trades["tflop_per_step"], trades["tflop_per_second"]) == (8.0, 2.0)
    assert trades["percent_of_peak"] == 12.5
    assert script.rows(timed, seconds, counts, 4, None)[0]["percent_of_peak"] == ""


def test_rounds_are_interleaved(script: ModuleType) -> None:
    said: list[tuple[str, int]] = []

    def entry(name: str, seconds: float) -> Any:
        def turn(steps: int) -> float:
            said.append((name, steps))
            return seconds

        return script.Entry("defense", name, "a", turn)

    assert script.measure([entry("a", 1.0), entry("b", 2.0)], 5, 2) == {"a": [1.0, 1.0], "b": [2.0, 2.0]}
    assert said == [("a", 5), ("b", 5), ("a", 5), ("b", 5)]


def test_the_alternatives_make_the_same_images(script: ModuleType) -> None:
    work = script.prepare(script.parse([*options(), "--norm", "l2"]))  # smooth, unlike the sign of a gradient
    batch = work.batch(work.indices)
    usual = script.as_trained(work, batch)
    assert (usual - batch.x).flatten(1).norm(dim=1).min() > 0.1
    for make in (script.unfolded, script.with_gradients, script.into_weights):
        assert torch.allclose(make(work, batch), usual, atol=1e-4)
    other = work.contiguous()
    assert torch.allclose(script.as_trained(other, other.batch(other.indices)), usual, atol=1e-4)
    for each, contiguous in ((work, False), (other, True)):
        weights = [weight for weight in each.model.parameters() if weight.dim() == 4 and weight.shape[2] > 1]
        assert {tensor.is_contiguous() for tensor in (each.images, *weights)} == {contiguous}


@pytest.mark.parametrize(
    ("name", "norms", "gradients"),
    [
        ("as_trained", False, False),
        ("unfolded", True, False),
        ("with_gradients", False, True),
        ("into_weights", False, True),
    ],
)
def test_each_alternative_undoes_one_choice(
    script: ModuleType, name: str, norms: bool, gradients: bool
) -> None:
    work = script.prepare(script.parse(options()))
    seen = {"norms": False, "gradients": False, "training": False}

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        seen["norms"] |= isinstance(module, nn.BatchNorm2d)
        seen["gradients"] |= any(weight.requires_grad for weight in module.parameters())
        seen["training"] |= module.training

    handle = nn.modules.module.register_module_forward_hook(look)
    getattr(script, name)(work, work.batch(work.indices))
    handle.remove()
    assert seen == {"norms": norms, "gradients": gradients, "training": False}
    assert all(weight.grad is None and weight.requires_grad for weight in work.model.parameters())


def test_seconds_are_per_step(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(4))
    monkeypatch.setattr(script, "now", lambda device: float(next(ticks)))
    work = script.prepare(script.parse(options()))
    assert script.training_turn(work, "undefended", 2) == 0.5
    assert script.attack_turn(work, script.as_trained, 4) == 0.25


def test_precision_is_that_of_the_option(script: ModuleType) -> None:
    work = script.prepare(script.parse([*options(), "--precision", "bf16"]))
    defense = build_defense(defense_presets()["undefended"].identity())
    half = script.loss_terms(work, defense, None, work.indices)["natural"]
    exact = script.loss_terms(replace(work, precision="float32"), defense, None, work.indices)["natural"]
    assert half.dtype == exact.dtype == torch.float32
    assert 0 < abs(half.item() - exact.item()) < 0.1


def test_turns_leave_the_network_and_a_term_without_samples_is_an_error(script: ModuleType) -> None:
    work = script.prepare(script.parse(options()))
    before = {name: value.clone() for name, value in work.model.state_dict().items()}
    norms = [module for module in work.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
    script.training_turn(work, "namid", 1)
    assert all(torch.equal(value, before[name]) for name, value in work.model.state_dict().items())
    work.labels.copy_((work.labels + 1) % 10)
    with pytest.raises(ValueError, match="no sample for mi"):
        script.training_turn(work, "namid", 1)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--defense", "standart", "unknown standart; known: undefended, standard"),
        ("--dataset-shape", "3x32", "is not channels x size x size"),
        ("--dataset-shape", "3x32x16", "is not channels x size x size"),
        ("--rounds", "0", "must be at least 1, got 0"),
        ("--batch-size", "1", "must be at least 2, got 1"),
    ],
)
def test_wrong_options_are_refused(
    script: ModuleType, capsys: pytest.CaptureFixture[str], option: str, value: str, says: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        script.parse([option, value])
    assert says in capsys.readouterr().err


def test_standard_is_always_among_the_defenses(script: ModuleType) -> None:
    assert script.parse(["--defense", "namid,undefended"]).defense == ("undefended", "standard", "namid")
    assert script.parse([]).defense == tuple(PASSES)


def test_every_training_option_has_the_same_passes_and_changes_nothing_else() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        options = importlib.import_module("options")
    base = {"datasets": ["digits"], "norms": ["linf"], "training": {"attack_steps": 1, "lr": 0.3}}
    plain, *others = [
        load_protocol(options.protocol_of(base, option, 6)).settings[0] for option in options.OPTIONS.values()
    ]
    assert (plain.training.epochs, plain.training.lr) == (6, 0.3)
    for settings, option in zip(others, list(options.OPTIONS.values())[1:], strict=True):
        assert settings.training.epochs * option.passes == 12
        undone = {key: getattr(plain.training, key) for key in (*option.keys, "epochs")}
        assert not undone.items() & option.keys.items()
        assert settings.training.model_copy(update=undone) == plain.training


@pytest.fixture(scope="module")
def gpu(script: ModuleType) -> ModuleType:
    """``benchmarks/gpu.py`` as a module, which imports ``training``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        patch.setitem(sys.modules, "training", script)
        return importlib.import_module("gpu")


def test_the_gpu_script_measures_trains_and_attacks_once(gpu: ModuleType, tmp_path: Path) -> None:
    asked = ["--toy", "--out", str(tmp_path), "--steps", "speed,run"]
    assert gpu.main(asked) == 0
    told = json.loads((tmp_path / "gpu.json").read_text())
    rows = {(row["attack_steps"], row["precision"], row["name"]): row for row in told["speed"]["rows"]}
    assert len(rows) == len(told["speed"]["rows"]) == 8
    for (steps, _, name), row in rows.items():
        assert row["forwards_per_image"] == row["backwards_per_image"] == steps + 1
        assert row["percent_of_peak"] == ""  # a CPU has none in the table
        assert row["tflop_per_second"] == pytest.approx(row["tflop_per_step"] / row["seconds_per_step"])
        # Ours computes no gradient of the weights in the attack.
        if name == "by hand":
            assert row["tflop_per_step"] > rows[steps, "float32", "ours"]["tflop_per_step"]
    run = told["run"]
    assert {name: run[name]["images"] for name in ("none", "aa-fast", "aa")} == dict.fromkeys(
        ("none", "aa-fast", "aa"), 8
    )
    assert run["aa"]["accuracy"] <= run["none"]["accuracy"] <= run["none"]["interval"][1]
    assert run["training"]["epochs"] == 1
    assert 'schedule = "one-step-strong"' in (tmp_path / "protocol.toml").read_text()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "gpu.json"}
    assert gpu.main(asked) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads((tmp_path / "gpu.json").read_text()) == told


def test_a_step_that_breaks_costs_no_other_and_is_tried_again(gpu: ModuleType, tmp_path: Path) -> None:
    done: list[str] = []

    def breaks(left: float) -> dict[str, float]:
        raise RuntimeError("planted")

    def works(left: float) -> dict[str, float]:
        done.append("works")
        return {"left": left}

    for _ in range(2):
        told = gpu.perform({"first": breaks, "second": works}, tmp_path, 1e9, "cpu")
        assert "planted" in told["first"]["error"]
        assert told["second"]["left"] > 0
    assert done == ["works"]
    assert not (tmp_path / "steps" / "first.json").exists()


def test_epochs_fit_what_is_left_of_the_time(gpu: ModuleType, tmp_path: Path) -> None:
    row = {
        "name": "ours",
        "attack_steps": 1,
        "precision": "bf16",
        "batch_size": 128,
        "seconds_per_epoch": 10.0,
    }
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "speed.json").write_text(
        json.dumps({"rows": [row, row | {"precision": "float32"}]})
    )
    size = replace(gpu.Size(), reserve=100.0)
    assert "epochs = 20\n" in gpu.protocol(size, tmp_path, 500.0).read_text()
    assert "epochs = 20\n" in gpu.protocol(size, tmp_path, 50.0).read_text()  # once chosen, it stays
    assert set(gpu.PEAKS) > {"NVIDIA H200", "NVIDIA H100 80GB HBM3"}
