"""What the attacks of Carlini and Wagner and EAD share: the search for the constant c, and what it keeps.

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
        search_steps: values of c tried for each sample.
        steps: gradient steps for each.
        step_size: of the gradient steps, in the attack's own units.
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
        """Whether gradient step ``step`` is one after which stalled samples leave."""
        return self.abort_early and step % max(self.steps // _CHECKS, 1) == 0


class ConstantSearch(NamedTuple):
    """The state of the search for each of N samples: all (N,)."""

    c: Tensor
    """The constant to try next."""
    lower: Tensor
    """The largest constant that failed; 0 before."""
    upper: Tensor
    """The smallest constant that succeeded; infinite before."""

    @classmethod
    def start(cls, initial: float, like: Tensor) -> "ConstantSearch":
        """Before the first try, for the samples of ``like`` (N, …)."""
        c = like.new_full((len(like),), initial)
        return cls(c, torch.zeros_like(c), torch.full_like(c, torch.inf))

    def after(self, success: Tensor) -> "ConstantSearch":
        """Ten times the constant until one succeeds, bisection from then on.

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
        """Keep what succeeds nearer than what is kept.

        Args:
            rows: (M,) int64, the samples that the other arguments are about.
            images: (M, C, H, W), the very images that were judged.
            distance: (M,).
            success: (M,) bool.
        """
        better = success & (distance < self.distance[rows])
        self.images[rows[better]] = images[better]
        self.distance[rows[better]] = distance[better]


def hinge(margins: Tensor, confidence: float) -> Tensor:
    """f + κ, which differs from the paper's f by a constant and is 0 once the margin is κ: (N,) -> (N,)."""
    return (confidence - margins).relu()


def improved(loss: Tensor, previous: Tensor) -> Tensor:
    """Which samples' loss has not stalled since the previous check: (N,), (N,) -> (N,) bool."""
    return loss < _PROGRESS * previous
