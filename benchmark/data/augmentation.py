"""Random crop and flip of a whole batch on the device, keyed by sample."""

import torch
from torch import Tensor
from torch.nn import functional

from robustness_bench.attacks.numerics.noise import Noise

_PADDING = 4


def crop_flip(x: Tensor, noise: Noise) -> Tensor:
    """Shift by up to 4 pixels (zeros move in) and mirror half of the images: (N, C, H, W) -> same."""
    return _moved(x, noise.uniform((3,)))


def crop(x: Tensor, noise: Noise) -> Tensor:
    """Only shift by up to 4 pixels, for images that mean something else when mirrored, such as digits."""
    draws = noise.uniform((3,))
    draws[:, 2] = 1.0
    return _moved(x, draws)


def _moved(x: Tensor, draws: Tensor) -> Tensor:
    """Shift by the first two of three uniform draws (N, 3), mirror where the third is below a half."""
    n, channels, height, width = x.shape
    shift = (draws[:, :2] * (2 * _PADDING + 1)).long()  # 0 … 8
    padded = functional.pad(x, [_PADDING] * 4)
    rows = shift[:, 0, None] + torch.arange(height, device=x.device)
    columns = shift[:, 1, None] + torch.arange(width, device=x.device)
    columns = torch.where(draws[:, 2, None] < 0.5, columns.flip(1), columns)
    samples = torch.arange(n, device=x.device)[:, None, None, None]
    planes = torch.arange(channels, device=x.device)[None, :, None, None]
    return padded[samples, planes, rows[:, None, :, None], columns[:, None, None, :]]
