"""Losses an attack climbs: (N, K) logits and (N,) labels -> (N,) values, higher is worse for the model."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

LossName = Literal["log-odds", "ce", "margin", "dlr"]
_WIDEST = 16.0  # logits: below it float32's cross-entropy has its whole gradient


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max over k ≠ y of z_k - z_y, above 0 exactly where the model errs: (N, K), (N,) -> (N,).

    Needs two classes or more. The gradient is that of the one runner-up.
    """
    true = y[:, None]
    others = logits.scatter(1, true, -torch.inf)
    return others.max(1).values - logits.gather(1, true)[:, 0]


def margin_slope(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the model's margin at ``x``, and the margin: (N, C, H, W), (N,)."""
    point = x.detach().requires_grad_()
    with torch.enable_grad():
        reached = margin(model(point), y)
        (slope,) = torch.autograd.grad(reached.sum(), point)
    return slope, reached.detach()


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(z)_y. Its float32 gradient is wrong for a right class that is nearly certain.

    Where z_y exceeds the logsumexp over k ≠ y of z_k by more than 24·log 2 (16.6), softmax(z)_y rounds to 1
    and the gradient by z_y to 0; from about 104 on, all components are 0.
    """
    return functional.cross_entropy(logits, y, reduction="none")


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """T · logsumexp over k ≠ y of z_k/T, minus z_y: the cross-entropy's direction at any scale of logits.

    At T = 1 it is the log-odds against the true class. The cross-entropy is its softplus, a growing
    function, so both have the same direction. It is the softplus that float32 cannot represent.

    T is 1 for ordinary logits. Where they are so wide that of the other classes only the runner-up
    would count, T narrows them to 16, so that scaling wide logits changes nothing. T is per sample and
    constant in the gradient. The width is that of the other classes' logits, so that a constant added to
    the true one has no effect on it; it is at most twice the gap between the largest and the third of all
    logits, so that a class that is never chosen has none either. Needs two classes or more.
    """
    true = y[:, None]
    width = temperature(logits.detach(), y)
    others = (logits / width[:, None]).scatter(1, true, -torch.inf)
    return width * others.logsumexp(1) - logits.gather(1, true)[:, 0]


def temperature(logits: Tensor, y: Tensor) -> Tensor:
    """``log_odds``'s T: (N, K), (N,) -> (N,), at least 1."""
    true = y[:, None]
    if logits.shape[1] < 3:
        return logits.new_ones(len(logits))
    largest = logits.topk(3, dim=1).values
    lowest = logits.scatter(1, true, torch.inf).min(1).values
    highest = logits.scatter(1, true, -torch.inf).max(1).values
    width = torch.minimum(highest - lowest, 2.0 * (largest[:, 0] - largest[:, 2]))
    return (width / _WIDEST).clamp_min(1.0)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio: Croce and Hein 2020, https://arxiv.org/abs/2003.01690, equation 6.

    The margin divided by the gap between the largest and the third logit, so that scaling the logits
    changes nothing. Below three classes it is not defined, and the margin replaces it.
    """
    if logits.shape[1] < 3:
        return margin(logits, y)
    largest = logits.topk(3, dim=1).values
    return margin(logits, y) / (largest[:, 0] - largest[:, 2] + 1e-12)


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """z_t - z_y, above 0 where the target class is ahead of the true one: (N, K), (N,), (N,) -> (N,)."""
    ahead: Tensor = logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])
    return ahead[:, 0]


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """(z_t - z_y) / (z_π1 - (z_π3 + z_π4)/2): Croce and Hein 2020, equation 7: (N, K), (N,), (N,) -> (N,).

    It is not defined below four classes, where the targeted margin takes its place.
    """
    ahead = targeted_margin(logits, y, target)
    if logits.shape[1] < 4:
        return ahead
    largest = logits.topk(4, dim=1).values
    return ahead / (largest[:, 0] - 0.5 * (largest[:, 2] + largest[:, 3]) + 1e-12)


def check_ascent(loss: str, *, momentum: float = 0.0, **positive: float) -> None:
    """Raise ValueError unless the parameters of an ascent of a loss can be what they are.

    Args:
        loss: a name of ``LOSSES``.
        momentum: at least 0 and finite.
        positive: name -> value that must be above 0 and finite, such as steps.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    if not 0 <= momentum < math.inf:
        raise ValueError(f"momentum must be at least 0 and finite, got {momentum}")
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")


LOSSES: dict[LossName, Callable[[Tensor, Tensor], Tensor]] = {
    "log-odds": log_odds,
    "ce": cross_entropy,
    "margin": margin,
    "dlr": dlr,
}
