"""FAB: Croce and Hein 2020, https://arxiv.org/abs/1907.02044, algorithm 1."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm, per_sample
from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.attacks.searches.pool import Rows, Samples, Search

_OVERSHOOT = 1.05  # η: steps beyond the boundary
_BIAS = 0.1  # the most that a step is drawn towards the natural image, α_max
_BACK = 0.9  # the share of the distance that is left after a success, β
_START = 0.5  # the distance of a random start, of ε
_SHORTEST, _FLAT = 1e-8, 1e-8  # distances that count as none; slopes along which L2 moves nothing
_ROUNDS = 50  # Newton steps of a projection, which mostly needs five
_EXACT = 1e-6  # of the distance to the plane


@dataclass
class Approach(Rows):
    """Where M approaches are."""

    x: Tensor
    y: Tensor
    target: Tensor
    x_adv: Tensor
    nearest: Tensor
    """The distance of the nearest adversarial image so far."""


class FAB(Search[Approach]):
    """Project onto the boundary as its linearisation has it, again and again, drawn towards the image.

    What is found is the nearest adversarial image of distance ``limit`` at most. What the model errs on
    already is left as it is.

    Args:
        model: takes gradients to the image.
        targets: (N, starts), the class whose boundary each start goes for; None: the nearest of all, from
            the image itself and, from the second start on, from random points at half of ``eps``.
        limit: an image farther away is none.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        streams: Sequence[int],
        *,
        norm: Norm,
        eps: float,
        limit: float,
        targets: Tensor | None = None,
        steps: int = 100,
    ) -> None:
        super().__init__(samples, streams, steps)
        self.model, self.norm, self.eps, self.limit = model, norm, eps, limit
        self.targets = targets

    def begin(self, sample: Tensor, start: Tensor) -> Approach:
        x, y, noise = self.picked(sample, start)
        x_adv, target = x, y
        if self.targets is None:
            x_adv = torch.where(per_sample(start > 0, x), self._random(x, noise), x)
        else:
            target = self.targets[sample, start]
        return Approach(x, y, target, x_adv, x.new_full((len(x),), torch.inf))

    def _random(self, x: Tensor, noise: Noise) -> Tensor:
        shape = tuple(x.shape[1:])
        uniform = self.norm == "linf"
        direction = 2.0 * noise.uniform(shape, draw=1) - 1.0 if uniform else noise.normal(shape, draw=1)
        length = per_sample(geometry.size(direction, self.norm), x)
        return (x + _START * self.eps * direction / length).clamp(0.0, 1.0)

    def step(self, state: Approach, age: Tensor) -> tuple[Approach, Tensor, Tensor]:
        s = state
        gap, slope = self._boundary(s)
        # One plane, seen from the point reached and from the natural image.
        x, x_adv, w = s.x.flatten(1), s.x_adv.flatten(1), slope.flatten(1)
        excess = torch.cat([gap, gap + (w * (x - x_adv)).sum(1)])
        moves = onto_plane(torch.cat([x_adv, x]), torch.cat([w, w]), excess, self.norm)
        here, there = moves.reshape(2, *s.x.shape).unbind(0)
        far, near = geometry.size(moves, self.norm).clamp_min(_SHORTEST).chunk(2)
        bias = per_sample((far / (far + near)).clamp_max(_BIAS), s.x)
        reached = (s.x_adv + _OVERSHOOT * here) * (1.0 - bias) + (s.x + _OVERSHOOT * there) * bias
        reached = reached.clamp(0.0, 1.0)

        with torch.no_grad():
            adversarial = self.model(reached).argmax(1) != s.y
        distance = geometry.size(reached - s.x, self.norm)
        nearer = adversarial & (distance < s.nearest)
        back = torch.where(per_sample(adversarial, s.x), s.x + (reached - s.x) * _BACK, reached)
        nearest = torch.where(nearer, distance, s.nearest)
        return Approach(s.x, s.y, s.target, back, nearest), reached, nearer & (distance <= self.limit)

    def _boundary(self, s: Approach) -> tuple[Tensor, Tensor]:
        """By how much another class's logit lies above the right one's, and its gradient: (M,), (M, …)."""
        point = s.x_adv.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(point)
            right = logits.gather(1, s.y[:, None])
            gaps = (logits if self.targets is None else logits.gather(1, s.target[:, None])) - right
        if self.targets is not None:
            (slope,) = torch.autograd.grad(gaps.sum(), point)
            return gaps.detach()[:, 0], slope
        return self._nearest_boundary(gaps, point, s.y)

    def _nearest_boundary(self, gaps: Tensor, point: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """``_boundary`` of the class that the linear model has nearest: equation 7."""
        closest = torch.full_like(y, torch.inf, dtype=gaps.dtype)
        gap, slope = torch.zeros_like(closest), torch.zeros_like(point)
        classes = gaps.shape[1]
        for other in range(classes):
            more = other < classes - 1
            (gradient,) = torch.autograd.grad(gaps[:, other].sum(), point, retain_graph=more)
            value = gaps[:, other].detach()
            steepness = torch.linalg.vector_norm(
                gradient.flatten(1), ord=1 if self.norm == "linf" else 2, dim=1
            )
            distance = (value.abs() / (1e-12 + steepness)).masked_fill(y == other, torch.inf)
            nearer = distance < closest
            closest = torch.where(nearer, distance, closest)
            gap = torch.where(nearer, value, gap)
            slope = torch.where(per_sample(nearer, slope), gradient, slope)
        return gap, slope


def onto_plane(x: Tensor, w: Tensor, excess: Tensor, norm: Norm) -> Tensor:
    """The least move inside the box that takes each point onto a plane: section 3.1's projections.

    The move is ``min(λ, room)`` of every pixel in L∞, ``min(λ·|w|, room)`` in L2; how far it leads is a
    concave, piecewise linear function of λ, on which Newton's method from 0 ends at the solution itself.

    Args:
        x: (M, D) in [0, 1].
        w: (M, D), the plane's normal.
        excess: (M,), ⟨w, x⟩ less its value on the plane.

    Returns:
        (M, D), x + move in [0, 1]; where the box does not reach the plane, as near as it does.
    """
    w, excess = torch.where(excess[:, None] < 0, -w, w), excess.abs()
    steep = w.abs()
    if norm == "l2":
        steep = steep.masked_fill(steep <= _FLAT, 0.0)
    room = torch.where(w > 0, x, 1.0 - x).masked_fill(steep == 0, 0.0)
    unit = steep if norm == "l2" else torch.ones_like(steep)
    yields, scale, move = steep * unit, torch.zeros_like(excess), torch.zeros_like(x)
    for _ in range(_ROUNDS):
        slope = (yields * (move < room)).sum(1)
        short = excess - (steep * move).sum(1)
        open_ = (slope > 0) & (short > _EXACT * excess)
        if not open_.any():
            break
        scale = torch.where(open_, scale + short / slope, scale)
        move = torch.minimum(scale[:, None] * unit, room)
    return -w.sign() * move
