"""Random crop and flip, erasing and CutMix of a whole batch on the device, keyed by sample."""

import math
from typing import NamedTuple

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


def erase(x: Tensor, noise: Noise, share: float) -> Tensor:
    """Replace a rectangle of about this ``share`` of the images by random pixels: (N, C, H, W) -> same.

    Random erasing, Zhong et al. 2020, https://arxiv.org/abs/1708.04896: 2 to 40 % of the area, sides in a
    ratio of 0.3 to 1 / 0.3, values uniform in [0, 1]. Differs from the paper: the ratio is drawn uniformly
    on a logarithmic scale, so that tall and wide are as likely, and a side longer than the image is cut.
    """
    draws = noise.uniform((5,))
    area = (0.02 + 0.38 * draws[:, 0]) * x.shape[2] * x.shape[3]
    ratio = torch.exp((2 * draws[:, 1] - 1) * math.log(0.3))
    inside = _rectangle(x, (area * ratio).sqrt(), (area / ratio).sqrt(), draws[:, 2:4])
    chosen = (draws[:, 4] < share)[:, None, None, None] & inside
    return torch.where(chosen, noise.uniform(tuple(x.shape[1:]), draw=1), x)


class Mixed(NamedTuple):
    """Images with a part of another, and how much of each is left."""

    x: Tensor
    partner: Tensor
    """(N,) int64: the row of the batch that the part is from."""
    kept: Tensor
    """(N,) in [0, 1]: share of the area that is an image's own."""


def cutmix(x: Tensor, noise: Noise, share: float) -> Mixed:
    """Replace a rectangle of about this ``share`` of the images (N, C, H, W) by the next image's pixels.

    CutMix, Yun et al. 2019, https://arxiv.org/abs/1905.04899, equations 1 and 2 with λ uniform, which is
    their Beta(1, 1); with adversarial training, Rebuffi et al. 2021, https://arxiv.org/abs/2103.01946.
    The partner is the next image of the batch, which is shuffled. Differs from the paper: each image has a
    rectangle of its own, the paper's batch one for all.
    """
    draws = noise.uniform((4,))
    side = draws[:, 0].sqrt()  # √(1 - λ), and 1 - λ is as uniform as λ
    inside = _rectangle(x, side * x.shape[2], side * x.shape[3], draws[:, 1:3], centred=True)
    inside &= (draws[:, 3] < share)[:, None, None, None]
    partner = torch.arange(len(x), device=x.device).roll(-1)
    return Mixed(torch.where(inside, x[partner], x), partner, 1 - inside.float().mean((1, 2, 3)))


def _rectangle(x: Tensor, high: Tensor, wide: Tensor, place: Tensor, *, centred: bool = False) -> Tensor:
    """Return a mask (N, 1, H, W) of a rectangle in each image.

    Args:
        high, wide: (N,) sides in pixels, cut to the image.
        place: (N, 2) in [0, 1): where it lies among the places where it fits, or if ``centred``, where its
            centre lies in the image; what then lies outside is cut.
    """
    within = []
    for length, side, at in zip(x.shape[2:], (high, wide), place.unbind(1), strict=True):
        side = side.clamp(max=length).round()
        low = at * length - side / 2 if centred else at * (length - side + 1)
        low = low.floor()
        pixels = torch.arange(length, device=x.device)
        within.append((pixels >= low[:, None]) & (pixels < (low + side)[:, None]))
    rows, columns = within
    return rows[:, None, :, None] & columns[:, None, None, :]


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
