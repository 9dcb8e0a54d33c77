"""Two processes on the CPU (gloo) train the model that one process trains."""

import dataclasses
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Task, make_plan
from robustness_bench.benchmark.randomness import keyed
from robustness_bench.benchmark.store.cards import load_tensors, read_card
from robustness_bench.benchmark.train.defenses import _train, train, train_estimators
from robustness_bench.benchmark.train.processes import Ranks, joined
from robustness_bench.defenses.registry import defense_presets


def test_shares_cover_a_batch_once() -> None:
    for n in (2, 7, 128, 129):
        rows = [i for rank in range(2) for i in range(n)[Ranks(rank, 2).share(n)]]
        assert rows == list(range(n))
    assert Ranks(1, 4).share(3) == slice(0, 3)  # fewer than processes: everyone does all


def a_training(defense: str, **training: object) -> Task:
    """One tiny training on digits; batches of 23 do not split evenly.

    In L2 and with one step: the sign of the L∞ attack turns a rounding error into another image, and so does
    a second step where a gradient is all but zero.
    """
    recipe = {"epochs": 1, "batch_size": 23, "train_limit": 73, "holdout": 0.05, "attack_steps": 1}
    overrides = {
        "defenses": [defense],
        "norms": ["l2"],
        "threats": ["white"],
        "model": {"width": 2},
        "training": recipe | {"lr": 0.01} | training,
        "attacks": {"strict": {"linf": [], "l2": ["none"]}},
    }
    data = {"digits": locate("digits", Path("data"))}
    return next(t for t in make_plan(load_protocol(None, overrides), data) if t.kind == "train")


PRIOR = {"prior": 0.1, "epochs": 2, "lr": 0.001}  # what is remembered is used in the second epoch


@pytest.mark.parametrize(("defense", "training"), [("standard", {}), ("trades", PRIOR)])
def test_two_processes_equal_one(tmp_path: Path, defense: str, training: dict[str, Any]) -> None:
    task = a_training(defense, **training)
    one = Context(out=tmp_path / "one", device="cpu", batch_size=0, threads=1)
    two = dataclasses.replace(one, out=tmp_path / "two", processes=2)
    for context in (one, two):
        train(task, context, lambda *progress: None)
    histories = [read_card(context.out / task.path)["history"] for context in (one, two)]
    for epoch, (alone, together) in enumerate(zip(*histories, strict=True)):
        near = 3e-4 if epoch == 0 else 0.03  # later, rounding has switched some units of this small network
        for name in alone.keys() & {"adversarial", "natural", "kl", "prior", "gradient_norm"}:
            assert together[name] == pytest.approx(alone[name], rel=near), name
    weights = [load_tensors(context.out / task.path) for context in (one, two)]
    for name in weights[0]:
        if not name.endswith("num_batches_tracked"):
            difference = (weights[0][name] - weights[1][name]).abs().max()
            assert difference <= near / 3 * max(1.0, float(weights[0][name].abs().max())), name
    assert torch.equal(weights[0]["1.bn1.num_batches_tracked"], weights[1]["1.bn1.num_batches_tracked"])


KINDS = ("undefended", "standard", "wmim", "namid", "trades", "namid-t", "mart", "namid-m")
TINY = {"epochs": 2, "batch_size": 16, "train_limit": 44, "holdout": 0.25, "attack_steps": 1, "lr": 0.01}


def ignore(*progress: object) -> None:
    """Who is told how it goes, and does not care."""


def every_combination() -> list[Task]:
    """All kinds of defenses × selections, and some with an average, with all they need.

    Of a network without batch norm, whose every layer would have the processes wait for each other.
    """
    tasks: dict[str, Task] = {}
    combinations = ((KINDS, "last", 0.0), (KINDS, "best", 0.0), (("undefended", "trades"), "best", 0.5))
    for kinds, selection, ema in combinations:
        overrides = {
            "defenses": list(kinds),
            "norms": ["l2"],
            "threats": ["white"],
            "model": {"name": "magnet-cnn", "width": 4},
            "training": {**TINY, "selection": selection, "ema": ema},
            "estimators": {"epochs": 1, "batch_size": 16, "attack_steps": 1, "units": 4},
            "attacks": {"strict": {"linf": [], "l2": ["none"]}},
        }
        plan = make_plan(load_protocol(None, overrides), {"digits": locate("digits", Path("data"))})
        tasks |= {task.id: task for task in plan if task.kind in ("train", "estimators")}
    return list(tasks.values())


def follow_all(ranks: Ranks, tasks: list[Task], context: Context) -> None:
    """A follower of several trainings, one after the other."""
    torch.set_num_threads(1)
    for task in tasks:
        _train(task, context, ignore, ranks)


def test_every_kind_of_defense_with_every_selection_on_one_process_and_on_two(tmp_path: Path) -> None:
    """One pair of processes makes all trainings; estimators, which need one process, are made before."""
    kinds = {type_of(name) for name in KINDS}
    assert kinds == {type_of(name) for name, preset in defense_presets().items() if preset.group != "plugins"}
    tasks = every_combination()
    trained = [task for task in tasks if task.kind == "train"]
    assert len(trained) == 2 * len(KINDS) + 2
    one = Context(out=tmp_path / "one", device="cpu", batch_size=0, threads=1)
    two = dataclasses.replace(one, out=tmp_path / "two", processes=2)
    for task in tasks:
        (train if task.kind == "train" else train_estimators)(task, one, ignore)
    shutil.copytree(one.out, two.out)
    with joined(2, "cpu", follow_all, trained, two) as ranks:
        for task in trained:
            (two.out / task.path).unlink()
            _train(task, two, ignore, ranks)
    for task, context in itertools.product(trained, (one, two)):
        card, weights = read_card(context.out / task.path), load_tensors(context.out / task.path)
        figure = "held_out_natural" if "norm" not in task.spec else "held_out_pgd"
        curve = [entry[figure] for entry in card["history"]]
        best = max(epoch for epoch, value in enumerate(curve, 1) if value == max(curve))
        assert len(curve) == 2
        assert card["epoch"] == (best if task.spec["training"]["selection"] == "best" else 2), task.title
        assert all(torch.isfinite(tensor).all() for tensor in weights.values())
        alone = read_card(one.out / task.path)["history"][0]
        assert card["history"][0].keys() == alone.keys()
    assert not list(tmp_path.rglob("*.partial"))


def type_of(name: str) -> tuple[str, object]:
    """Class of a defense, and of the one inside it."""
    preset = defense_presets()[name]
    return preset.defense, preset.parameters.get("base")


def test_the_best_epoch_over_two_processes(tmp_path: Path) -> None:
    """As `bench run --processes 2` does it, followers started by the training itself, with dropout; twice."""
    overrides = {
        "defenses": ["standard"],
        "norms": ["l2"],
        "threats": ["white"],
        "model": {"name": "magnet-cnn", "width": 4},
        "training": {**TINY, "selection": "best"},
        "attacks": {"strict": {"linf": [], "l2": ["none"]}},
    }
    plan = make_plan(load_protocol(None, overrides), {"digits": locate("digits", Path("data"))})
    task = next(task for task in plan if task.kind == "train")
    before = torch.get_rng_state()
    files = []
    for number in ("first", "second"):
        context = Context(out=tmp_path / number, device="cpu", batch_size=0, threads=1, processes=2)
        with keyed(torch.device("cpu"), number):  # other work was done before
            train(task, context, ignore)
        files.append((context.out / task.path).read_bytes())
    assert files[0] == files[1]
    assert torch.equal(torch.get_rng_state(), before)


class Masked(nn.Module):
    """Dropout alone, in a network that can be distributed."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dropped: torch.Tensor = nn.functional.dropout(self.scale * x, 0.5, self.training)
        return dropped


def shown(ranks: Ranks) -> list[torch.Tensor]:
    """In steps 0, 1, 0: masks of two passes over 64 rows of 8, of one over a row, what a loss then draws."""
    network = ranks.wrap(Masked())
    ones = torch.ones(64, 8)
    found = []
    for step in (0, 1, 0):
        with keyed(torch.device("cpu"), "step", step):
            passes = [network(ones), network(ones), network(ones[:1])]
            found += [*(each.detach() for each in passes), torch.rand(8)]
    return found


def show_and_keep(ranks: Ranks, path: Path) -> None:
    torch.save(shown(ranks), path)


def test_processes_draw_their_own_masks_and_one_loss(tmp_path: Path) -> None:
    with joined(2, "cpu", show_and_keep, tmp_path / "follower.pt") as ranks:
        leader = shown(ranks)
    follower = torch.load(tmp_path / "follower.pt")
    assert all(torch.equal(a, b) for a, b in zip(leader, follower, strict=True))
    first, second, _, drawn = leader[:4]
    assert not torch.equal(first, second)
    assert not torch.equal(first[:32], first[32:])
    with keyed(torch.device("cpu"), "step", 0):
        assert torch.equal(drawn, torch.rand(8))  # as if the network had drawn nothing
    assert all(torch.equal(a, b) for a, b in zip(leader[:4], leader[8:], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(leader[:4], leader[4:8], strict=True))
