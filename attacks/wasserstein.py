"""Wasserstein attacks: Wu, Wang, Yu 2020, "Stronger and Faster Wasserstein Adversarial Attacks".

https://arxiv.org/abs/2008.02883: algorithm 1 with projected gradient (section 4.1) or the Frank–Wolfe
method (section 4.2).
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import Attack
from robustness_bench.attacks.numerics import transport
from robustness_bench.attacks.numerics.geometry import per_sample
from robustness_bench.attacks.numerics.losses import LOSSES, LossName
from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.attacks.numerics.transport import Ball

Method = Literal["frank-wolfe", "projected-gradient"]
Box = Literal["clip", "clamp", "project"]


@dataclass(frozen=True, kw_only=True)
class Wasserstein(Attack):
    """Climb a loss over the transport plans that start from the image and stay within a budget.

    The image a plan makes is its column sums, so that the gradient on a plan's entry is the image's
    gradient at the entry's destination. The ball is not that of a norm; ``norm`` only says in which threat
    model's tables the attack appears.

    Args:
        eps: budget, Σ mass × distance, as a share of the image's mass; distance in pixels.
        loss: "log-odds" (the direction of the paper's cross-entropy, at any scale of the logits), "ce"
            (that itself), "margin" or "dlr".
        steps: number of plans tried besides the natural one.
        method: "frank-wolfe" mixes 2/(t+2) of the best plan for the gradient into the plan, t = 0, 1, …;
            "projected-gradient" adds the gradient and returns to the nearest plan.
        window: side k of the window inside which a pixel's mass may move.
        gamma: Frank–Wolfe's entropic smoothing; the gradient's largest magnitude is 1.
        step_size: projected gradient's step; the gradient's largest magnitude is 1.
        bisections: refinements of the bracket around the budget's multiplier, per step.
        box: what happens where more mass arrives than the 1 that a pixel can hold.
            "clip": the loop climbs the image as it is, and clips it for the result;
            "clamp": the model sees the clipped image at every step;
            "project": only plans whose image is inside the box are tried.
        early_stop: stop on a sample as soon as it is fooled. Without it every step is taken and the
            image with the highest loss is returned.

    In every mode the returned and judged image is inside the box. Clipping removes mass: a clipped image
    may lie outside the transport budget, as in the paper. Only "project" respects both.

    Memory: about six tensors of 4·N·C·H·W·k² bytes.

    Differs from the paper: the budget is kept to rounding by each image, not to a tolerance by a batch;
    a row's projection uses Newton's method instead of sorting; "project" puts
    the box into every step, where the authors project on it once, afterwards, or not at all; the best
    iterate is returned. The rest of the loop, step sizes and start included, is theirs.
    """

    eps: float
    loss: LossName = "log-odds"
    steps: int = 40
    method: Method = "frank-wolfe"
    window: int = 5
    gamma: float = 1e-3
    step_size: float = 0.1
    bisections: int = 15
    box: Box = "clamp"
    early_stop: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eps < math.inf:
            raise ValueError(f"eps must be finite and at least 0, got {self.eps}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {get_args(Method)}, got {self.method!r}")
        if self.box not in get_args(Box):
            raise ValueError(f"box must be one of {get_args(Box)}, got {self.box!r}")
        for name, least in (("steps", 1), ("window", 2), ("bisections", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("gamma", "step_size"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and positive, got {getattr(self, name)}")

    def passes(self, classes: int) -> tuple[int, int]:
        judging = self.steps if self.box == "clip" else 0
        return self.steps + 1 + judging, self.steps

    def for_transfer(self) -> "Wasserstein":
        return dataclasses.replace(self, early_stop=False)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        x = x.contiguous()
        best, best_loss = x.clone(), x.new_full((len(x),), -torch.inf)
        rows = torch.arange(len(x), device=x.device)  # the samples still under attack
        ball = Ball.around(x, self.eps, self.window)
        plan = transport.staying(ball)
        for step in range(self.steps + 1):
            if not len(rows):
                break
            last = step == self.steps
            moved = transport.arrivals(plan, ball.window)
            x_adv = moved.clamp(0.0, 1.0)
            if not last:
                logits, gradient = self._climb(model, moved, x_adv, y[rows])
            if last or self.box == "clip":
                with torch.no_grad():
                    logits = model(x_adv)
            loss = LOSSES[self.loss](logits, y[rows])
            if self.early_stop:
                # A fooled sample gets infinite loss, so that no later image replaces it.
                loss = loss.masked_fill(logits.argmax(1) != y[rows], torch.inf)
            better = loss > best_loss[rows]
            best[rows[better]] = x_adv.detach()[better]
            best_loss[rows] = torch.maximum(best_loss[rows], loss)
            if last:
                break
            going = loss < torch.inf
            if not going.all():
                rows, plan, gradient, ball = rows[going], plan[going], gradient[going], ball[going]
            plan = self._move(plan, _scaled(gradient), ball, step)
        return best

    def _climb(self, model: nn.Module, moved: Tensor, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the climbed image's logits, and the gradient of their loss by the image ``moved``."""
        shown = (moved if self.box == "clip" else x_adv).requires_grad_()
        logits = model(shown)
        loss = LOSSES[self.loss](logits, y).sum()
        (gradient,) = torch.autograd.grad(loss, shown)
        if self.box != "clip":
            # The clamp passes no gradient where a pixel is overfull by more than rounding.
            gradient = gradient.masked_fill(moved > 1.0 + transport.BOX_SLACK, 0.0)
        return logits.detach(), gradient

    def _move(self, plan: Tensor, gradient: Tensor, ball: Ball, step: int) -> Tensor:
        """Return the next plan; overwrites this one."""
        inside, bisections = self.box == "project", self.bisections
        if self.method == "frank-wolfe":
            oracle = transport.best_plan_in_box if inside else transport.best_plan
            target = oracle(gradient, ball, gamma=self.gamma, bisections=bisections)
            return plan.lerp_(target, 2.0 / (step + 2.0))
        projection = transport.nearest_plan_in_box if inside else transport.nearest_plan
        plan.add_(transport.gather(gradient, ball.window), alpha=self.step_size)
        return projection(plan, ball, bisections=bisections)


def _scaled(gradient: Tensor) -> Tensor:
    """Divide each sample's gradient by its largest magnitude; a zero gradient stays zero."""
    largest = gradient.flatten(1).abs().amax(1)
    return gradient / per_sample(largest.clamp_min(torch.finfo(gradient.dtype).tiny), gradient)
