"""Square: Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049."""

import dataclasses
import math
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm, per_sample
from robustness_bench.attacks.numerics.losses import margin
from robustness_bench.attacks.numerics.noise import Noise, key_of
from robustness_bench.attacks.searches.pool import Found, Rows

_FIRST_SHARE = 0.8  # of the image's pixels that the first squares cover
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which the share halves
_TINY = 1e-12
_PATIENCE = 8  # proposals turned down in a row, for each one more that is tried ahead of the others' outcome
_MEMORY = 2**16  # proposals of one phase that are remembered for a sample; more hardly come twice
_BLOCK = 512  # queries whose signs are drawn at once
_AHEAD = 64  # queries looked through at once for one that has not been tried


def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    noise: Noise,
    *,
    norm: Norm,
    eps: float,
    queries: int,
    room: int | None = None,
) -> Found:
    """The image of the largest margin that random squares reach, within ``eps``, and whether it fools.

    A sample is dropped as soon as it is fooled. The windows are the same for all samples and depend only on
    the query; all other randomness belongs to the sample. The algorithm and its numbers are those of
    AutoAttack's code (one run, p = 0.8, schedule not rescaled), whose windows never touch the image's last
    row and column.

    Every sample goes through its queries alone, and in their order: those after a success start from it,
    so what was tried ahead of it is tried again. A proposal that the model has turned down since the last
    success, or that changes nothing, would be turned down again and is passed over, unless the model
    answers the same images differently.

    Args:
        queries: besides the first, which judges the start.
        room: images in a batch at most; default N.

    Differs from the paper: the windows are shared. Images too small or uneven for five by five tiles
    start from as many as fit; the authors' code fails on them.
    """
    with torch.no_grad():
        x_best = (_stripes if norm == "linf" else _tiles)(x, noise, eps)
        logits = model(x_best)
        fooled = logits.argmax(1) != y
        images, rows = x_best.clone(), (~fooled).nonzero()[:, 0]
        s = Walk(
            rows,
            x[rows],
            y[rows],
            noise.keys[rows],
            x_best[rows],
            margin(logits, y)[rows],
            torch.ones_like(rows),
            torch.zeros_like(rows),
        )
        plan = (_Recolouring if norm == "linf" else _Moving)(s, eps, queries)
        if isinstance(plan, _Recolouring) and not torch.equal(logits, model(x_best)):
            plan.forget()
        while len(s.rows):
            spare = max((room or len(x)) // len(s.rows), 1)
            s = _queried(model, s, plan, (1 + s.failures // _PATIENCE).clamp_max(spare))
            fell, ended = s.highest == torch.inf, s.query > queries
            if (gone := fell | ended).any():
                images[s.rows[gone]] = s.x_best[gone]
                fooled[s.rows[fell]] = True
                going = (~gone).nonzero()[:, 0]
                s = s.pick(going)
                plan.pick(going)
    return Found(images, fooled)


@dataclass
class Walk(Rows):
    """The samples still under attack."""

    rows: Tensor
    """Which of all samples each is."""
    x: Tensor
    y: Tensor
    keys: Tensor
    """Of their noise."""
    x_best: Tensor
    highest: Tensor
    """The margin of ``x_best``, infinite where it fools."""
    query: Tensor
    """The next one, from 1."""
    failures: Tensor
    """Proposals turned down since the last success."""


def _queried(model: nn.Module, s: Walk, plan: "_Plan", most: Tensor) -> Walk:
    """Each sample's next queries, ``most`` (M,) at most, up to its first success."""
    row, query, upto = plan.next(s, most)
    query_after, failures = s.query + upto, s.failures
    x_new = plan.propose(s, row, query)
    if plan.remembers:
        changed = (x_new != s.x_best[row]).flatten(1).any(1)
        row_tried, query_tried, x_new = row[changed], query[changed], x_new[changed]
    else:
        row_tried, query_tried = row, query
    plan.remember(s, row, query)
    if not len(row_tried):
        return dataclasses.replace(s, query=query_after)
    logits = model(x_new)
    value = margin(logits, s.y[row_tried])
    value = value.masked_fill(logits.argmax(1) != s.y[row_tried], torch.inf)
    failures = failures + torch.zeros_like(failures).scatter_add_(0, row_tried, torch.ones_like(row_tried))
    better = value > s.highest[row_tried]
    if not better.any():
        return dataclasses.replace(s, query=query_after, failures=failures)
    none = len(row_tried)
    order = torch.arange(none, device=row.device)
    first = torch.full_like(s.rows, none).scatter_reduce_(0, row_tried[better], order[better], "amin")
    won = (first < none).nonzero()[:, 0]
    first = first[won]
    x_best, highest = s.x_best.clone(), s.highest.clone()
    x_best[won], highest[won] = x_new[first], value[first]
    query_after[won], failures[won] = query_tried[first] + 1, 0
    plan.forget(won)
    return dataclasses.replace(s, x_best=x_best, highest=highest, query=query_after, failures=failures)


class _Plan(ABC):
    """Windows of every query, the same for all samples, and what each sample has tried in vain.

    ``windows`` is (queries + 1, …) int64; query 0 has none.
    """

    remembers = False

    def __init__(self, s: Walk, eps: float, queries: int) -> None:
        self.eps, self.queries = eps, queries
        sizes = tuple(s.x.shape[2:])
        chances = random.Random(key_of("square"))
        self.windows = torch.tensor(self._windows(chances, *sizes), device=s.x.device)
        self.phase = torch.tensor([_phase(query) for query in range(queries + 2)], device=s.x.device)
        self.ups = self._signs(s.keys, s.x.shape[1])
        self.across = torch.arange(sizes[1], device=s.x.device)
        self.down = torch.arange(sizes[0], device=s.x.device)

    def _signs(self, keys: Tensor, channels: int) -> Tensor:
        """Which of the signs of every query are positive: (M, queries + 1, C) bool."""
        blocks = []
        for first in range(0, self.queries + 1, _BLOCK):
            queries = torch.arange(first, min(first + _BLOCK, self.queries + 1), device=keys.device)
            noise = Noise(keys.repeat_interleave(len(queries)))
            signs = noise.uniform((channels,), draw=queries.repeat(len(keys))) > 0.5
            blocks.append(signs.reshape(len(keys), len(queries), channels))
        return torch.cat(blocks, dim=1)

    @abstractmethod
    def _windows(self, chances: random.Random, height: int, width: int) -> list[list[int]]: ...

    @abstractmethod
    def propose(self, s: Walk, row: Tensor, query: Tensor) -> Tensor:
        """The images of some queries of some rows, both (M,): (M, C, H, W)."""

    def next(self, s: Walk, most: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and numbers of the next queries to try, (M,) each, and how many of each row that settles."""
        ahead = torch.arange(int(most.max()), device=s.x.device)
        query = s.query[:, None] + ahead
        valid = (ahead < most[:, None]) & (query <= self.queries)
        row, column = valid.nonzero().unbind(1)
        return row, query[row, column], valid.sum(1)

    def remember(self, s: Walk, row: Tensor, query: Tensor) -> None:  # noqa: B027 - nothing to pass over
        """These have been tried, in vain unless ``forget`` comes after."""

    def forget(self, rows: Tensor | None = None) -> None:  # noqa: B027
        """What these samples have tried; None: pass over nothing any more."""

    def pick(self, rows: Tensor) -> None:
        """These samples go on."""
        self.ups = self.ups[rows]

    def _inside(self, top: Tensor, left: Tensor, side: Tensor) -> Tensor:
        """Which pixels lie in each window, (M,) each: (M, 1, H, W)."""
        down = (self.down >= top[:, None]) & (self.down < (top + side)[:, None])
        across = (self.across >= left[:, None]) & (self.across < (left + side)[:, None])
        return (down[:, :, None] & across[:, None, :])[:, None]


class _Recolouring(_Plan):
    """A square moved by ±ε off the natural image, a sign for each channel: algorithm 2."""

    def __init__(self, s: Walk, eps: float, queries: int) -> None:
        super().__init__(s, eps, queries)
        channels, height, width = s.x.shape[1:]
        self.low, self.high = (s.x - eps).clamp(0.0, 1.0), (s.x + eps).clamp(0.0, 1.0)
        proposals = 2**channels * height * width
        self.remembers = proposals <= _MEMORY
        self.tried = torch.zeros(len(s.x), proposals * self.remembers, dtype=torch.bool, device=s.x.device)
        self.tried_in = torch.zeros_like(s.rows)  # the phase that ``tried`` belongs to
        self.codes = self._codes(channels, height, width) if self.remembers else self.tried.long()

    def _windows(self, chances: random.Random, height: int, width: int) -> list[list[int]]:
        windows = [[0, 0, 0]]
        for query in range(1, self.queries + 1):
            side = min(_side(query, height, width, 1), height, width)
            windows.append([*_place(chances, height, width, side), side])
        return windows

    def propose(self, s: Walk, row: Tensor, query: Tensor) -> Tensor:
        up = self.ups[row, query][:, :, None, None]
        moved = torch.where(up, self.high[row], self.low[row])
        return torch.where(self._inside(*self.windows[query].unbind(1)), moved, s.x_best[row])

    def next(self, s: Walk, most: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self.remembers:
            return super().next(s, most)
        stale = self.tried_in != self.phase[s.query]
        if stale.any():
            self.tried[stale] = False
            self.tried_in = self.phase[s.query]
        ahead = torch.arange(_AHEAD, device=s.x.device)
        query = s.query[:, None] + ahead
        valid = query <= self.queries
        query = query.clamp_max(self.queries)
        valid &= self.phase[query] == self.tried_in[:, None]
        new = valid & ~self.tried.gather(1, self.codes.gather(1, query))
        count = new.cumsum(1)
        row, column = (new & (count <= most[:, None])).nonzero().unbind(1)
        return row, query[row, column], (valid & (count <= most[:, None])).sum(1)

    def _codes(self, channels: int, height: int, width: int) -> Tensor:
        """A number for each proposal of one phase, from its signs and its place: (M, queries + 1)."""
        bits = (self.ups * 2 ** torch.arange(channels, device=self.ups.device)).sum(2)
        top, left, _ = self.windows.unbind(1)
        return (bits * height + top) * width + left

    def remember(self, s: Walk, row: Tensor, query: Tensor) -> None:
        if self.remembers:
            self.tried[row, self.codes[row, query]] = True

    def forget(self, rows: Tensor | None = None) -> None:
        if rows is None:
            self.remembers, self.tried = False, self.tried[:, :0]
        elif self.remembers:
            self.tried[rows] = False

    def pick(self, rows: Tensor) -> None:
        super().pick(rows)
        self.codes = self.codes[rows]
        self.low, self.high = self.low[rows], self.high[rows]
        self.tried, self.tried_in = self.tried[rows], self.tried_in[rows]


class _Moving(_Plan):
    """One window's perturbation, and what is left of the budget, moved to a bump in another: algorithm 3."""

    def _windows(self, chances: random.Random, height: int, width: int) -> list[list[int]]:
        for _ in range(_grid(height, width).tiles):
            chances.random()  # what the start has drawn
        sides = sorted({self._odd(query, height, width) for query in range(1, self.queries + 1)})
        bumps = torch.zeros(2 * len(sides), sides[-1], sides[-1])
        for number, side in enumerate(sides):
            for lying in (0, 1):
                bumps[2 * number + lying, :side, :side] = _bump(side, bool(lying))
        self.bumps = bumps
        windows = [[0] * 6]
        for query in range(1, self.queries + 1):
            side = self._odd(query, height, width)
            place, other = _place(chances, height, width, side), _place(chances, height, width, side)
            shape = 2 * sides.index(side) + (chances.random() > 0.5)
            windows.append([*place, *other, side, shape])
        return windows

    def _odd(self, query: int, height: int, width: int) -> int:
        return min(_side(query, height, width, 3) | 1, height, width)

    def propose(self, s: Walk, row: Tensor, query: Tensor) -> Tensor:
        top, left, other_top, other_left, side, shape = self.windows[query].unbind(1)
        inside = self._inside(top, left, side)
        other = self._inside(other_top, other_left, side)
        x, channels = s.x[row], s.x.shape[1]
        delta = s.x_best[row] - x
        taken = _sizes(delta * (inside | other))
        unused = (self.eps**2 - geometry.size(delta, "l2").square()).clamp_min(0.0) / channels

        window = delta * inside
        signs = 2.0 * self.ups[row, query][:, :, None, None] - 1.0
        bump = self._bumps(top, left, shape)[:, None] * signs
        bump = (bump + window / (_TINY + _sizes(window))) * inside
        bump = bump / (_TINY + _sizes(bump)) * (per_sample(unused, x) + taken.square()).sqrt()
        return _at_distance(x, torch.where(inside, bump, delta.masked_fill(other, 0.0)), self.eps)

    def _bumps(self, top: Tensor, left: Tensor, shape: Tensor) -> Tensor:
        """Each bump with its corner at (top, left), (M,) each; outside its window anything: (M, H, W)."""
        self.bumps, most = self.bumps.to(top.device), self.bumps.shape[-1] - 1
        down = (self.down - top[:, None]).clamp(0, most)
        across = (self.across - left[:, None]).clamp(0, most)
        return self.bumps[shape[:, None, None], down[:, :, None], across[:, None, :]]


def _phase(query: int) -> int:
    """How often the share has been halved at a query, counted from 1."""
    return sum(query - 1 > bound for bound in _HALVINGS)


def _side(query: int, height: int, width: int, least: int) -> int:
    """Side of the squares of a query, counted from 1."""
    return max(round(math.sqrt(_FIRST_SHARE / 2 ** _phase(query) * height * width)), least)


def _place(chances: random.Random, height: int, width: int, side: int) -> tuple[int, int]:
    """Top and left."""
    return int(chances.random() * (height - side)), int(chances.random() * (width - side))


def _signs(noise: Noise, shape: tuple[int, ...]) -> Tensor:
    """-1 or 1, each with probability ½: (N, *shape)."""
    return (2.0 * noise.uniform(shape) - 1.0).sign()


def _stripes(x: Tensor, noise: Noise, eps: float) -> Tensor:
    """Each column of each channel moved by ±ε."""
    return (x + eps * _signs(noise, (x.shape[1], 1, x.shape[3]))).clamp(0.0, 1.0)


class _Grid(NamedTuple):
    """Of square tiles."""

    side: int
    first: int
    down: int
    across: int

    @property
    def tiles(self) -> int:
        return self.down * self.across


def _grid(height: int, width: int) -> _Grid:
    side = max(height // 5, 1)
    return _Grid(side, max((height - 5 * side) // 2, 0), height // side, max(width // side, 1))


def _tiles(x: Tensor, noise: Noise, eps: float) -> Tensor:
    """A bump in each of a grid of tiles, a sign for each tile and channel, scaled to ε."""
    channels, height, width = x.shape[1:]
    grid, chances = _grid(height, width), random.Random(key_of("square"))
    signs = _signs(noise, (grid.tiles, channels, 1, 1))
    delta = torch.zeros_like(x)
    for tile in range(grid.tiles):
        top = grid.first + tile // grid.across * grid.side
        left = grid.first + tile % grid.across * grid.side
        window = delta[:, :, top : top + grid.side, left : left + grid.side]
        bump = _bump(grid.side, chances.random() > 0.5).to(x.device)
        window += bump[: window.shape[2], : window.shape[3]] * signs[:, tile]
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
