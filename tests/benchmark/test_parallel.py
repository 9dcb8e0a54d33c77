"""Two processes on the CPU (gloo) train the model that one process trains."""

import dataclasses
from pathlib import Path

import pytest
import torch

from benchmark.checkpoints import load_tensors, read_card
from benchmark.context import Context
from benchmark.datasets import locate
from benchmark.parallel import Ranks
from benchmark.plan import Task, make_plan
from benchmark.protocol import load_protocol
from benchmark.training import train


def test_shares_cover_a_batch_once() -> None:
    for n in (2, 7, 128, 129):
        rows = [i for rank in range(2) for i in range(n)[Ranks(rank, 2).share(n)]]
        assert rows == list(range(n))
    assert Ranks(1, 4).share(3) == slice(0, 3)  # fewer than processes: everyone does all


def a_training(defense: str, **training: object) -> Task:
    """One tiny training on digits; batches of 23 do not split evenly.

    In L2: the sign of the L∞ attack turns a rounding error into another image.
    """
    recipe = {"epochs": 1, "batch_size": 23, "train_limit": 73, "holdout": 0.05, "attack_steps": 2}
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


@pytest.mark.parametrize("defense", ["standard", "trades"])
def test_two_processes_equal_one(tmp_path: Path, defense: str) -> None:
    task = a_training(defense)
    one = Context(out=tmp_path / "one", device="cpu", batch_size=0, threads=1)
    two = dataclasses.replace(one, out=tmp_path / "two", processes=2)
    for context in (one, two):
        train(task, context, lambda *progress: None)
    histories = [read_card(context.out / task.path)["history"] for context in (one, two)]
    for alone, together in zip(*histories, strict=True):
        for name in [name for name in alone if name in ("adversarial", "natural", "kl", "gradient_norm")]:
            assert together[name] == pytest.approx(alone[name], rel=1e-4), name
    weights = [load_tensors(context.out / task.path) for context in (one, two)]
    for name in weights[0]:
        if not name.endswith("num_batches_tracked"):
            difference = (weights[0][name] - weights[1][name]).abs().max()
            assert difference <= 1e-4 * max(1.0, float(weights[0][name].abs().max())), name
    assert torch.equal(weights[0]["1.bn1.num_batches_tracked"], weights[1]["1.bn1.num_batches_tracked"])
