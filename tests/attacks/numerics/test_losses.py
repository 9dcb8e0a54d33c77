"""Losses by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from robustness_bench.attacks.numerics.losses import (
    LOSSES,
    LossName,
    cross_entropy,
    dlr,
    log_odds,
    margin,
    temperature,
)

LOGITS = torch.tensor([[3.0, 1.0, 0.0, -1.0], [0.0, 2.0, 5.0, 1.0]])
LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ce", [-torch.tensor(3.0).exp().log() + LOGITS[0].logsumexp(0), LOGITS[1].logsumexp(0) - 2.0]),
        ("log-odds", [LOGITS[0, 1:].logsumexp(0) - 3.0, LOGITS[1, [0, 2, 3]].logsumexp(0) - 2.0]),
        ("margin", [-2.0, 3.0]),
        ("dlr", [-2.0 / (3.0 - 0.0), 3.0 / (5.0 - 1.0)]),
    ],
)
def test_values(name: LossName, expected: list[float]) -> None:
    assert LOSSES[name](LOGITS, LABELS) == pytest.approx(torch.tensor(expected))


def test_dlr_does_not_see_the_scale() -> None:
    assert torch.allclose(dlr(1e4 * LOGITS, LABELS), dlr(LOGITS, LABELS))


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(classes: int) -> None:
    logits = LOGITS[:1, :classes]
    largest = logits[0].sort(descending=True).values
    scale: Tensor = torch.tensor(1.0) if classes == 2 else largest[0] - largest[2]
    assert torch.allclose(dlr(logits, LABELS[:1]), margin(logits, LABELS[:1]) / scale)


def random_logits(width: float, classes: int = 10, n: int = 200) -> tuple[Tensor, Tensor]:
    """Logits, and as the true class the largest."""
    logits = width * torch.rand(n, classes, generator=torch.Generator().manual_seed(0))
    return logits, logits.argmax(1)


def slope(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, y: Tensor) -> Tensor:
    """Of unit L2 norm."""
    logits = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, y).sum(), logits)
    return functional.normalize(gradient, dim=1)


def test_log_odds_have_the_direction_of_the_cross_entropy() -> None:
    """And are its inverse softplus: where the logits are narrow there is no temperature."""
    logits, y = random_logits(8.0)
    assert (temperature(logits, y) == 1).all()
    assert torch.allclose(slope(log_odds, logits, y), slope(cross_entropy, logits, y), atol=1e-4)
    assert torch.allclose(functional.softplus(log_odds(logits, y)), cross_entropy(logits, y), atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_log_odds_of_wide_logits_do_not_see_the_scale(classes: int) -> None:
    logits, y = random_logits(40.0, classes)
    wide = temperature(logits, y) > 1
    assert wide.any() == (classes > 2)
    logits, y = logits[wide] if classes > 2 else logits, y[wide] if classes > 2 else y
    for scale in (10.0, 1e3, 1e30):
        assert torch.allclose(slope(log_odds, scale * logits, y), slope(log_odds, logits, y), atol=1e-5)
        assert torch.allclose(log_odds(scale * logits, y), scale * log_odds(logits, y), rtol=1e-4)


def test_neither_a_lift_of_the_true_logit_nor_a_class_out_of_reach_hides_the_runner_up() -> None:
    logits, y = random_logits(12.0)
    rows = torch.arange(len(y))
    lifted, masked = logits.clone(), torch.cat([logits, torch.full((len(y), 1), -1e9)], dim=1)
    lifted[rows, y] += 1e3
    assert torch.allclose(slope(log_odds, lifted, y), slope(log_odds, logits, y), atol=1e-5)
    assert torch.allclose(slope(log_odds, masked, y)[:, :10], slope(log_odds, logits, y), atol=1e-5)


def test_where_the_cross_entropy_has_lost_the_true_class() -> None:
    leads = torch.linspace(0.0, 120.0, 241)
    logits, y = torch.full((len(leads), 4), -1e3), torch.zeros(len(leads), dtype=torch.int64)
    logits[:, 0], logits[:, 1] = leads, 0.0  # one rival, so that the log-odds are ``leads``
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(logits, y).sum(), logits)
    lost = gradient[:, 0] == 0
    assert lost[leads >= 17].all()
    assert not lost[leads <= 16].any()
    assert (gradient[leads > 105] == 0).all()
