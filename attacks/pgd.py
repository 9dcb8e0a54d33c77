"""Projected gradient descent: Madry et al. 2018, https://arxiv.org/abs/1706.06083, equation 2."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import BudgetAttack
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.losses import LOSSES, LossName, check_ascent
from robustness_bench.attacks.numerics.noise import Noise


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
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    loss: LossName = "log-odds"
    steps: int = 40
    rel_step_size: float = 0.25
    restarts: int = 1
    random_start: bool = True
    early_stop: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ascent(self.loss, steps=self.steps, restarts=self.restarts, rel_step_size=self.rel_step_size)

    def passes(self, classes: int) -> tuple[int, int]:
        return self.restarts * (self.steps + 1), self.restarts * self.steps

    def for_transfer(self) -> "PGD":
        return dataclasses.replace(self, early_stop=False)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        best = x.clone()
        best_loss = x.new_full((len(x),), -torch.inf)
        for restart in range(self.restarts):
            start = x.clone()
            if self.random_start:
                start = geometry.random_start(noise, x, self.norm, self.eps, restart)
            rows = torch.arange(len(x), device=x.device)  # the samples still under attack
            if self.early_stop and restart > 0:
                rows = rows[best_loss < torch.inf]
            x_adv = start[rows]
            for step in range(self.steps + 1):
                if not len(rows):
                    break
                last = step == self.steps
                x_adv.requires_grad_(not last)
                logits = model(x_adv)
                loss = LOSSES[self.loss](logits, y[rows])
                value = loss.detach()
                if self.early_stop:
                    # A fooled sample gets infinite loss, so that no later image replaces it.
                    value = value.masked_fill(logits.argmax(1) != y[rows], torch.inf)
                better = value > best_loss[rows]
                best[rows[better]] = x_adv.detach()[better]
                best_loss[rows] = torch.maximum(best_loss[rows], value)
                if last:
                    break
                (gradient,) = torch.autograd.grad(loss.sum(), x_adv)
                going = value < torch.inf
                if not going.all():
                    rows, x_adv, gradient = rows[going], x_adv[going], gradient[going]
                step_size = self.rel_step_size * self.eps
                x_adv = geometry.climb(x[rows], x_adv.detach(), gradient, self.norm, self.eps, step_size)
        return best
