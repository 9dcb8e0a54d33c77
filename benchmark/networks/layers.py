"""Layers that the architectures share, and several networks as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """The model's first layer: [0, 1] pixels to zero mean and unit variance per channel.

    It is part of the model so that everything outside, above all attacks and budgets, works in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Resize(nn.Module):
    """Images (N, C, H, W) to (N, C, size, size), with antialiasing; differentiable, not clamped to [0, 1].

    Args:
        interpolation: "bicubic"; any other is bilinear.
    """

    def __init__(self, size: int, interpolation: str) -> None:
        super().__init__()
        self.size = size
        self.mode = "bicubic" if interpolation == "bicubic" else "bilinear"

    def forward(self, x: Tensor) -> Tensor:
        size = (self.size, self.size)
        return nn.functional.interpolate(x, size, mode=self.mode, align_corners=False, antialias=True)


def initialize(model: nn.Module) -> None:
    """Initialise by He et al. 2015 (fan out) for convolutions, with ones and zeros for batch norm."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class MeanLogits(nn.Module):
    """The mean of its members' logits, of which the attacked image must fool all.

    Ensembles as surrogates: Liu et al. 2017, https://arxiv.org/abs/1611.02770, section 4.2, who average
    probabilities; logits as in Dong et al. 2018, https://arxiv.org/abs/1710.06081, equation 8, equal weights.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)
