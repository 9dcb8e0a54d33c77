"""The fast gradient sign method: Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572, section 4."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import BudgetAttack
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.losses import log_odds
from robustness_bench.attacks.numerics.noise import Noise


@dataclass(frozen=True, kw_only=True)
class FGSM(BudgetAttack):
    """One step along the cross-entropy's gradient, at any scale of the logits, from the natural image.

    Args:
        step: length of the step as a fraction of ``eps``.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    step: float = 1.0

    def passes(self, classes: int) -> tuple[int, int]:
        return 1, 1

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        x_adv = x.clone().requires_grad_()
        loss = log_odds(model(x_adv), y)
        (gradient,) = torch.autograd.grad(loss.sum(), x_adv)
        return geometry.climb(x, x, gradient, self.norm, self.eps, self.step * self.eps)
