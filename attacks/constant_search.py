"""What the Carlini-Wagner attack and EAD share: the search for the constant c, and the images it keeps.

Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644, sections V and VI.A: minimise
c · f(x') + distance(x', x) with f(x') = max(z_y - max over k ≠ y of z_k, -κ), for the smallest c that
succeeds. An image succeeds when its margin, max over k ≠ y of z_k - z_y, exceeds κ.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from robustness_bench.attacks.base import MinimumNormAttack
from robustness_bench.attacks.numerics.geometry import Norm

_LARGEST_CONSTANT = 1e10  # of the authors' code
_PROGRESS = 0.9999  # of the authors' code: a loss above this share of the last one has stalled
_CHECKS = 10  # of progress, per search step


@dataclass(frozen=True, kw_only=True)
class ConstantSearchAttack(MinimumNormAttack):
    """Hyperparameters of an attack that searches for c.

    Args:
        search_steps: number of values of c tried for each sample.
        steps: gradient steps for each value.
        step_size: of the gradient steps, in units that the attack defines.
        confidence: margin κ, in logits, that an adversarial image must exceed.
        initial_const: first c.
        abort_early: check ten times per search step, and end it for a sample whose loss has stalled.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    norm: Norm = "l2"
    search_steps: int = 9
    steps: int = 1000
    step_size: float = 0.01
    confidence: float = 0.0
    initial_const: float = 1e-3
    abort_early: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("search_steps", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("step_size", "initial_const"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if not 0 <= self.confidence < math.inf:
            raise ValueError(f"confidence must be at least 0 and finite, got {self.confidence}")

    def checks_progress(self, step: int) -> bool:
        """Return whether stalled samples are dropped after gradient step ``step``."""
        return self.abort_early and step % max(self.steps // _CHECKS, 1) == 0


class ConstantSearch(NamedTuple):
    """The state of the search for each of N samples; all fields are (N,)."""

    c: Tensor
    """The constant to try next."""
    lower: Tensor
    """The largest constant that failed; 0 before the first failure."""
    upper: Tensor
    """The smallest constant that succeeded; infinite before the first success."""

    @classmethod
    def start(cls, initial: float, like: Tensor) -> "ConstantSearch":
        """Return the state before the first try, for the samples of ``like`` (N, …)."""
        c = like.new_full((len(like),), initial)
        return cls(c, torch.zeros_like(c), torch.full_like(c, torch.inf))

    def after(self, success: Tensor) -> "ConstantSearch":
        """Return the next state: ten times the constant until one succeeds, bisection from then on.

        Args:
            success: (N,) bool, whether ``c`` led to a success.
        """
        upper = torch.where(success, torch.minimum(self.upper, self.c), self.upper)
        lower = torch.where(success, self.lower, torch.maximum(self.lower, self.c))
        grown = (10.0 * self.c).clamp_max(_LARGEST_CONSTANT)
        c = torch.where(upper.isinf(), grown, (lower + upper) / 2)
        return ConstantSearch(c, lower, upper)


class Nearest:
    """The nearest success offered so far for each of N samples; the natural image before the first.

    Attributes:
        images: (N, C, H, W).
        distance: (N,), infinite before the first success.
    """

    def __init__(self, x: Tensor) -> None:
        self.images = x.clone()
        self.distance = x.new_full((len(x),), torch.inf)

    def offer(self, rows: Tensor, images: Tensor, distance: Tensor, success: Tensor) -> None:
        """Keep each success that is nearer than the image kept so far.

        Args:
            rows: (M,) int64, the samples that the other arguments describe.
            images: (M, C, H, W), exactly the images that were judged.
            distance: (M,).
            success: (M,) bool.
        """
        better = success & (distance < self.distance[rows])
        self.images[rows[better]] = images[better]
        self.distance[rows[better]] = distance[better]


def hinge(margins: Tensor, confidence: float) -> Tensor:
    """Return f + κ: the paper's f plus a constant, 0 once the margin reaches κ: (N,) -> (N,)."""
    return (confidence - margins).relu()


def improved(loss: Tensor, previous: Tensor) -> Tensor:
    """Return which samples' loss has not stalled since the previous check: (N,), (N,) -> (N,) bool."""
    return loss < _PROGRESS * previous
