"""What `bench perf` measures: the same work for everybody, and figures that are those of the turns."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.measure import peers
from robustness_bench.benchmark.measure.peers import FAMILIES, LOOP, OURS, Entry, Passes, Problem, Turn
from tests.attacks.parity.problem import problem
from tests.conftest import Bench

EPS: dict[Norm, float] = {"linf": 0.1, "l2": 0.53}
both_norms = pytest.mark.parametrize("norm", ["linf", "l2"])


def digits(norm: Norm, n: int = 20) -> Problem:
    model, x, y = problem()
    return peers.problem_of(model, x[:n], y[:n], norm, EPS[norm])


@both_norms
def test_pgd_s_entries_climb_equally_far(norm: Norm) -> None:
    """From starts of their own, forty steps of a quarter of ε each: nearly the same images survive."""
    on = digits(norm, 60)
    accuracies = {}
    for entry in FAMILIES["pgd"][norm]:
        if peers.installed(entry.package) is not None:
            found = peers.turn(entry, "pgd", on, 0)
            assert 20 < (found.accuracy or 0) < 80, entry.name
            accuracies[entry.name] = found.accuracy
    assert {LOOP, "pgd-40", "foolbox"} <= accuracies.keys()
    assert max(accuracies.values()) - min(accuracies.values()) <= 100 * 4 / 60  # type: ignore[operator,type-var]


@both_norms
def test_the_loop_by_hand_ends_in_the_ball_and_the_box_after_all_its_steps(norm: Norm) -> None:
    on = digits(norm)
    entry, *_ = FAMILIES["pgd"][norm]
    x_adv = entry.run(on.model, on, 0)
    assert x_adv is not None
    assert geometry.size(x_adv - on.x, norm).max() <= EPS[norm] * (1 + 1e-5)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    found = peers.turn(entry, "pgd", on, 0)
    assert (found.forwards, found.backwards) == (40, 40)


def test_the_same_numbers_stand_on_both_sides() -> None:
    """CW and DDN of foolbox have those of our presets."""
    cw, ddn = (attack_presets("strict")[name].parameters for name in ("cw", "ddn"))
    mine = {key: cw[key] for key in ("steps", "confidence", "initial_const")}
    assert {**mine, "binary_search_steps": cw["search_steps"]} == peers._CW
    assert (ddn["steps"], ddn["initial_norm"]) == (300, 1.0)
    on = digits("l2", 3)
    by_name = {entry.name: entry for entry in FAMILIES["ddn"]["l2"]}
    ours, theirs = (peers.turn(by_name[name], "ddn", on, 0) for name in ("ddn", "foolbox"))
    assert ours.distance == pytest.approx(theirs.distance, rel=0.02)
    assert ours.accuracy == theirs.accuracy
    assert theirs.backwards == 300
    assert ours.backwards == pytest.approx(300, abs=1)


@both_norms
def test_both_training_steps_take_eleven_passes_and_move_no_weight_of_the_problem(norm: Norm) -> None:
    on = digits(norm, 6)
    before = {name: value.clone() for name, value in on.model.state_dict().items()}
    for entry in FAMILIES["training"][norm]:
        found = peers.turn(entry, "training", on, 0)
        assert (found.forwards, found.backwards) == (11, 11), entry.name
        assert found.accuracy is None
    assert all(torch.equal(value, before[name]) for name, value in on.model.state_dict().items())


def test_a_library_that_lacks_what_it_needs_takes_no_part(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """adv-lib imports alone without visdom, and its attacks do not."""
    package = tmp_path / "adv_lib"
    (package / "attacks").mkdir(parents=True)
    (tmp_path / "adv_lib-0.2.3.dist-info").mkdir()
    (tmp_path / "adv_lib-0.2.3.dist-info" / "METADATA").write_text("Name: adv-lib\nVersion: 0.2.3\n")
    (package / "__init__.py").touch()
    (package / "attacks" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("adv_lib", "adv_lib.attacks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert peers.installed("adv-lib") == "0.2.3"
    monkeypatch.delitem(sys.modules, "adv_lib.attacks")
    (package / "attacks" / "__init__.py").write_text("import no_such_package_as_visdom\n")
    assert peers.installed("adv-lib") is None


def test_a_library_gets_a_network_as_it_comes_and_a_loop_and_we_frozen_weights() -> None:
    on, asked = digits("linf", 1), []

    def look(model: nn.Module, on: Problem, seed: int) -> None:
        asked.append({weight.requires_grad for weight in model.parameters()})

    for package in ("foolbox", "", peers.OURS):
        peers.turn(Entry("looks", package, look), "pgd", on, 0)
    assert asked == [{True}, {False}, {False}]


def moved(step: float) -> Entry:
    """Every image moved by ``step`` towards what fools, along one gradient."""

    def run(model: nn.Module, on: Problem, seed: int) -> Tensor:
        point = on.x.clone().requires_grad_()
        nn.functional.cross_entropy(model(point), on.y).backward()
        assert point.grad is not None
        return (on.x + step * point.grad.sign()).clamp(0, 1)

    return Entry("moved", "", run)


def test_what_left_the_ball_fools_nobody_but_has_its_distance() -> None:
    on = digits("linf")
    inside, outside = (peers.turn(moved(step), "pgd", on, 0) for step in (0.1, 0.11))
    assert (inside.accuracy or 0) < 100
    assert outside.accuracy == 100
    assert inside.distance is None
    far = peers.turn(moved(0.5), "cw", on, 0)
    assert far.accuracy == 100
    assert far.distance == pytest.approx(0.5)
    assert peers.turn(moved(0.0), "cw", on, 0).distance == torch.inf


def test_passes_are_counted_in_folded_copies_too_and_no_longer_once_removed() -> None:
    import copy

    model, x, _ = problem()
    passes = Passes(model)
    model(x[:3])
    copied = copy.deepcopy(model)
    copied(x[:2].clone().requires_grad_()).sum().backward()
    assert (passes.forwards, passes.backwards) == (5, 2)
    passes.remove()
    model(x[:3])
    assert passes.forwards == 5


def test_entries_take_turns_and_ratios_are_of_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, int]] = []
    seconds = {"a": [1.0, 2.0, 4.0], "b": [3.0, 1.0, 8.0]}

    def turn(entry: Entry, family: str, on: Problem, seed: int) -> Turn:
        said.append((entry.name, seed))
        return Turn(seconds[entry.name][seed], 2.0 + seed, 1.0, None, 50.0, None)

    def nothing(model: nn.Module, on: Problem, seed: int) -> None:
        raise AssertionError

    three = [Entry("a", "", nothing), Entry("absent", "no-such-package", nothing), Entry("b", "", nothing)]
    monkeypatch.setattr(peers, "turn", turn)
    monkeypatch.setitem(FAMILIES, "made up", {"linf": three})
    rows = peers.measure(digits("linf", 2), ["made up", "cw"], 3)
    assert said == [(name, seed) for seed in range(3) for name in ("a", "b")]
    first, second = rows
    assert (first.name, first.ratio, first.ratio_min, first.ratio_max) == ("a", 1.0, 1.0, 1.0)
    assert (second.seconds, second.ratio, second.ratio_min, second.ratio_max) == (3.0, 2.0, 0.5, 3.0)
    assert (second.forwards, second.memory, second.accuracy) == (3.0, None, 50.0)


def test_memory_is_what_a_turn_needs_beyond_what_was_there() -> None:
    def hungry(model: nn.Module, on: Problem, seed: int) -> Tensor:
        torch.ones(50_000_000).sum()
        return on.x

    if peers._memory_reset(torch.device("cpu")) is None:
        pytest.skip("this system does not report a process's peak memory")
    there = torch.ones(50_000_000)
    found = peers.turn(Entry("hungry", "", hungry), "pgd", digits("linf", 2), 0)
    assert found.memory == pytest.approx(200, abs=40)
    assert len(there) == 50_000_000


# The command.


def test_perf_prints_and_writes_what_it_measured(bench: Bench, tmp_path: Path) -> None:
    """And does not train a second time."""
    words = ["perf", "--epochs", 1, "--train-limit", 96, "--width", 2, "--n-examples", 12, "--rounds", 1]
    out = ["--out", tmp_path / "results"]
    said = bench(*words, "--of", "pgd,training", "--name", "small", "--json", *out)
    assert said.status == 0, said.err
    (told,) = json.loads(said.out)  # though it has trained
    assert told == json.loads((tmp_path / "results/perf/small.json").read_text())
    assert (told["images"], told["norm"], told["rounds"]) == (12, "linf", 1)
    assert told["eps"] == 0.18
    assert told["environment"]["packages"]["foolbox"]
    assert told["environment"]["hardware"]
    assert told["command"].startswith("bench ")
    with (tmp_path / "results/perf/small.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["family"], row["name"]) for row in rows] == [
        ("pgd", LOOP),
        ("pgd", "pgd-40"),
        ("pgd", "foolbox"),
        ("training", LOOP),
        ("training", "training step"),
    ]
    assert [float(row["ratio"]) for row in rows] == [row["ratio"] for row in told["rows"]]
    assert float(rows[0]["forwards"]) == 40
    again = bench(*words, "--of", "pgd", "--name", "again", *out)
    assert again.status == 0, again.err
    assert "pgd: foolbox" in again.out
    assert "digits train standard" in again.err.splitlines()[-1]  # where its figures are: no other line of it
    assert len(list((tmp_path / "results/checkpoints").rglob("*.safetensors"))) == 1
    assert len(list((tmp_path / "results/perf").glob("*.csv"))) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--of", "pgdd"], "unknown family 'pgdd'"),
        (["--rounds", 0], "--rounds must be at least 1, got 0"),
        (["--defense", "standrad"], "standrad"),
        (["--norm", "linf,l2", "--name", "both"], "--name both is of one model under one norm, got 2"),
    ],
)
def test_wrong_options_are_named(words: list[Any], says: str, bench: Bench, tmp_path: Path) -> None:
    said = bench("perf", *words, "--out", tmp_path / "results")
    assert said.status == 2
    assert says in said.err
    assert not (tmp_path / "results").exists()


def test_our_entries_are_presets() -> None:
    named = {
        entry.name
        for family, norms in FAMILIES.items()
        for entries in norms.values()
        for entry in entries
        if entry.package == OURS and family != "training"
    }
    assert named == {"pgd-40", "aa", "aa-fast", "cw", "cw-fast", "ddn"}
    assert named <= set(attack_presets("strict"))
