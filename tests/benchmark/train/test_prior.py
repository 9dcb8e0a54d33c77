"""FGSM-PGI against the paper's equations on fixed numbers: one pixel, a linear model."""

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.benchmark.train.images import Batch
from robustness_bench.benchmark.train.prior import Prior, deviation
from robustness_bench.defenses.base import InnerAttack

EPS, ALPHA, MU = 0.1, 0.05, 0.5
ROWS = torch.tensor([2, 0])
SIGNS = torch.tensor([[1.0, -3.0], [2.0, 0.5]]).reshape(2, 1, 1, 2)


def prior(reset: int = 2) -> Prior:
    attack = InnerAttack(norm="linf", eps=EPS, steps=1, rel_step_size=ALPHA / EPS)
    return Prior((3, 1, 1, 2), attack, momentum=MU, reset=reset)


def batch(x: float = 0.5) -> Batch:
    noise = Noise.for_samples(ROWS, 0, "test")
    return Batch(torch.full((2, 1, 1, 2), x), torch.zeros(2, dtype=torch.int64), noise)


class Slope(nn.Module):
    """Logits whose gradient in the pixels is ``SIGNS`` times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return (self.factor * SIGNS * x).flatten(1).sum(1, keepdim=True)


def step(memory: Prior, epoch: int, factor: float, x: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """One training step; η, x̃ - x and the next η."""
    part = batch(x)
    start = memory.starts(ROWS, epoch, part.noise)
    x_adv, gradient = memory._attack.climb(Slope(factor), part.x, part.x + start, lambda z: z[:, 0])
    memory.remember(ROWS, part.x, start, gradient)
    return start, x_adv - part.x, memory.start[ROWS].float()


def test_the_start_follows_the_momentum_and_the_image_the_gradient() -> None:
    memory = prior()
    start, delta, following = step(memory, 0, 1.0)
    assert torch.allclose(start.abs(), torch.tensor(EPS), atol=1e-4)
    expected = (start + ALPHA * SIGNS.sign()).clamp(-EPS, EPS)
    assert torch.allclose(delta, expected, atol=1e-6)
    assert torch.allclose(following, expected, atol=1e-4)  # m is the gradient's direction as yet
    shares = SIGNS / SIGNS.abs().mean((1, 2, 3), keepdim=True)
    assert torch.allclose(memory.momentum[ROWS].float(), shares, atol=2e-3)
    assert not memory.momentum[1].any()
    start, delta, following = step(memory, 1, -0.1)  # the gradient turns; per image its size does not matter
    assert torch.allclose(memory.momentum[ROWS].float(), (MU - 1) * shares, atol=2e-3)
    assert torch.allclose(delta, (start - ALPHA * SIGNS.sign()).clamp(-EPS, EPS), atol=1e-6)
    memory.momentum.mul_(-8)  # now it outweighs the gradient, and the two part
    start, delta, following = step(memory, 1, -0.1)
    assert torch.allclose(delta, (start - ALPHA * SIGNS.sign()).clamp(-EPS, EPS), atol=1e-6)
    assert torch.allclose(following, (start + ALPHA * SIGNS.sign()).clamp(-EPS, EPS), atol=1e-4)


def test_starts_are_drawn_anew_each_period_and_stay_in_the_box() -> None:
    memory = prior(reset=2)
    step(memory, 0, 1.0)
    assert torch.equal(memory.starts(ROWS, 1, batch().noise), memory.start[ROWS].float())
    assert memory.momentum.any()
    again = memory.starts(ROWS, 2, batch().noise)
    assert torch.allclose(again.abs(), torch.tensor(EPS), atol=1e-4)
    assert not memory.momentum.any()
    _, delta, following = step(memory, 2, 1.0, x=1.0)
    assert delta.max() <= 0
    assert following.max() <= 0


def test_the_term_is_the_mean_square() -> None:
    logits, prior_logits = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[0.0, 2.0], [2.0, -1.0]])
    assert deviation(logits, prior_logits) == pytest.approx((1 + 0 + 4 + 0) / 4)
