"""What the Carlini-Wagner attack and EAD share: the search for the constant c, and the images it keeps.

Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644, sections V and VI.A: minimise
c · f(x') + distance(x', x) with f(x') = max(z_y - max over k ≠ y of z_k, -κ), for the smallest c that
succeeds. An image succeeds when its margin, max over k ≠ y of z_k - z_y, exceeds κ.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import MinimumNormAttack
from robustness_bench.attacks.foolbox import DDN
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.losses import margin_slope
from robustness_bench.attacks.numerics.noise import Noise

_LARGEST_CONSTANT = 1e10  # of the authors' code
_PROGRESS = 0.9999  # of the authors' code: a loss above this share of the last one has stalled
_CHECKS = 10  # of progress, per search step
_AMPLE = 2.0  # times the c that holds a quick member's image on the boundary: enough to stay adversarial
_SHORT = 0.9  # of the way to that image, from where c has to do the rest


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
        warm_steps: of DDN, ahead of the search. Where it finds an image, the search starts from there, with
            the c that would hold that image on the boundary, doubled, and falls back on it. 0: none.
        settled: a sample leaves once a value of c that succeeded has brought its image nearer by less than
            this share of the distance. 0: never.

    Without the last two this is the papers' search.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    norm: Norm = "l2"
    search_steps: int = 9
    steps: int = 1000
    step_size: float = 0.01
    confidence: float = 0.0
    initial_const: float = 1e-3
    abort_early: bool = True
    warm_steps: int = 0
    settled: float = 0.0

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
        if self.warm_steps < 0 or not 0 <= self.settled < 1:
            raise ValueError(f"warm_steps must be at least 0 and settled in [0, 1), got {self!r}")

    def checks_progress(self, step: int) -> bool:
        """Return whether stalled samples are dropped after gradient step ``step``."""
        return self.abort_early and step % max(self.steps // _CHECKS, 1) == 0

    def passes(self, classes: int) -> tuple[int, int]:
        """As many of each; an attack that judges its steps apart has more forwards."""
        ahead = self.warm_steps + 1 if self.warm_steps else 0
        return (ahead + self.search_steps * self.steps,) * 2

    def begun(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> "Begun":
        """Return where the search of each of N samples starts; the model's weights are frozen."""
        search = ConstantSearch.start(self.initial_const, x)
        if not self.warm_steps or not len(x):
            return Begun(x, x, x.new_full((len(x),), -torch.inf), search)
        images = DDN(steps=self.warm_steps).perturb(model, x, y, noise)
        slope, margins = margin_slope(model, images, y)
        steepness = geometry.size(slope, "l2")
        c = _AMPLE * geometry.size(self.pull(images - x), "l2") / steepness
        found = (margins > 0) & (steepness > 0)
        c = torch.where(found, c, search.c).clamp_max(_LARGEST_CONSTANT)
        start = torch.where(geometry.per_sample(found, x), x + _SHORT * (images - x), x)
        return Begun(start, images, margins.masked_fill(~found, -torch.inf), search._replace(c=c))

    def pull(self, delta: Tensor) -> Tensor:
        """The gradient of the distance that the attack makes small: (N, …) -> (N, …)."""
        return 2.0 * delta

    def gains(self, before: Tensor, after: Tensor) -> Tensor:
        """Return whose image one c has brought nearer by more than ``settled``: (N,), (N,) -> (N,) bool.

        Args:
            before: distance of the nearest image, infinite where there was none.
            after: the same with that c.
        """
        return after < (1.0 - self.settled) * before


class Begun(NamedTuple):
    """Where a search starts."""

    start: Tensor
    """(N, C, H, W): short of a quick member's image, so that c has to lead there; or the natural image."""
    images: Tensor
    """(N, C, H, W): the quick member's."""
    margins: Tensor
    """(N,) of the quick member's, -∞ where there is none."""
    search: "ConstantSearch"


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
