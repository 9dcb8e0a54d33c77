"""AutoAttack's answer for a fraction of its price: cheap members first, the whole of it where they may err.

Cheap members miss what AutoAttack finds mostly where gradients mislead. So a sample that shows a sign of
that goes through AutoAttack, and so does a random share of all that are left: what it still finds there
bounds what was missed on the others.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from attacks import geometry
from attacks.autoattack import AutoAttack, judged, ranked
from attacks.base import BudgetAttack
from attacks.geometry import Norm, per_sample
from attacks.losses import targeted_margin
from attacks.margins import margin
from attacks.noise import Noise, key_of
from attacks.pool import Rows, Samples, Search, searched

_FLAT = 0.02  # of the gap to the next class, that a full step along the gradient would at least close
_KEPT = 0.1  # of what the gradient promises at the natural image, that the climb at least keeps
_CORNERS = 2  # random corners of the ball, none of which should be worse than what the climb reaches
_AUDIT = key_of("audit")


@dataclass(frozen=True, kw_only=True)
class FastAutoAttack(BudgetAttack):
    """Margin ascents towards the likeliest classes, then AutoAttack, version standard, for some samples.

    The first ascent goes for whichever class is nearest, the others each for one class, by its rank on the
    natural image. A sample leaves the moment it falls. Those that stand go through AutoAttack if

    - two passes of the natural image differ, or
    - the gradient there is so small that a step of ε along it would hardly change anything, or
    - the ascents have kept less than a tenth of what the gradient promised, or
    - a random corner of the ball is worse for the model than all that the ascents have found, or
    - they are in the audit, whatever they look like.

    All of this is decided by the sample alone. AutoAttack then does what it would have done by itself.

    Args:
        targets: ascents, the first included.
        steps: of each ascent.
        audit: share of the samples, 0 to 1: see ``audited`` and ``missed_bound``.
        full_steps: AutoAttack's ``steps``.
        square_queries: AutoAttack's.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    targets: int = 4
    steps: int = 12
    audit: float = 0.01
    full_steps: int = 100
    square_queries: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets < 1 or self.steps < 1:
            raise ValueError(f"targets and steps must be at least 1, got {self!r}")
        if not 0.0 <= self.audit <= 1.0:
            raise ValueError(f"audit must be a share between 0 and 1, got {self.audit}")
        self._full()  # checks its own

    @property
    def stream(self) -> str:
        return AutoAttack.__name__

    def _full(self) -> AutoAttack:
        return AutoAttack(
            norm=self.norm, eps=self.eps, steps=self.full_steps, square_queries=self.square_queries
        )

    def passes(self, classes: int) -> tuple[int, int]:
        """Of a sample that nothing marks; the audit's share of AutoAttack is in it."""
        ascents = min(self.targets, classes)
        forwards, backwards = self._full().passes(classes)
        return (
            ascents * (self.steps + 1) + 2 + _CORNERS + math.ceil(self.audit * forwards),
            ascents * self.steps + math.ceil(self.audit * backwards),
        )

    def for_transfer(self) -> AutoAttack:
        """AutoAttack's own images: the last of a climb carries over, the first one that fools hardly."""
        return self._full().for_transfer()

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        samples = Samples(x, y, noise)
        x_adv, rows, marked = self._ascended(model, samples)
        doubtful = rows[marked | _drawn(noise[rows], self.audit)]
        if len(doubtful):
            x_adv[doubtful] = self._full().perturb(model, *samples.pick(doubtful))
        return x_adv

    def _ascended(self, model: nn.Module, samples: Samples) -> tuple[Tensor, Tensor, Tensor]:
        """The images of the samples that fall, the rows of those that stand, and which of these are marked."""
        x, y, _ = samples
        with torch.no_grad():
            logits = model(x)
        targets = ranked(logits)
        x_adv, rows = x.clone(), torch.arange(len(x), device=x.device)
        promise, highest = torch.zeros_like(logits[:, 0]), margin(logits, y)
        gap = -highest
        for number in range(min(self.targets, targets.shape[1] + 1)):
            if not len(rows):
                break
            target = targets[rows, number - 1] if number else None
            ascent = Ascent(model, samples.pick(rows), target, norm=self.norm, eps=self.eps, steps=self.steps)
            found = searched(ascent, room=len(rows))
            highest[rows] = torch.maximum(highest[rows], ascent.highest)
            if not number:
                promise[rows] = ascent.promise
            fooled = judged(model, found, y[rows])
            x_adv[rows[fooled]] = found.images[fooled]
            rows = rows[~fooled]
        if not len(rows):
            return x_adv, rows, torch.zeros_like(rows, dtype=torch.bool)
        gap, promise, gain = gap[rows], promise[rows], highest[rows] + gap[rows]
        marked = (promise < _FLAT * gap) | (gain < _KEPT * torch.minimum(promise, gap))
        return x_adv, rows, marked | self._odd(model, samples.pick(rows), highest[rows])

    def _odd(self, model: nn.Module, samples: Samples, highest: Tensor) -> Tensor:
        """Where the model answers the same image differently, or a random corner is as bad as ``highest``."""
        x, y, noise = samples
        with torch.no_grad():
            odd = (model(x) != model(x)).any(1)
            for number in range(_CORNERS):
                corner = geometry.ascent(
                    noise.stream(_AUDIT).uniform(tuple(x.shape[1:]), draw=number + 1) - 0.5, self.norm
                )
                odd |= margin(model((x + self.eps * corner).clamp(0.0, 1.0)), y) >= highest
        return odd


@dataclass
class Ascending(Rows):
    sample: Tensor
    x_adv: Tensor


class Ascent(Search[Ascending]):
    """Climb a margin from the natural image, by steps of 2ε at first and of none at last, along a cosine.

    Args:
        target: (N,), the class to go for; None: whichever is nearest.

    Attributes:
        highest: (N,), the largest margin to any class on the way.
        promise: (N,), by how much a step of ε would raise it at the natural image, were the model linear.
    """

    def __init__(
        self, model: nn.Module, samples: Samples, target: Tensor | None, *, norm: Norm, eps: float, steps: int
    ) -> None:
        super().__init__(samples, [0], steps + 1)
        self.model, self.target, self.norm, self.eps = model, target, norm, eps
        self.highest = samples.x.new_full((len(samples.y),), -torch.inf)
        self.promise = torch.zeros_like(self.highest)
        self.sizes = self.eps * (1.0 + (torch.arange(steps + 1) * math.pi / steps).cos())

    def begin(self, sample: Tensor, start: Tensor) -> Ascending:
        return Ascending(sample, self.samples.x[sample])

    def step(self, state: Ascending, age: Tensor) -> tuple[Ascending, Tensor, Tensor]:
        sample, x_adv = state.sample, state.x_adv.detach()
        x, y = self.samples.x[sample], self.samples.y[sample]
        last = bool((age == self.steps - 1).all())
        x_adv.requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            logits = self.model(x_adv)
            widest = margin(logits, y)
            value = widest if self.target is None else targeted_margin(logits, y, self.target[sample])
        self.highest[sample] = torch.maximum(self.highest[sample], widest.detach())
        fooled = logits.detach().argmax(1) != y
        if last:
            return state, x_adv, fooled
        (gradient,) = torch.autograd.grad(value.sum(), x_adv)
        x_adv = x_adv.detach()
        if bool((age == 0).any()):
            slope = torch.linalg.vector_norm(gradient.flatten(1), ord=1 if self.norm == "linf" else 2, dim=1)
            new = (age == 0).to(x.device)
            self.promise[sample[new]] = self.eps * slope[new]
        size = per_sample(self.sizes[age].to(x), x)
        moved = x_adv + size * geometry.ascent(gradient, self.norm)
        moved = (x + geometry.project(moved - x, self.norm, self.eps)).clamp(0.0, 1.0)
        return Ascending(sample, moved), x_adv, fooled


def audited(ids: Tensor, share: float, seed: int) -> Tensor:
    """Which samples are in the audit if they stand: (N,) int64 ids -> (N,) bool, of ``share`` on average."""
    return _drawn(Noise.for_samples(ids, seed, AutoAttack.__name__), share)


def _drawn(noise: Noise, share: float) -> Tensor:
    return noise.stream(_AUDIT).uniform((1,))[:, 0] < share


class Missed(NamedTuple):
    """What the cheap members may have missed among the samples that were not audited."""

    expected: float
    """Samples, if the audit's share of falls holds for the others."""
    at_most: float
    """Samples, with the confidence asked for."""


def missed_bound(survivors: int, audited: int, fallen: int, confidence: float = 0.95) -> Missed:
    """How many samples that now stand AutoAttack would break: Clopper and Pearson 1934, one-sided.

    Args:
        survivors: samples that nothing marked and that the cheap members left, those in the audit included.
        audited: how many of these went through AutoAttack.
        fallen: how many of these it broke.

    Raises:
        ValueError: the three are not counts that fit.
    """
    from scipy.special import betaincinv  # type: ignore[import-untyped]

    if not 0 <= fallen <= audited <= survivors:
        raise ValueError(
            f"expected 0 <= fallen <= audited <= survivors, got {fallen}, {audited} and {survivors}"
        )
    others = survivors - audited
    if not audited:
        return Missed(math.nan, float(others))
    share = 1.0 if fallen == audited else float(betaincinv(fallen + 1, audited - fallen, confidence))
    return Missed(others * fallen / audited, min(max(survivors * share - fallen, 0.0), float(others)))
