"""What a sample comes to depends on the sample: in one batch, cut anywhere, alone, in another order."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import Attack, predict
from robustness_bench.attacks.registry import attack_presets
from tests.support import images, small_model

PRESETS = attack_presets("paper") | attack_presets("strict")
CASES = [(name, norm) for name, preset in PRESETS.items() for norm in preset.norms]
FEWER: dict[str, Any] = {
    "AutoAttack": {"steps": 4, "square_queries": 60},
    "FastAutoAttack": {
        "targets": 2,
        "steps": 4,
        "close_targets": 2,
        "close_steps": 5,
        "full_steps": 4,
        "square_queries": 60,
        "audit": 0.5,
    },
    "Wasserstein": {"steps": 3, "bisections": 6},
}
MOST = {
    "steps": 8,
    "restarts": 2,
    "search_steps": 2,
    "warm_steps": 8,
    "queries": 150,
    "copies": 3,
    "neighbours": 3,
}
SAMPLES = 6
ROUNDING = 1e-3  # another batch rounds otherwise, which steps and searches amplify


class Dense(nn.Module):
    """Fully connected; ``levels`` rounds the image first, after which it has no gradient at all."""

    def __init__(self, levels: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.first = nn.Parameter(torch.randn(64, 32, generator=generator) / 8)
        self.second = nn.Parameter(torch.randn(32, 5, generator=generator) / 4)
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        if self.levels:
            x = (self.levels * x).round() / self.levels
        logits: Tensor = ((x.flatten(1) - 0.5) @ self.first).relu() @ self.second
        return logits


MODELS: dict[str, Callable[[], nn.Module]] = {
    "convolutional": small_model,
    "connected": Dense,
    "no gradient": lambda: Dense(levels=12),
}
EPS = {
    "convolutional": {"linf": 0.012, "l2": 0.06},
    "connected": {"linf": 0.03, "l2": 0.2},
    "no gradient": {"linf": 0.05, "l2": 0.3},
}


def build(name: str, norm: str, eps: float, **changes: Any) -> Attack:
    attack = PRESETS[name].build(norm, eps)
    fewer = {name: min(most, getattr(attack, name)) for name, most in MOST.items() if hasattr(attack, name)}
    fewer |= FEWER.get(type(attack).__name__, {})
    return dataclasses.replace(attack, **(fewer | changes))


def cuts(n: int) -> Iterator[Tensor]:
    """Batches of the same samples, in another order: one alone, its twin with the last, the others."""
    yield from torch.tensor([0, n - 1, *range(1, n - 1)]).split([1, 2, n - 3])


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("name", "norm"), CASES)
def test_neighbours_order_and_cuts_change_nothing(name: str, norm: str, kind: str) -> None:
    model = MODELS[kind]().eval()
    x, ids = images(SAMPLES, seed=11), 100 + torch.arange(SAMPLES)
    x[1] = x[0]  # two samples may be one and the same image
    y, attack = predict(model, x), build(name, norm, EPS[kind][norm])
    whole = attack(model, x, y, ids=ids, seed=3)
    for rows in cuts(SAMPLES):
        part = attack(model, x[rows], y[rows], ids=ids[rows], seed=3)
        assert torch.equal(part.prediction, whole.prediction[rows])
        assert torch.allclose(part.x_adv, whole.x_adv[rows], atol=ROUNDING)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_alone_decides_on_the_way(norm: str) -> None:
    """So that the test above sees samples leave: only Square breaks what has no gradient, and not at once."""
    model = MODELS["no gradient"]().eval()
    x = images(SAMPLES, seed=11)
    y = predict(model, x)

    def left(queries: int) -> int:
        attack = build("aa", norm, EPS["no gradient"][norm], square_queries=queries)
        return int((attack(model, x, y, seed=3).prediction == y).sum())

    assert SAMPLES > left(15) > left(60) > 0
