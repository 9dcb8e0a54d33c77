"""Multiplying the logits by a constant changes no class, so it may not change what an attack leaves."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import Attack
from robustness_bench.attacks.foolbox import DDN
from robustness_bench.attacks.registry import attack_presets
from tests.attacks.parity.problem import Problem, problem

EPS = {"budget": {"linf": 0.1, "l2": 0.53}, "wasserstein": {"linf": 0.06, "l2": 0.06}}
STRICT = attack_presets("strict")
OURS = {name: preset for name, preset in STRICT.items() if preset.attack.startswith("attacks.")}
CASES = [(name, norm) for name, preset in OURS.items() if preset.kind in EPS for norm in preset.norms]
FEWER: dict[str, dict[str, Any]] = {
    "PGD": {"restarts": 2},
    "AutoAttack": {"steps": 5, "square_queries": 10},
    "FastAutoAttack": {"full_steps": 5, "square_queries": 10},
    "BSR": {"copies": 3},
    "MEF": {"steps": 10, "neighbours": 3},
    "Wasserstein": {"steps": 3, "bisections": 6},
}
SCALES = {"PGD": (30.0, 1000.0), "TIDIM": (30.0, 1000.0)}
by_cross_entropy = pytest.mark.parametrize(
    ("name", "norm"),
    # Where gradients of several images are averaged, the cross-entropy weighs them otherwise.
    [(n, m) for n, m in CASES if STRICT[n].parameters.get("loss") == "log-odds" and n not in ("bsr", "mef")],
)


class Scaled(nn.Module):
    def __init__(self, inner: nn.Module, scale: float) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.scale * self.inner(x)
        return logits


class Lifted(nn.Module):
    """Adds a constant to whichever logit is the largest."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        lift = nn.functional.one_hot(logits.detach().argmax(1), logits.shape[1])
        return logits + 200.0 * lift


@pytest.fixture(scope="module")
def digits() -> Problem:
    """A hundred images and a model that is sure of a third of them beyond float32."""
    return problem()


def build(name: str, norm: str, **changes: Any) -> Attack:
    attack = STRICT[name].build(norm, EPS[STRICT[name].kind][norm])
    return dataclasses.replace(attack, **FEWER.get(type(attack).__name__, {}), **changes)


def left(attack: Attack, on: Problem, scale: float) -> Tensor:
    """The samples that the attack does not break."""
    return attack(Scaled(on.model, scale), on.x, on.y).prediction == on.y


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_the_scale_of_the_logits_changes_at_most_four_percent(name: str, norm: str, digits: Problem) -> None:
    attack = build(name, norm)
    unscaled = int(left(attack, digits, 1.0).sum())
    assert unscaled < len(digits.y)
    for scale in SCALES.get(type(attack).__name__, (1000.0,)):
        assert abs(int(left(attack, digits, scale).sum()) - unscaled) <= 0.04 * len(digits.y), scale


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["pgd-40", "fwa-10"])
def test_a_lift_of_the_largest_logit_changes_nothing(name: str, norm: str, digits: Problem) -> None:
    """The class and the slope of the log-odds are as they were; the cross-entropy has no slope left."""
    attack, lifted = build(name, norm), Lifted(digits.model)
    plain = int(left(attack, digits, 1.0).sum())
    assert abs(int((attack(lifted, digits.x, digits.y).prediction == digits.y).sum()) - plain) <= 4


@by_cross_entropy
def test_an_unconfident_model_falls_as_it_does_to_the_cross_entropy(
    name: str, norm: str, digits: Problem
) -> None:
    ours, theirs = left(build(name, norm), digits, 0.2), left(build(name, norm, loss="ce"), digits, 0.2)
    assert theirs.any()
    assert not theirs.all()
    assert torch.equal(ours, theirs)


def test_ddn_stays_as_near(digits: Problem) -> None:
    attack = DDN(steps=100)
    unscaled = attack(*digits).distance.mean()
    for scale in (10.0, 1000.0):
        outcome = attack(Scaled(digits.model, scale), digits.x, digits.y)
        assert (outcome.prediction != digits.y).all()
        assert outcome.distance.mean() <= 1.005 * unscaled
    lifted = attack(Lifted(digits.model), digits.x, digits.y)
    assert (lifted.prediction != digits.y).all()
    assert lifted.distance.mean() <= 1.02 * unscaled
