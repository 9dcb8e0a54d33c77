"""Gradients in lower precision, and the float32 that has the last word.

A pass in bf16 costs a fraction of one in float32, and its gradient points nearly the same way. Whether an
image fools the model it does not tell: a class that leads by less than bf16's rounding is one by chance. So
an attack asks float32 about each success, and takes the last steps of what still stands in float32.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bf16"]
_LAST = 0.25  # of the steps, that what still stands takes in float32


class Lowered(nn.Module):
    """The model with gradients from bf16 (torch's autocast); its logits and all other passes are float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        lower = x.requires_grad and torch.is_grad_enabled()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=lower):
            logits: Tensor = self.model(x)
        return logits.float()


def check_precision(precision: str) -> None:
    """Raise ValueError unless it is a ``Precision``."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")


def lowered_steps(precision: Precision, steps: int) -> int:
    """How many of an ascent's steps, the first ones, take their gradients in lower precision."""
    return 0 if precision == "float32" else steps - math.ceil(_LAST * steps)


class ByAge:
    """The model of many searches in one batch, of which the young ones take lower gradients.

    Args:
        low: steps from which on a search takes float32.
    """

    def __init__(self, model: nn.Module, low: int) -> None:
        self.model, self.lowered, self.low = model, Lowered(model), low

    def __call__(self, x: Tensor, age: Tensor) -> Tensor:
        """Return float32 logits: (M, …), (M,) int64 on the CPU -> (M, K)."""
        young = age < self.low
        if not young.any():
            whole: Tensor = self.model(x)
            return whole
        if young.all():
            lower: Tensor = self.lowered(x)
            return lower
        parts = [each.nonzero()[:, 0].to(x.device) for each in (young, ~young)]
        back = torch.cat(parts).argsort()
        return torch.cat([self.lowered(x[parts[0]]), self.model(x[parts[1]])])[back]

    def confirmed(self, logits: Tensor, x_adv: Tensor, y: Tensor, age: Tensor) -> Tensor:
        """Which of the images fool the model, by ``logits`` and, where those are lower, in float32: (M,)."""
        fooled = logits.detach().argmax(1) != y
        young = age < self.low
        if not young.any():
            return fooled
        young = young.to(x_adv.device)
        return (fooled & ~young) | confirmed(self.model, x_adv, y, fooled & young)


def confirmed(model: nn.Module, x_adv: Tensor, y: Tensor, claimed: Tensor) -> Tensor:
    """Which of the images that are claimed to fool do so in float32: (N, …), (N,), (N,) bool -> (N,) bool."""
    fooled = claimed.clone()
    if claimed.any():
        with torch.no_grad():
            fooled[claimed] = model(x_adv[claimed]).argmax(1) != y[claimed]
    return fooled
