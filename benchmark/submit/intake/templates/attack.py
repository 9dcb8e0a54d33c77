"""An attack for bench, which runs perturb() confined and judges the result itself. Replace its steps."""

import torch
from torch import Tensor, nn

STEPS = 20


def perturb(model: nn.Module, x: Tensor, y: Tensor, *, norm: str, eps: float, seed: int) -> Tensor:
    """Projected gradient descent (Madry et al. 2018, arXiv:1706.06083) from a random start.

    ``model`` maps float32 images (N, C, H, W) in [0, 1] to logits (N, classes), with gradients with respect
    to the images; it counts its forward and backward passes. ``x`` are images that it classifies correctly,
    ``y`` (N,) their labels. Return as many images in [0, 1], within ``eps`` in ``norm`` ("linf" or "l2"); an
    image that does not fool the model does no harm. Take all randomness from ``seed``, and read no files.
    """
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))
    x_adv = project(x + eps * (2 * noise - 1), x, norm, eps)
    found = x.clone()
    for step in range(STEPS + 1):
        x_adv.requires_grad_(step < STEPS)
        logits = model(x_adv)
        fooled = logits.argmax(1) != y
        found[fooled] = x_adv.detach()[fooled]
        if step == STEPS or fooled.all():
            break
        (gradient,) = torch.autograd.grad(log_odds(logits, y).sum(), x_adv)
        moved = x_adv.detach() + 2.5 * eps / STEPS * ascent(gradient, norm)
        x_adv = project(moved, x, norm, eps)
    return found


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """Return a loss with the cross-entropy's direction, which float32 loses for a very sure model: (N,)."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.logsumexp(1) - logits.gather(1, y[:, None])[:, 0]


def ascent(gradient: Tensor, norm: str) -> Tensor:
    """Return the direction of length 1 in which the loss grows fastest."""
    return gradient.sign() if norm == "linf" else gradient / lengths(gradient).clamp_min(1e-12)


def project(x_adv: Tensor, x: Tensor, norm: str, eps: float) -> Tensor:
    """Project into the ball around ``x`` and clip into the box."""
    delta = x_adv - x
    if norm == "linf":
        delta = delta.clamp(-eps, eps)
    else:
        delta = delta * (eps / lengths(delta).clamp_min(1e-12)).clamp_max(1.0)
    return (x + delta).clamp(0.0, 1.0)


def lengths(delta: Tensor) -> Tensor:
    """(N, 1, 1, 1)"""
    each: Tensor = delta.flatten(1).norm(dim=1)
    return each[:, None, None, None]
