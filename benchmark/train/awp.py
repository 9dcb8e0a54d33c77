"""Adversarial weight perturbation: the loss is minimised at the worst weights nearby."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Terms = Callable[[], dict[str, Tensor]]


class WeightPerturbation:
    """AWP, Wu et al. 2020, https://arxiv.org/abs/2004.05884, equations 7 to 10 with one step.

    Every weight tensor w of two or more dimensions (biases and batch norm stay) moves by γ‖w‖ along its
    gradient g of the batch's loss, δ = γ ‖w‖ g / ‖g‖. The step is taken from w with the gradient at w + δ. It
    costs a forward and a backward pass of the network per step, and crafts nothing anew.

    Differs from the authors' code, which updates w + δ and takes δ off again: weight decay is that of w here.

    Args:
        optimizer: of ``module``; before each of its steps the weights are put back.
        gamma: γ, the size of the perturbation relative to the weights; 5e-3 in the paper.
    """

    def __init__(self, module: nn.Module, optimizer: Optimizer, gamma: float) -> None:
        self._module, self._gamma = module, gamma
        self._weights = [each for each in module.parameters() if each.dim() > 1]
        self._before: list[Tensor] = []
        optimizer.register_step_pre_hook(self._restore)

    def __call__(self, terms: Terms) -> dict[str, Tensor]:
        """Move the weights uphill on the sum of ``terms()``, and return ``terms()`` there."""
        buffers = [each.clone() for each in self._module.buffers()]
        found = terms()
        if not found:
            return found
        self._module.zero_grad(set_to_none=True)
        torch.stack(list(found.values())).sum().backward()
        with torch.no_grad():
            self._before = [each.clone() for each in self._weights]
            for weight in self._weights:
                if weight.grad is not None:
                    length = weight.norm() / weight.grad.norm().clamp_min(1e-12)
                    weight.add_(weight.grad * (self._gamma * length))
            # Batch norm has seen the batch once when the step is taken.
            for buffer, before in zip(self._module.buffers(), buffers, strict=True):
                buffer.copy_(before)
        return terms()

    @torch.no_grad()
    def _restore(self, *_: Any) -> None:
        for weight, before in zip(self._weights, self._before, strict=False):
            weight.copy_(before)
        self._before = []
