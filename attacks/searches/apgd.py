"""APGD: Croce and Hein 2020, https://arxiv.org/abs/2003.01690, algorithm 1 and section 4."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm, per_sample
from robustness_bench.attacks.numerics.precision import ByAge, Precision, lowered_steps
from robustness_bench.attacks.searches.pool import Rows, Samples, Search

_MOMENTUM = 0.75  # the share of the new step, α
_ENOUGH = 0.75  # of a period's steps that have to raise the loss, ρ
_FIRST_PERIOD, _SHORTER, _SHORTEST = 0.22, 0.03, 0.06  # as shares of all steps

TargetedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(M, K) logits, (M,) labels, (M,) target classes -> (M,) values to climb."""


@dataclass
class Climb(Rows):
    """Where M climbs are; ``best`` is the point of the highest loss, ``previous`` the last one's loss."""

    x: Tensor
    y: Tensor
    target: Tensor
    x_adv: Tensor
    x_before: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    previous: Tensor
    gains: Tensor
    """Steps of this period that raised the loss."""
    checked: Tensor
    """The best loss at the last check."""
    halved: Tensor
    """Whether the last check halved the step size."""
    step_size: Tensor


class APGD(Search[Climb]):
    """Climb a loss by momentum steps, halved where they no longer raise it.

    Args:
        model: takes gradients to the image.
        targets: (N, starts), the class each start goes for, which only the loss knows of.
        steps: gradient steps of each start.
        averaged: gradients taken of each point, for models that draw.
        precision: of the gradients of the first three quarters of the steps (``numerics.precision``).

    The numbers are those of the authors' code. Like it, the very first step counts as a gain where the
    loss it reaches is above 0, not above the start's.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        streams: Sequence[int],
        *,
        norm: Norm,
        eps: float,
        loss: TargetedLoss,
        targets: Tensor | None = None,
        steps: int = 100,
        averaged: int = 1,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(samples, streams, steps + 1)  # the start is looked at too
        self.model, self.norm, self.eps, self.loss, self.averaged = model, norm, eps, loss, averaged
        self.targets = samples.y[:, None].expand(-1, self.starts) if targets is None else targets
        self.periods = periods(steps)
        self.seen = ByAge(model, lowered_steps(precision, steps))

    def begin(self, sample: Tensor, start: Tensor) -> Climb:
        x, y, noise = self.picked(sample, start)
        shape = tuple(x.shape[1:])
        if self.norm == "linf":
            direction = 2.0 * noise.uniform(shape, draw=1) - 1.0
            direction = direction / (per_sample(geometry.size(direction, "linf"), x) + 1e-12)
        else:
            direction = geometry.ascent(noise.normal(shape, draw=1), "l2")
        x_adv = (x + self.eps * direction).clamp(0.0, 1.0)
        nothing, lowest = torch.zeros_like(x), x.new_full((len(x),), -torch.inf)
        none = x.new_zeros(len(x))
        return Climb(
            x=x,
            y=y,
            target=self.targets[sample, start],
            x_adv=x_adv,
            x_before=x_adv,
            gradient=nothing,
            best=x_adv,
            best_gradient=nothing,
            best_loss=lowest,
            previous=none,
            gains=none,
            checked=lowest,
            halved=torch.ones_like(y, dtype=torch.bool),
            step_size=none + 2.0 * self.eps,
        )

    def step(self, state: Climb, age: Tensor) -> tuple[Climb, Tensor, Tensor]:
        s, new = state, (age == 0).to(state.x.device)
        some_new = bool((age == 0).any())
        x_adv = s.x_adv
        if not bool((age == 0).all()):
            share = torch.where(age <= 1, 1.0, _MOMENTUM).to(x_adv)
            x_adv = self._moved(s, per_sample(share, s.x))
            if some_new:
                x_adv = torch.where(per_sample(new, s.x), s.x_adv, x_adv)
        value, gradient, fooled = self._looked(x_adv, s, age)

        gains, checked = s.gains + (value > s.previous), s.checked
        previous = value
        if some_new:
            # The first step is held against a loss of 0.
            gains, previous = gains.masked_fill(new, 0.0), value.masked_fill(new, 0.0)
            checked = torch.where(new, value, checked)
        better = value > s.best_loss
        wide = per_sample(better, x_adv)
        after = dataclasses.replace(
            s,
            x_adv=x_adv,
            x_before=s.x_adv,
            gradient=gradient,
            best=torch.where(wide, x_adv, s.best),
            best_gradient=torch.where(wide, gradient, s.best_gradient),
            best_loss=torch.where(better, value, s.best_loss),
            previous=previous,
            gains=gains,
            checked=checked,
        )
        period = self.periods[age]
        return (_checked(after, period) if bool((period > 0).any()) else after), x_adv, fooled

    def _moved(self, s: Climb, share: Tensor) -> Tensor:
        """A step up, of which the momentum keeps a part of the one before."""
        step = per_sample(s.step_size, s.x) * geometry.ascent(s.gradient, self.norm)
        moved = self._back(s.x_adv + step, s.x)
        mixed = s.x_adv + (moved - s.x_adv) * share + (s.x_adv - s.x_before) * (1.0 - share)
        return self._back(mixed, s.x)

    def _back(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Into the ball and the box."""
        if self.norm == "linf":
            return x_adv.clamp(x - self.eps, x + self.eps).clamp_(0.0, 1.0)
        return (x + geometry.project(x_adv - x, "l2", self.eps)).clamp_(0.0, 1.0)

    def _looked(self, x_adv: Tensor, s: Climb, age: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, gradient, and whether the class is lost."""
        point = x_adv.detach().requires_grad_()
        gradients: list[Tensor] = []
        for _ in range(self.averaged):
            with torch.enable_grad():
                logits = self.seen(point, age)
                loss = self.loss(logits, s.y, s.target)
                gradients += torch.autograd.grad(loss.sum(), point)
        mean = torch.stack(gradients).mean(0) if self.averaged > 1 else gradients[0]
        return loss.detach(), mean, self.seen.confirmed(logits, x_adv, s.y, age)


def periods(steps: int) -> Tensor:
    """The length of the period that a step ends, else 0, for each step and the start: (steps + 1,)."""
    lengths = torch.zeros(steps + 1, dtype=torch.int64)
    period, end = max(int(_FIRST_PERIOD * steps), 1), 0
    while (end := end + period) <= steps:
        lengths[end] = period
        period = max(period - max(int(_SHORTER * steps), 1), max(int(_SHORTEST * steps), 1))
    return lengths


def _checked(s: Climb, period: Tensor) -> Climb:
    """Where a period ends without progress, go on from the best point by steps half as long."""
    length = period.to(s.x)
    due = length > 0
    oscillates = s.gains <= _ENOUGH * length
    stalls = ~s.halved & (s.checked >= s.best_loss)
    halve = due & (oscillates | stalls)
    wide = per_sample(halve, s.x)
    s.x_adv = torch.where(wide, s.best, s.x_adv)
    s.gradient = torch.where(wide, s.best_gradient, s.gradient)
    s.step_size = torch.where(halve, s.step_size / 2.0, s.step_size)
    s.halved = torch.where(due, halve, s.halved)
    s.checked = torch.where(due, s.best_loss, s.checked)
    s.gains = s.gains.masked_fill(due, 0.0)
    return s
