"""MagNet's auto-encoders: Meng and Chen 2017, https://arxiv.org/abs/1705.09064, tables 1 and 2."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustness_bench.defenses.detectors.base import Images, Part

_AT_ONCE = 500


class AutoEncoderNetwork(nn.Module):
    """3×3 convolutions, each followed by a sigmoid, the last one too: [0, 1] in, [0, 1] out."""

    def __init__(self, channels: int, filters: int, pooled: bool) -> None:
        super().__init__()
        inner = [nn.Conv2d(filters, filters, 3, padding=1) for _ in range(3 if pooled else 1)]
        self.first = nn.Conv2d(channels, filters, 3, padding=1)
        self.inner = nn.ModuleList(inner)
        self.last = nn.Conv2d(filters, channels, 3, padding=1)
        self.pooled = pooled
        for layer in (self.first, *inner, self.last):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.activations(x)[-1]

    def activations(self, x: Tensor) -> list[Tensor]:
        """The output of every convolution, the reconstruction (N, C, H, W) last."""
        found = [self.first(x).sigmoid()]
        below = functional.avg_pool2d(found[0], 2) if self.pooled else found[0]
        for depth, layer in enumerate(self.inner):
            if self.pooled and depth == 2:
                below = functional.interpolate(below, size=x.shape[2:], mode="nearest")
            below = layer(below).sigmoid()
            found.append(below)
        return [*found, self.last(below).sigmoid()]


@dataclass(frozen=True, kw_only=True)
class AutoEncoder(Part):
    """Mean squared error from a noisy image to the clean one.

    Args:
        filters: of every convolution but the last (3 by default, 256 in the robust variant of Lu et al.).
        pooled: five convolutions with a 2×2 average pool after the first and upsampling before the
            fourth (MNIST's detector I and reformer); otherwise three convolutions.
        noise: standard deviation of the Gaussian noise, drawn once per training image.
        activity: weight of the sum of squared activations of all convolutions over a batch.
    """

    filters: int
    pooled: bool
    noise: float
    activity: float

    def build(self, channels: int, size: int, classes: int) -> AutoEncoderNetwork:
        return AutoEncoderNetwork(channels, self.filters, self.pooled)

    def terms(self, network: nn.Module, images: Images) -> dict[str, Tensor]:
        assert isinstance(network, AutoEncoderNetwork)
        x = images.x
        noisy = (x + self.noise * images.fixed.normal(tuple(x.shape[1:]))).clamp(0, 1)
        found = network.activations(noisy)
        activity = torch.stack([each.square().sum() for each in found]).sum()
        return {"error": functional.mse_loss(found[-1], x), "activity": self.activity * activity}

    @torch.no_grad()
    def figures(self, network: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
        total = sum(float((network(part) - part).square().sum()) for part in x.split(_AT_ONCE))
        return {"held_out_error": total / x.numel()}
