"""Norms, projections and steps of L∞ and L2 balls: pure functions, one value per sample."""

from typing import Literal

import torch
from torch import Tensor

from robustness_bench.attacks.numerics.noise import Noise

Norm = Literal["linf", "l2"]
Distance = Literal["linf", "l2", "l1"]
_ORDER = {"linf": torch.inf, "l2": 2, "l1": 1}


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (N,) so that it broadcasts over ``like`` (N, …)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def size(delta: Tensor, norm: Distance) -> Tensor:
    """The norm of each perturbation: (N, …) -> (N,)."""
    lengths: Tensor = torch.linalg.vector_norm(delta.flatten(1), ord=_ORDER[norm], dim=1)
    return lengths


def project(delta: Tensor, norm: Norm, eps: float) -> Tensor:
    """The nearest perturbation whose norm is at most ``eps``."""
    if norm == "linf":
        return delta.clamp(-eps, eps)
    lengths = size(delta, "l2")
    return delta * per_sample((eps / lengths.clamp_min(1e-12)).clamp_max(1.0), delta)


def ascent(gradient: Tensor, norm: Norm) -> Tensor:
    """The unit-norm direction in which a linear function with this gradient grows fastest."""
    if norm == "linf":
        return gradient.sign()
    return gradient / per_sample(size(gradient, "l2").clamp_min(1e-12), gradient)


def mended(gradient: Tensor) -> Tensor:
    """Return the gradient, set to zero for every sample with a NaN or infinite entry: (N, …) -> (N, …)."""
    whole = torch.isfinite(gradient).flatten(1).all(1)
    return torch.where(per_sample(whole, gradient), gradient, 0.0)


def random_in_ball(noise: Noise, shape: tuple[int, ...], norm: Norm, eps: float, draw: int) -> Tensor:
    """Draw uniformly from the ball of radius ``eps``: (N, *shape)."""
    if norm == "linf":
        return eps * (2.0 * noise.uniform(shape, draw=2 * draw) - 1.0)
    direction = ascent(noise.normal(shape, draw=2 * draw), "l2")
    radius = noise.uniform((1,), draw=2 * draw + 1)[:, 0] ** (1.0 / direction[0].numel())
    return eps * per_sample(radius, direction) * direction


def climb(x: Tensor, x_adv: Tensor, gradient: Tensor, norm: Norm, eps: float, step: float) -> Tensor:
    """Take one projected gradient step from ``x_adv``, back into the ball around ``x`` and the box."""
    moved = x_adv + step * ascent(gradient, norm)
    return (x + project(moved - x, norm, eps)).clamp(0.0, 1.0)


def random_start(noise: Noise, x: Tensor, norm: Norm, eps: float, draw: int = 0) -> Tensor:
    """A random point of the ball around each image, clipped into the box."""
    return (x + random_in_ball(noise, tuple(x.shape[1:]), norm, eps, draw)).clamp(0.0, 1.0)
