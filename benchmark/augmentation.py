"""Random crop and flip of a whole batch on the device, keyed by sample."""

import torch
from torch import Tensor
from torch.nn import functional

from attacks.noise import Noise

_PADDING = 4


def crop_flip(x: Tensor, noise: Noise) -> Tensor:
    """Shift by up to 4 pixels (zeros move in) and mirror half of the images: (N, C, H, W) -> same."""
    n, channels, height, width = x.shape
    draws = noise.uniform((3,))
    shift = (draws[:, :2] * (2 * _PADDING + 1)).long()  # 0 … 8
    padded = functional.pad(x, [_PADDING] * 4)
    rows = shift[:, 0, None] + torch.arange(height, device=x.device)
    columns = shift[:, 1, None] + torch.arange(width, device=x.device)
    columns = torch.where(draws[:, 2, None] < 0.5, columns.flip(1), columns)
    samples = torch.arange(n, device=x.device)[:, None, None, None]
    planes = torch.arange(channels, device=x.device)[None, :, None, None]
    return padded[samples, planes, rows[:, None, :, None], columns[:, None, None, :]]
