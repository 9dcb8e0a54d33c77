"""BSR: Wang et al. 2024, "Boosting adversarial transferability by block shuffle and rotation".

CVPR 2024, https://arxiv.org/abs/2308.10299.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustness_bench.attacks.black_box.momentum import MomentumAttack
from robustness_bench.attacks.numerics.noise import Noise


@dataclass(frozen=True, kw_only=True)
class BSR(MomentumAttack[None]):
    """Each step averages the gradients of copies whose blocks are shuffled and rotated.

    Args:
        copies: N, copies per step.
        blocks: n, so that an image is cut into n × n blocks.
        angle: τ in degrees; each block is rotated by an angle uniform in ±τ.

    An image is cut into n strips of random heights, which are shuffled, and each strip into n blocks of
    random widths, which are shuffled within it; for half of the copies with rows and columns exchanged.
    Lengths are in proportion to numbers uniform in [1, 2]. All this is as in the code of TransferAttack
    (2663e4a).

    Differs from that code, which rotates each strip as a whole: each block turns about its own middle, as the
    paper says. What turns out of a block is lost, what turns into it is 0.
    """

    copies: int = 20
    blocks: int = 2
    angle: float = 24.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.copies < 1 or self.blocks < 1:
            raise ValueError(f"copies and blocks must be at least 1, got {self!r}")
        if not 0 <= self.angle <= 180:
            raise ValueError(f"angle must be from 0 to 180 degrees, got {self.angle}")

    @property
    def gradients(self) -> int:
        return self.copies

    def memory(self, x: Tensor) -> None:
        return None

    def direction(
        self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, step: int, memory: None, rows: Tensor
    ) -> Tensor:
        total = torch.zeros_like(x)
        for copy in range(self.copies):
            image = x.clone().requires_grad_()
            seen = shuffled(image, noise, self.blocks, self.angle, draw=step * self.copies + copy)
            total += self.ascent(model, image, seen, y)
        return total / self.copies


def shuffled(x: Tensor, noise: Noise, blocks: int, angle: float, *, draw: int) -> Tensor:
    """Shuffle and rotate blocks of each image, bilinearly: (N, C, H, W) -> same."""
    n, _, height, width = x.shape
    draws = noise.uniform((1 + 2 * blocks + 3 * blocks**2,), draw=draw)
    by_rows, first, second = draws.split([1, 2 * blocks, 3 * blocks**2], 1)
    first = first.reshape(n, 2, blocks)
    second = second.reshape(n, 3, blocks, blocks)
    rows, columns = _sources(height, width, first, second, angle)
    turned_columns, turned_rows = _sources(width, height, first, second, angle)
    across = by_rows[:, :, None] < 0.5
    rows = torch.where(across, rows, turned_rows.transpose(1, 2))
    columns = torch.where(across, columns, turned_columns.transpose(1, 2))
    # grid_sample's coordinates run from -1 at the left edge of the first pixel to 1 at the last one's right.
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], 3)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _sources(height: int, width: int, first: Tensor, second: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Return where each pixel comes from, in pixels, if strips are cut along the first axis.

    Args:
        first: (N, 2, n) uniform numbers: lengths and order of the strips.
        second: (N, 3, n, n): lengths, order and angle of the blocks of each strip.

    Returns:
        Rows and columns, (N, H, W); far outside the image for a pixel that no part of its block turns into.
    """
    strip, low, high, offset = _places(height, first[:, 0], first[:, 1])  # (N, H)
    of_strip = strip[:, :, None].expand(-1, -1, second.shape[3])
    lengths, order, turn = (each.gather(1, of_strip) for each in second.unbind(1))  # (N, H, n)
    flat = (_flat(each) for each in (lengths, order))
    block, left, right, along = (each.reshape(*strip.shape, width) for each in _places(width, *flat))
    theta = turn.gather(2, block).mul(2).sub(1) * math.radians(angle)
    middle_row, middle_column = ((low + high - 1) / 2)[:, :, None], (left + right - 1) / 2
    down, right_of = offset[:, :, None] + low[:, :, None] - middle_row, along + left - middle_column
    rows = middle_row + theta.cos() * down - theta.sin() * right_of
    columns = middle_column + theta.sin() * down + theta.cos() * right_of
    inside = (rows - middle_row).abs() <= (high - low)[:, :, None] / 2
    inside &= (columns - middle_column).abs() <= (right - left) / 2
    return torch.where(inside, rows, -4.0 * height), torch.where(inside, columns, -4.0 * width)


def _flat(values: Tensor) -> Tensor:
    return values.reshape(-1, values.shape[-1])


def _places(size: int, lengths: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut an axis of ``size`` pixels into parts and put them into another order.

    Args:
        lengths: (M, n) uniform numbers; part k has a length in proportion to 1 + the k-th.
        order: (M, n) uniform numbers, by whose size the parts are put.

    Returns:
        For each pixel of the result, (M, size) each: its part, where that begins and ends in the source, and
        the pixel's distance from the part's beginning.
    """
    cuts = ((1 + lengths).cumsum(1) / (1 + lengths).sum(1, keepdim=True) * size).round().long()
    cuts[:, -1] = size
    begin = functional.pad(cuts[:, :-1], (1, 0))
    placed = order.argsort(1)
    ends = (cuts - begin).gather(1, placed).cumsum(1)
    pixel = torch.arange(size, device=lengths.device).expand(len(lengths), -1).contiguous()
    slot = torch.searchsorted(ends, pixel, right=True)
    offset = pixel - functional.pad(ends[:, :-1], (1, 0)).gather(1, slot)
    part = placed.gather(1, slot)
    return part, begin.gather(1, part), cuts.gather(1, part), offset
