"""What a run of detectors plans: what is shared, what a change touches, and what is refused."""

from pathlib import Path

import pytest

from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.plan.detectors import make_detection_plan, make_whole_plan
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.defenses.detectors.registry import system_presets
from tests.conftest import Bench

BOTH: dict[str, object] = {"defenses": ["magnet", "mi-magnet"]}


def _plan(overrides: dict[str, object]) -> list[Task]:
    return make_detection_plan(load_protocol(None, overrides), {"digits": locate("digits", Path("data"))})


def _ids(tasks: list[Task], *kinds: str) -> set[str]:
    return {task.id for task in tasks if task.kind in kinds}


def test_one_run_of_each_attack_serves_all_systems_and_rules() -> None:
    tasks = _plan({"defenses": list(system_presets())})
    crafted = [task for task in tasks if task.kind == "craft"]
    assert sorted(task.spec["attack"] for task in crafted) == ["cw", "cw", "ead", "ead"]
    assert {task.spec["parameters"]["confidence"] for task in crafted} == {0.0, 10.0}
    assert len({task.id for task in tasks}) == len(tasks)
    assert sum(task.kind == "train" for task in tasks) == 1


def test_parents_come_first() -> None:
    seen: set[str] = set()
    for task in _plan(BOTH):
        assert all(parent.id in seen for parent in task.parents.values())
        seen.add(task.id)


def test_a_classifier_never_learns_from_images_that_set_thresholds() -> None:
    tasks = _plan(BOTH)
    keys = ("train_limit", "holdout")
    recipes = {tuple(t.spec["training"][key] for key in keys) for t in tasks if "training" in t.spec}
    assert recipes == {(0, 0.2)}


def test_the_attackers_networks_are_not_the_defenders() -> None:
    tasks = {task.id: task for task in _plan(BOTH)}
    grey = [task for task in tasks.values() if task.kind == "adapt" and task.spec["setting"] == "grey"]
    white = [task for task in tasks.values() if task.kind == "adapt" and task.spec["setting"] == "white"]

    def networks(task: Task) -> set[str]:
        return {parent.id for role, parent in task.parents.items() if role != "model"}

    assert len(grey) == len(white) == 2
    for one, other in zip(grey, white, strict=True):
        assert not networks(one) & networks(other)
        assert one.parents["model"].id == other.parents["model"].id
        assert one.family != other.family


def test_what_a_cell_rests_on() -> None:
    more = ["magnet", "mi-magnet", "magnet-random"]
    assert _ids(_plan(BOTH), "detect") < _ids(_plan({"defenses": more}), "detect")
    longer = _plan({**BOTH, "detection": {"part_epochs": 3}})
    assert _ids(_plan(BOTH), "craft", "train") == _ids(longer, "craft", "train")
    assert not _ids(_plan(BOTH), "part", "calibrate", "detect") & _ids(longer, "part", "calibrate", "detect")
    finer = _plan({**BOTH, "detection": {"confidences": [0.0, 5.0, 10.0]}})
    assert _ids(_plan(BOTH), "detect", "craft") < _ids(finer, "detect", "craft")


def test_natural_accuracy_is_of_all_test_images() -> None:
    cells = [task for task in _plan(BOTH) if task.kind == "detect"]
    counts = {(task.spec["setting"], task.spec["n_examples"]) for task in cells}
    assert counts == {("natural", 360), ("oblivious", 50), ("white", 20), ("grey", 20)}


def test_no_limit_is_all_test_images() -> None:
    """`--n-examples 0`, for attacks that know the system too."""
    unlimited = {"detection": {"n_examples": 0, "adaptive_examples": 0}}
    cells = [task for task in _plan({**BOTH, **unlimited}) if task.kind == "detect"]
    assert {task.spec["n_examples"] for task in cells} == {360}


def test_defenses_and_detectors_share_a_run() -> None:
    protocol = load_protocol(None, {"defenses": ["undefended", "magnet"], "threats": ["white"]})
    assert (protocol.defenses, protocol.detectors) == (("undefended",), ("magnet",))
    tasks = make_whole_plan(protocol, {"digits": locate("digits", Path("data"))})
    assert {"evaluate", "detect"} <= {task.kind for task in tasks}
    assert len({task.id for task in tasks}) == len(tasks)


def test_any_classifier_can_be_guarded() -> None:
    guarded = {"classifier": "standard", "model": {"name": "resnet-18", "width": 8}}
    tasks = _plan({**BOTH, "detection": guarded})
    (model,) = [task for task in tasks if task.kind == "train"]
    assert (model.spec["defense"]["defense"], model.spec["model"]) == (
        "defenses.standard:Standard",
        "resnet-18",
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--defense", "magnett"], "did you mean magnet"),
        (["--defense", "magnet", "--kappa", "ten"], "--kappa must be numbers, got ten"),
        (
            ["--defense", "magnet", "--kappa", "-1"],
            "detection.confidences: item 1 must be at least 0, got -1",
        ),
        (["--kappa", "3"], "--kappa is for attacks on detectors: name one"),
        (["--defense", "magnet", "--attacks", "aa", "--set", "paper"], "--attacks, --set is for defenses"),
        (["--defense", "magnet", "--threat", "white"], "magnet faces every attack of [detection]"),
        (["--defense", "magnet", "--n-examples", "-1"], "n_examples must be at least 0, got -1"),
    ],
)
def test_bad_input_is_one_line(bench: Bench, tmp_path: Path, flags: list[str], said: str) -> None:
    out = bench("run", *flags, "--out", tmp_path / "results")
    assert (out.status, out.out) == (2, "")
    assert said in out.err
    assert out.err.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_data_set_without_a_recipe_is_refused() -> None:
    protocol = load_protocol(None, {"datasets": ["tiny-imagenet"], "defenses": ["magnet"]})
    located = locate("digits", Path("data"))
    with pytest.raises(BenchError, match="no recipe for tiny-imagenet; it knows digits, mnist, cifar10"):
        make_detection_plan(protocol, {"tiny-imagenet": located})


def test_mutual_information_is_not_measured_of_detectors(bench: Bench, tmp_path: Path) -> None:
    said = bench("estimate-mi", "--defense", "magnet", "--out", tmp_path)
    assert said.status == 2
    assert "magnet is a detector" in said.err


def test_a_classifier_s_epoch_is_not_selected_on_images_that_set_thresholds(tmp_path: Path) -> None:
    best = {"training": {"selection": "best"}}
    message = r'selection "best".*thresholds: set detection.training.selection to "last"'
    for changes in (best, {"detection": best}):
        with pytest.raises(BenchError, match=message):
            _plan({**BOTH, **changes})
    last = {"detection": {"training": {"selection": "last"}}}
    assert _ids(_plan({**BOTH, **best, **last}), "train") == _ids(_plan(BOTH), "train")
    make_whole_plan(
        load_protocol(None, {"defenses": ["standard"], **best}), {"digits": locate("digits", Path("data"))}
    )  # defenses alone may
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"hashed only")
    given: dict[str, object] = {
        "defenses": ["magnet"],
        "datasets": ["digits"],
        "weights": str(weights),
        **best,
    }
    assert not _ids(_plan(given), "train")  # nothing is selected where nothing is trained
