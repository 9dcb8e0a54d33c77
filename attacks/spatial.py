"""Spatially transformed images: Xiao et al. 2018, https://arxiv.org/abs/1801.02612."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustness_bench.attacks.base import Attack
from robustness_bench.attacks.numerics.adam import Adam
from robustness_bench.attacks.numerics.geometry import mended, per_sample
from robustness_bench.attacks.numerics.losses import margin
from robustness_bench.attacks.numerics.noise import Noise

_ROUNDING = 0.1  # pixels: below this length the optimised flow loss is smooth


@dataclass(frozen=True, kw_only=True)
class STA(Attack):
    """Move the pixels instead of changing them: a smooth flow field that makes the class change.

    Minimises max(z_y - max_{k≠y} z_k, -confidence) + tau · L_flow over the flow (equations 2 to 4) and
    keeps, of all iterates that fool the model, the one of the smallest L_flow. It has no ε: ``norm``
    only says in which threat model's tables it appears, and the distance it reports is incidental.

    Args:
        steps: Adam steps.
        step_size: Adam's first learning rate in pixels; it falls linearly to 0.
        tau: weight of the flow loss. The paper's 0.05 can make the natural image a minimum; a smaller
            weight fools more.
        confidence: margin κ in logits that an adversarial image must exceed.

    Differs from the paper: Adam, separately for each sample, in place of L-BFGS with line search. Its
    second moment is the mean over a sample's flow; per element, one whose gradient is rounding noise would
    move as far as any other. Its step size falls, since steps of constant size leave the flow as rough as
    the steps are long. The optimised L_flow is smoothed at 0, where the equation's has a kink; iterates are
    compared by the equation's L_flow.
    """

    steps: int = 100
    step_size: float = 0.5
    tau: float = 0.05
    confidence: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or not 0 < self.step_size < math.inf:
            raise ValueError(f"steps and step_size must be positive and finite, got {self!r}")
        if not 0 <= self.tau < math.inf or not 0 <= self.confidence < math.inf:
            raise ValueError(f"tau and confidence must be at least 0 and finite, got {self!r}")

    def passes(self, classes: int) -> tuple[int, int]:
        return self.steps + 1, self.steps

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        best = x.clone()
        smallest = x.new_full((len(x),), torch.inf)
        descent = Adam(x.new_zeros(len(x), 2, *x.shape[2:]))
        for step in range(self.steps + 1):
            last = step == self.steps
            flow = descent.w.requires_grad_(not last)
            x_adv = warp(x, flow)
            margins, cost = margin(model(x_adv), y), flow_loss(flow.detach())
            smoother = (margins > self.confidence) & (cost < smallest)
            best[smoother], smallest[smoother] = x_adv.detach()[smoother], cost[smoother]
            if last:
                break
            loss = (-margins).clamp_min(-self.confidence) + self.tau * flow_loss(flow, _ROUNDING)
            (gradient,) = torch.autograd.grad(loss.sum(), flow)
            gradient = mended(gradient)  # sampling at NaN may crash the process
            squares = per_sample(gradient.square().flatten(1).mean(1), gradient)
            descent.step(gradient, self.step_size * (1.0 - step / self.steps), squares)
        return best


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Each pixel fetched bilinearly from where its flow points (equation 1): (N, C, H, W) in [0, 1].

    Args:
        flow: (N, 2, H, W) in pixels, the displacement along the columns (Δu) and along the rows (Δv) of
            the place that a pixel's value comes from. Beyond the border the border pixel continues.
    """
    height, width = x.shape[2:]
    u = torch.arange(width, device=x.device) + flow[:, 0]
    v = torch.arange(height, device=x.device)[:, None] + flow[:, 1]
    # grid_sample counts from -1 at the first pixel to 1 at the last; an axis of one pixel has no scale.
    grid = torch.stack([2.0 * u / max(width - 1, 1) - 1.0, 2.0 * v / max(height - 1, 1) - 1.0], dim=-1)
    moved = functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return moved.clamp(0.0, 1.0)  # rounding only: the weights are a convex combination


def flow_loss(flow: Tensor, rounding: float = 0.0) -> Tensor:
    """How unevenly the flow moves neighbouring pixels (equation 4): (N, 2, H, W) -> (N,).

    Σ_p Σ_{q ∈ N(p)} √(‖Δu(p) - Δu(q)‖² + ‖Δv(p) - Δv(q)‖²) over the up to four neighbours q of p, so
    that every pair counts twice.

    Args:
        rounding: a length r in pixels: each root √s becomes √(s + r²) - r, which has a gradient at 0.
    """

    def lengths(difference: Tensor) -> Tensor:
        rooted = (difference.square().sum(1) + rounding**2).sqrt() - rounding
        return rooted.flatten(1).sum(1)

    return 2.0 * (lengths(flow.diff(dim=2)) + lengths(flow.diff(dim=3)))
