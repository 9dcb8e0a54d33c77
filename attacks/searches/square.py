"""Square: Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049."""

import math
import random
from functools import cache

import torch
from torch import Tensor, nn

from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm, per_sample
from robustness_bench.attacks.numerics.margins import margin
from robustness_bench.attacks.numerics.noise import Noise, key_of

_FIRST_SHARE = 0.8  # of the image's pixels that the first squares cover
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which the share halves
_TINY = 1e-12


def square(
    model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, norm: Norm, eps: float, queries: int
) -> Tensor:
    """Return the image with the largest margin that random squares reach within ``eps``: (N, C, H, W).

    A sample is dropped as soon as it is fooled. The windows are the same for all samples and depend only on
    the query; all other randomness belongs to the sample. The algorithm and its numbers are those of
    AutoAttack's code (one run, p = 0.8, schedule not rescaled), whose windows never touch the image's last
    row and column.

    Args:
        queries: not counting the first, which judges the start.

    Differs from the paper: the windows are shared. Images too small or uneven for five by five tiles
    start from as many as fit; the authors' code fails on them.
    """
    start, propose = {"linf": (_stripes, _recoloured), "l2": (_tiles, _moved)}[norm]
    windows = random.Random(key_of("square"))
    best = x.clone()
    rows = torch.arange(len(x), device=x.device)  # the samples still under attack
    with torch.no_grad():
        x_best = start(x, noise, eps, windows)
        highest = x.new_full((len(x),), -torch.inf)
        for query in range(queries + 1):
            x_new = x_best if query == 0 else propose(x, x_best, noise, eps, query, windows)
            logits = model(x_new)
            value, standing = margin(logits, y), logits.argmax(1) == y
            better = (value > highest) | ~standing
            x_best = torch.where(per_sample(better, x), x_new, x_best)
            highest = torch.where(better, value, highest)
            if not standing.all():
                best[rows[~standing]] = x_best[~standing]
                rows, noise, y = rows[standing], noise[standing], y[standing]
                x, x_best, highest = x[standing], x_best[standing], highest[standing]
                if not len(rows):
                    return best
    best[rows] = x_best
    return best


def _side(query: int, height: int, width: int, least: int) -> int:
    """Side of the squares of a query, counted from 1."""
    halved = sum(query - 1 > bound for bound in _HALVINGS)
    return max(round(math.sqrt(_FIRST_SHARE / 2**halved * height * width)), least)


def _place(windows: random.Random, height: int, width: int, side: int) -> tuple[slice, slice]:
    top, left = int(windows.random() * (height - side)), int(windows.random() * (width - side))
    return slice(top, top + side), slice(left, left + side)


def _signs(noise: Noise, shape: tuple[int, ...], draw: int) -> Tensor:
    """-1 or 1, each with probability ½: (N, *shape)."""
    return (2.0 * noise.uniform(shape, draw=draw) - 1.0).sign()


def _stripes(x: Tensor, noise: Noise, eps: float, windows: random.Random) -> Tensor:
    """Move each column of each channel by ±ε."""
    return (x + eps * _signs(noise, (x.shape[1], 1, x.shape[3]), 0)).clamp(0.0, 1.0)


def _recoloured(
    x: Tensor, x_best: Tensor, noise: Noise, eps: float, query: int, windows: random.Random
) -> Tensor:
    """Move a square by ±ε from the natural image, one sign per channel: algorithm 2."""
    channels, height, width = x.shape[1:]
    side = min(_side(query, height, width, 1), height, width)
    rows, columns = _place(windows, height, width, side)
    x_new = x_best.clone()
    x_new[:, :, rows, columns] += 2.0 * eps * _signs(noise, (channels, 1, 1), query)
    return torch.minimum(torch.maximum(x_new, x - eps), x + eps).clamp(0.0, 1.0)


def _tiles(x: Tensor, noise: Noise, eps: float, windows: random.Random) -> Tensor:
    """Add a bump in each tile of a grid, one sign per tile and channel, scaled to ε."""
    channels, height, width = x.shape[1:]
    side = max(height // 5, 1)
    first = max((height - 5 * side) // 2, 0)
    down, across = height // side, max(width // side, 1)
    signs = _signs(noise, (down * across, channels, 1, 1), 0)
    delta = torch.zeros_like(x)
    for tile in range(down * across):
        top, left = first + tile // across * side, first + tile % across * side
        window = delta[:, :, top : top + side, left : left + side]
        bump = _bump(side, windows.random() > 0.5).to(x.device)
        window += bump[: window.shape[2], : window.shape[3]] * signs[:, tile]
    return _at_distance(x, delta, eps)


def _moved(x: Tensor, x_best: Tensor, noise: Noise, eps: float, query: int, windows: random.Random) -> Tensor:
    """Move one window's perturbation, and the unused budget, into a bump in another window: algorithm 3."""
    channels, height, width = x.shape[1:]
    side = _side(query, height, width, 3) | 1  # odd
    side = min(side, height, width)
    rows, columns = _place(windows, height, width, side)
    other_rows, other_columns = _place(windows, height, width, side)
    delta = x_best - x
    both = torch.zeros_like(x[:1, :1])
    both[:, :, rows, columns] = both[:, :, other_rows, other_columns] = 1.0
    taken = _sizes(delta * both)
    unused = (eps**2 - geometry.size(delta, "l2").square()).clamp_min(0.0) / channels

    window = delta[:, :, rows, columns]
    bump = _bump(side, windows.random() > 0.5).to(x.device) * _signs(noise, (channels, 1, 1), query)
    bump = bump + window / (_TINY + _sizes(window))
    bump = bump / (_TINY + _sizes(bump)) * (per_sample(unused, x) + taken.square()).sqrt()
    delta[:, :, other_rows, other_columns] = 0.0
    delta[:, :, rows, columns] = bump
    return _at_distance(x, delta, eps)


def _sizes(window: Tensor) -> Tensor:
    """The L2 norm of each channel: (N, C, H, W) -> (N, C, 1, 1)."""
    return window.square().sum((-2, -1), keepdim=True).sqrt()


def _at_distance(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    """x + delta scaled to the L2 norm ``eps``, then clipped into the box."""
    return (x + delta / per_sample(geometry.size(delta, "l2") + _TINY, x) * eps).clamp(0.0, 1.0)


@cache
def _bump(side: int, lying: bool) -> Tensor:
    """Return two bumps of opposite sign that fill a square, L2 norm 1: equation 2's η, (side, side)."""
    half = side // 2
    bumps = torch.cat([_pyramid(half, side), -_pyramid(side - half, side)])
    bumps = bumps / bumps.square().sum().sqrt()
    return bumps.T.contiguous() if lying else bumps


def _pyramid(height: int, width: int) -> Tensor:
    """Nested rectangles around a middle, the k-th 1/k² high, of L2 norm 1: (height, width)."""
    steps = torch.zeros(height, width)
    if not height:
        return steps
    top, left = height // 2, width // 2
    for ring in range(max(top, left) + 1):
        rows = slice(max(top - ring, 0), top + ring + 1)
        columns = slice(max(left - ring, 0), left + ring + 1)
        steps[rows, columns] += 1.0 / (ring + 1) ** 2
    return steps / steps.square().sum().sqrt()
