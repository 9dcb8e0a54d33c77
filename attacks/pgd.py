"""Projected gradient descent: Madry et al. 2018, https://arxiv.org/abs/1706.06083, equation 2."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import BudgetAttack
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.device import steps_unseen
from robustness_bench.attacks.numerics.geometry import per_sample
from robustness_bench.attacks.numerics.losses import LOSSES, LossName, check_ascent
from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.attacks.numerics.precision import (
    Lowered,
    Precision,
    check_precision,
    confirmed,
    lowered_steps,
)
from robustness_bench.attacks.searches.pool import Rows


@dataclass(frozen=True, kw_only=True)
class PGD(BudgetAttack):
    """Climb a loss inside the ball and the box, from a random point of both.

    Args:
        loss: "log-odds" (the direction of the paper's cross-entropy, at any scale of the logits), "ce"
            (that itself), "margin" (Carlini and Wagner 2017, f6) or "dlr".
        steps: gradient steps per start.
        rel_step_size: step size as a fraction of ``eps``.
        restarts: number of starts; a sample is not attacked again after the start that fools it.
        random_start: uniform in the ball; False starts at the natural image.
        early_stop: stop on a sample as soon as it is fooled. Without it every step is taken and the
            image with the highest loss is returned, which transfers better.
        precision: of the gradients of the first three quarters of the steps (``numerics.precision``).
    """

    loss: LossName = "log-odds"
    steps: int = 40
    rel_step_size: float = 0.25
    restarts: int = 1
    random_start: bool = True
    early_stop: bool = True
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_precision(self.precision)
        check_ascent(self.loss, steps=self.steps, restarts=self.restarts, rel_step_size=self.rel_step_size)

    def passes(self, classes: int) -> tuple[int, int]:
        return self.restarts * (self.steps + 1), self.restarts * self.steps

    def for_transfer(self) -> "PGD":
        return dataclasses.replace(self, early_stop=False)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        best = x.clone()
        best_loss = x.new_full((len(x),), -torch.inf)
        lowered, low = Lowered(model), lowered_steps(self.precision, self.steps)
        unseen, step_size = steps_unseen(x.device), self.rel_step_size * self.eps
        for restart in range(self.restarts):
            start = x.clone()
            if self.random_start:
                start = geometry.random_start(noise, x, self.norm, self.eps, restart)
            rows = torch.arange(len(x), device=x.device)  # the samples still under attack
            if self.early_stop and restart > 0:
                rows = rows[best_loss < torch.inf]
            climbing = Climbing(x[rows], y[rows], start[rows], best[rows], best_loss[rows])
            for step in range(self.steps + 1):
                if not len(rows):
                    break
                at, last, looks = climbing, step == self.steps, (step + 1) % unseen == 0
                x_adv = at.x_adv.detach().requires_grad_(not last)
                logits = (lowered if step < low else model)(x_adv)
                loss = LOSSES[self.loss](logits, at.y)
                value = loss.detach()
                if self.early_stop:
                    # A fooled sample gets infinite loss, so that no later image replaces it.
                    fooled = logits.argmax(1) != at.y
                    if step < low:  # float32 is asked at a look alone: asking waits for the device
                        fooled = confirmed(model, x_adv, at.y, fooled) if looks else fooled & False
                    value = value.masked_fill(fooled, torch.inf)
                at.best = torch.where(per_sample(value > at.best_loss, x), x_adv.detach(), at.best)
                at.best_loss = torch.maximum(at.best_loss, value)
                if last:
                    break
                (gradient,) = torch.autograd.grad(loss.sum(), x_adv)
                at.x_adv = geometry.climb(at.x, x_adv.detach(), gradient, self.norm, self.eps, step_size)
                if self.early_stop and looks:
                    going = at.best_loss < torch.inf
                    if not going.all():
                        best[rows], best_loss[rows] = at.best, at.best_loss
                        rows, climbing = rows[going], at.pick(going)
            best[rows], best_loss[rows] = climbing.best, climbing.best_loss
        return best


@dataclass
class Climbing(Rows):
    """Samples under attack from one start."""

    x: Tensor
    y: Tensor
    x_adv: Tensor
    best: Tensor
    """The image of the highest loss, from earlier starts too."""
    best_loss: Tensor
