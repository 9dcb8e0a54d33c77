"""The loop that transfer attacks share: ascent with momentum along a gradient that each makes its own way."""

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import BudgetAttack, predict
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.losses import LOSSES, LossName, check_ascent
from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.attacks.ti_dim import mean_normalised

Memory = TypeVar("Memory")


@dataclass(frozen=True, kw_only=True)
class MomentumAttack(BudgetAttack, Generic[Memory]):
    """MI-FGSM, Dong et al. 2018, algorithm 1, https://arxiv.org/abs/1710.06081, on another gradient.

    Args:
        loss: "log-odds" (the direction of the cross-entropy, at any scale of the logits), "ce", "margin" or
            "dlr".
        steps: steps of ascent, from the natural image.
        rel_step_size: step size as a fraction of ``eps``.
        momentum: share of the accumulated gradient that a step keeps; may exceed 1.
        early_stop: stop on a sample as soon as it is fooled, which costs a forward pass per step. Without
            it every step is taken and the last image is returned.
    """

    loss: LossName = "log-odds"
    steps: int = 10
    rel_step_size: float = 0.1
    momentum: float = 1.0
    early_stop: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ascent(self.loss, momentum=self.momentum, steps=self.steps, rel_step_size=self.rel_step_size)

    @property
    @abstractmethod
    def gradients(self) -> int:
        """The gradients that one step averages."""

    @abstractmethod
    def memory(self, x: Tensor) -> Memory:
        """Return what is carried from one step to the next besides the momentum, for images ``x``."""

    @abstractmethod
    def direction(
        self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, step: int, memory: Memory, rows: Tensor
    ) -> Tensor:
        """Return the ascent direction at ``x``, the samples ``rows`` of all, at any scale."""

    def passes(self, classes: int) -> tuple[int, int]:
        return self.steps * (self.gradients + self.early_stop), self.steps * self.gradients

    def for_transfer(self) -> "MomentumAttack[Memory]":
        return dataclasses.replace(self, early_stop=False)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        x_adv, velocity, memory = x.clone(), torch.zeros_like(x), self.memory(x)
        rows = torch.arange(len(x), device=x.device)  # the samples still under attack
        for step in range(self.steps):
            if self.early_stop:
                rows = rows[predict(model, x_adv[rows]) == y[rows]]
            if not len(rows):
                break
            found = self.direction(model, x_adv[rows], y[rows], noise[rows], step, memory, rows)
            velocity[rows] = self.momentum * velocity[rows] + mean_normalised(found)
            step_size = self.rel_step_size * self.eps
            x_adv[rows] = geometry.climb(x[rows], x_adv[rows], velocity[rows], self.norm, self.eps, step_size)
        return x_adv

    def ascent(self, model: nn.Module, image: Tensor, seen: Tensor, y: Tensor) -> Tensor:
        """Return the gradient with respect to ``image`` of the loss of ``seen``, which is made of it."""
        loss = LOSSES[self.loss](model(seen), y).sum()
        (gradient,) = torch.autograd.grad(loss, image)
        return gradient
