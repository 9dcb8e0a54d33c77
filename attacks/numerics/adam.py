"""Adam: Kingma and Ba 2015, https://arxiv.org/abs/1412.6980."""

import torch
from torch import Tensor

_DECAY_1, _DECAY_2, _TINY = 0.9, 0.999, 1e-8


class Adam:
    """Descent on each row of ``w`` (N, …) separately, so that rows can be dropped."""

    def __init__(self, w: Tensor) -> None:
        self.w, self.first, self.second, self.steps = w, torch.zeros_like(w), torch.zeros_like(w), 0

    def step(self, gradient: Tensor, size: float, squares: Tensor | None = None) -> None:
        """Move against the gradient, both like ``w``.

        Args:
            squares: what the second moment is of, that broadcasts over ``w``; the gradient's unless given.
        """
        squares = gradient.square() if squares is None else squares
        self.steps += 1
        self.first = _DECAY_1 * self.first + (1.0 - _DECAY_1) * gradient
        self.second = _DECAY_2 * self.second + (1.0 - _DECAY_2) * squares
        mean = self.first / (1.0 - _DECAY_1**self.steps)
        variance = self.second / (1.0 - _DECAY_2**self.steps)
        self.w = self.w.detach() - size * mean / (variance.sqrt() + _TINY)

    def keep(self, stay: Tensor) -> None:
        """Drop all rows but these: (N,) bool."""
        self.w, self.first, self.second = self.w[stay], self.first[stay], self.second[stay]
