"""Moving pixel mass inside small windows: plans, the two feasible sets, and optimisation over them.

The problem and both solvers are those of Wu, Wang, Yu 2020, https://arxiv.org/abs/2008.02883: per
image and channel a plan π ≥ 0 says how much mass each pixel sends to each pixel of a k×k window.

A plan is (N, C, k·k, H·W), the layout of ``torch.nn.functional.unfold``: entry [n, c, o, l] is the
mass that pixel l sends to the pixel at offset o from it. That is 4·N·C·H·W·k² bytes in float32 per
plan-sized tensor, k² times the images. Mass is in units of pixel values, distance in pixels, cost in
mass × distance. Every function is pure, works in float32 and float64, and treats each sample separately:
the number of iterations never depends on the rest of the batch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from robustness_bench.attacks.numerics.geometry import per_sample

BOX_SLACK = 1e-6
"""How far above 1 a pixel may remain in the image of a repaired plan."""

_FORBIDDEN = -1e30  # a logit that no entry can have; finite, so that the difference of two is not NaN
_NEWTON_STEPS = 5  # per price, each starting at the last price's thresholds
_CHUNK = 2**19  # entries of a plan that fit in a CPU's cache
_GENTLE_REPAIRS = 64
_ROUGH = 10  # at most so many bisections while prices of destinations still change


@dataclass(frozen=True)
class Window:
    """The k×k pixels around each pixel of an H×W image, from -(k-1)//2 to +k//2 in both directions.

    An even window therefore reaches one pixel further down and to the right.
    """

    k: int
    height: int
    width: int

    @property
    def before(self) -> int:
        """Number of pixels that the window extends up and left."""
        return (self.k - 1) // 2

    @property
    def home(self) -> int:
        """The offset that means staying in place."""
        return self.before * self.k + self.before

    @cached_property
    def distances(self) -> list[float]:
        """(k·k,): the Euclidean distance of each offset, in pixels."""
        steps = range(-self.before, self.k - self.before)
        return [math.hypot(down, right) for down in steps for right in steps]

    @cached_property
    def rings(self) -> list[tuple[float, list[int]]]:
        """Offsets grouped by distance, nearest first: (distance, offsets)."""
        offsets = range(self.k * self.k)
        return [
            (radius, [o for o in offsets if self.distances[o] == radius])
            for radius in sorted(set(self.distances))
        ]


@dataclass(frozen=True)
class Ball:
    """The plans that start from the images ``x`` and cost at most ``budget``.

    Args:
        x: (N, C, H, W), what each pixel has to send: the row sums.
        budget: (N,), the cost that an image may spend over all its channels.
        window: where mass may go. Entries that would leave the image are zero.
    """

    x: Tensor
    budget: Tensor
    window: Window

    @classmethod
    def around(cls, x: Tensor, eps: float, k: int) -> "Ball":
        """Return the ball whose budget is the share ``eps`` of each image's mass, moved by one pixel."""
        return cls(x, eps * x.flatten(1).sum(1), Window(k, x.shape[2], x.shape[3]))

    def __getitem__(self, rows: Tensor | slice) -> "Ball":
        return Ball(self.x[rows], self.budget[rows], self.window)

    @property
    def mass(self) -> Tensor:
        """(N, C, H·W): the row sums."""
        return self.x.flatten(2)


def gather(image: Tensor, window: Window, outside: float = 0.0) -> Tensor:
    """The value at each entry's destination: (N, C, H, W) -> (N, C, k·k, H·W). Adjoint of ``arrivals``."""
    before, after = window.before, window.k - 1 - window.before
    padded = functional.pad(image, (before, after, before, after), value=outside)
    entries: Tensor = functional.unfold(padded, window.k).unflatten(1, (image.shape[1], -1))
    return entries


def arrivals(plan: Tensor, window: Window) -> Tensor:
    """Return the image a plan makes, its column sums: (N, C, k·k, H·W) -> (N, C, H, W)."""
    before, height, width = window.before, window.height, window.width
    grown = (height + window.k - 1, width + window.k - 1)
    image = functional.fold(plan.flatten(1, 2), grown, window.k)
    return image[:, :, before : before + height, before : before + width].contiguous()


def staying(ball: Ball) -> Tensor:
    """The plan that moves nothing: (N, C, k·k, H·W)."""
    n, channels, pixels = ball.mass.shape
    plan = ball.x.new_zeros(n, channels, ball.window.k**2, pixels)
    plan[:, :, ball.window.home] = ball.mass
    return plan


def cost(plan: Tensor, window: Window) -> Tensor:
    """Σ mass × distance of each plan: (N, C, k·k, H·W) -> (N,)."""
    return torch.matmul(plan.new_tensor(window.distances), plan).flatten(1).sum(1)


def best_plan(gradient: Tensor, ball: Ball, *, gamma: float, bisections: int) -> Tensor:
    """The plan of ``ball`` whose image rises most along ``gradient``, smoothed by an entropy.

    Maximises Σ π_ij g_j - γ Σ π_ij log π_ij. Rows are x_i·softmax_j((g_j - λ c_ij)/γ); the
    multiplier λ ≥ 0 is the image's price of distance (the paper's section 4.2 and appendix).

    Two facts make it fast. First, offsets of equal distance share one λ-dependent factor, so the search
    for λ runs over distances (6 for k = 5) instead of offsets (25). Second, the search keeps both ends of
    its bracket: the mixture of their plans that spends exactly the budget is feasible, and its shortfall is
    at most the bracket's width times its difference in cost.

    Args:
        gradient: (N, C, H, W).
        gamma: weight of the entropy, in units of the gradient.
        bisections: refinements of the bracket around λ.

    Returns:
        (N, C, k·k, H·W), in the ball up to rounding.
    """
    window, mass = ball.window, ball.mass
    radii = mass.new_tensor([radius for radius, _ in window.rings])[:, None]
    logits = gather(gradient / gamma, window, outside=_FORBIDDEN)
    weights, levels = [], []  # within each ring: the softmax, and the logarithm of its normaliser
    for _, offsets in window.rings:
        ring = logits[:, :, offsets]
        weight = ring.softmax(2)
        weights.append(weight)
        levels.append(ring.amax(2, keepdim=True) - weight.amax(2, keepdim=True).log_())
    level = torch.cat(levels, 2)

    def shares(price: Tensor) -> Tensor:
        """(N, C, rings, H·W): the share of its mass that a pixel sends to each ring."""
        return (level - per_sample(price / gamma, level) * radii).softmax(2)

    def spent(share: Tensor) -> Tensor:
        return (torch.matmul(radii[:, 0], share) * mass).flatten(1).sum(1)

    spread = gradient.flatten(1).amax(1) - gradient.flatten(1).amin(1)
    everywhere = mass.flatten(1).sum(1) * sum(window.distances)
    tiny = torch.finfo(mass.dtype).tiny
    excess = everywhere.clamp_min(tiny).log() - ball.budget.clamp_min(tiny).log()
    enough = (spread + gamma * excess).clamp_min(0.0)
    low, high, part = _bracket(lambda price: spent(shares(price)), ball.budget, enough, bisections)
    share = torch.lerp(shares(high), shares(low), per_sample(part, level))
    # Rounding, or a budget of zero, may leave the mixture too expensive: then some mass stays in place.
    kept = _kept(spent(share), ball.budget)
    share = share.mul_(per_sample(kept, share))
    share[:, :, 0] += 1.0 - kept[:, None, None]
    plan = logits
    for number, (weight, (_, offsets)) in enumerate(zip(weights, window.rings, strict=True)):
        plan[:, :, offsets] = weight.mul_((share[:, :, number] * mass)[:, :, None])
    return plan


def nearest_plan(target: Tensor, ball: Ball, *, bisections: int) -> Tensor:
    """The plan of ``ball`` nearest to ``target`` in the Euclidean norm.

    Rows are projections of (v - λc) on the simplex of mass x_i, where λ ≥ 0 is the image's price of
    distance (the paper's section 4.1). A row's threshold is found by Newton's method instead of
    sorting: the equation is convex and piecewise linear, so that a few steps end exactly.

    Args:
        target: (N, C, k·k, H·W), any real numbers. Entries that leave the image do not count.
        bisections: refinements of the bracket around λ.

    Returns:
        (N, C, k·k, H·W), in the ball up to rounding.
    """
    if target.is_cuda:
        return _nearest_plan(target, ball, bisections)
    images = max(1, _CHUNK // max(1, target[:1].numel()))
    starts = range(0, len(target), images)
    pieces = [slice(start, start + images) for start in starts]
    return torch.cat([target[:0], *(_nearest_plan(target[p], ball[p], bisections) for p in pieces)])


def _nearest_plan(target: Tensor, ball: Ball, bisections: int) -> Tensor:
    window, mass = ball.window, ball.mass
    distances = mass.new_tensor(window.distances)
    inside = gather(torch.ones_like(ball.x[:1]), window)
    lowest = target[:, :, window.home] - mass  # a threshold is never lower, because staying costs nothing
    target = torch.where(inside > 0, target, lowest[:, :, None] - 1.0)  # entries outside are never active
    threshold = lowest.clone()
    room, priced = torch.empty_like(target), torch.empty_like(target)

    def rows(price: Tensor) -> Tensor:
        """Return the projections at this price, in a buffer that the next call overwrites."""
        torch.sub(target, per_sample(price, target) * distances[:, None], out=priced)
        for _ in range(_NEWTON_STEPS):
            torch.sub(priced, threshold[:, :, None], out=room).clamp_min_(0.0)
            over = room.sum(2).sub_(mass)
            active = room.sign_().sum(2)
            threshold.add_(over.div_(active.clamp_min(1.0)))
            torch.where((active == 0) & (mass > 0), lowest, threshold, out=threshold)
        return torch.sub(priced, threshold[:, :, None], out=room).clamp_min_(0.0)

    # The price at which no pixel gains from sending anything away.
    gain = (target - lowest[:, :, None]).div_(distances.clamp_min(1.0)[:, None])
    gain[:, :, window.home] = 0.0
    enough = gain.flatten(1).amax(1).clamp_min_(0.0)
    low, high, part = _bracket(lambda price: cost(rows(price), window), ball.budget, enough, bisections)
    plan = rows(high).clone()
    plan.lerp_(rows(low), per_sample(part, plan))
    return _settle(plan, ball)


def _settle(plan: Tensor, ball: Ball) -> Tensor:
    """Remove rounding errors, in place: rows then sum to the mass and the cost stays within the budget."""
    home, mass = ball.window.home, ball.mass
    total = plan.sum(2)
    plan.mul_((mass / total.clamp_min(torch.finfo(mass.dtype).tiny)).clamp_max_(1.0)[:, :, None])
    plan.mul_(per_sample(_kept(cost(plan, ball.window), ball.budget), plan))
    plan[:, :, home] += (mass - plan.sum(2)).clamp_min_(0.0)
    return plan


def _kept(spent: Tensor, budget: Tensor) -> Tensor:
    """Return the share of each plan that the budget allows; the rest must stay in place: (N,)."""
    return torch.where(spent > budget, budget / spent, torch.ones_like(spent))


def _bracket(
    cost_at: Callable[[Tensor], Tensor], budget: Tensor, enough: Tensor, rounds: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Bracket the price at which the cost meets the budget.

    Alternates between halving the bracket and cutting it at the chord, which is exact where the cost is
    linear.

    Args:
        cost_at: (N,) prices -> (N,) costs, which fall as prices rise.
        enough: (N,), a price that is high enough.

    Returns:
        Lower end, upper end, and the share in [0, 1] of the lower end's plan in the mixture that
        meets the budget. Where the budget does not bind: lower end 0, share 1.
    """
    low, high = torch.zeros_like(enough), enough
    cost_low, cost_high = cost_at(low), cost_at(high)
    free = cost_low <= budget

    def chord() -> Tensor:
        """The share of the upper end at which the straight line between the ends meets the budget."""
        drop = (cost_low - cost_high).clamp_min(torch.finfo(budget.dtype).tiny)
        return ((cost_low - budget) / drop).clamp(0.0, 1.0)

    for number in range(rounds):
        middle = torch.lerp(low, high, 0.5 if number % 2 else chord().clamp(0.01, 0.99))
        cost_middle = cost_at(middle)
        over = cost_middle > budget
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
        cost_low = torch.where(over, cost_middle, cost_low)
        cost_high = torch.where(over, cost_high, cost_middle)
    return low, high, torch.where(free, torch.ones_like(low), 1.0 - chord())


def best_plan_in_box(
    gradient: Tensor, ball: Ball, *, gamma: float, bisections: int, rounds: int = 40
) -> Tensor:
    """Approximate ``best_plan`` under the further constraint that no pixel of the image exceeds 1.

    The constraint has a price per destination, which is subtracted from the gradient. The method alternates
    between the plan at these prices and the prices at this plan, p_j ← max(0, p_j + γ log x̃_j): Sinkhorn's
    iteration for inequalities, with Nesterov's momentum. Prices move by only a few γ per round, so γ starts
    large. It ends at 0.8/``rounds`` if that is more than ``gamma``, because prices that have not converged
    leave excess mass, and its repair loses more than the smoothing does. With 40 rounds the gain over the
    plan that moves nothing is about 0.98 of the linear program's, with 100 about 0.99. The gradient's
    largest magnitude is assumed to be about 1.
    """
    last = max(gamma, 0.8 / rounds)
    price, leading, momentum = torch.zeros_like(gradient), torch.zeros_like(gradient), 1.0
    for number in range(rounds):
        smooth = max(last, 0.3 * (last / 0.3) ** (1.5 * number / rounds))
        plan = best_plan(gradient - leading, ball, gamma=smooth, bisections=min(bisections, _ROUGH))
        arrived = arrivals(plan, ball.window).clamp_min_(torch.finfo(price.dtype).tiny)
        before, price = price, (leading + smooth * arrived.log_()).clamp_min_(0.0)
        share, momentum = _momentum(momentum)
        leading = (price + min(share, 0.9) * (price - before)).clamp_min_(0.0)
    return repair(best_plan(gradient - price, ball, gamma=last, bisections=bisections), ball)


def nearest_plan_in_box(target: Tensor, ball: Ball, *, bisections: int, rounds: int = 20) -> Tensor:
    """``nearest_plan`` under the further constraint that no pixel of the image exceeds 1.

    Dykstra's alternating projections (Boyle and Dykstra 1986). The projection on the pixels' half
    spaces is closed-form and its correction is a price per destination, which makes the method a
    gradient ascent on prices; with Nesterov's momentum.
    """
    window = ball.window
    entries = arrivals(gather(torch.ones_like(ball.x[:1]), window), window)  # that end in each pixel
    price, leading, momentum = torch.zeros_like(ball.x), torch.zeros_like(ball.x), 1.0
    for _ in range(rounds):
        plan = nearest_plan(target - gather(leading, window), ball, bisections=min(bisections, _ROUGH))
        before, price = price, (leading + (arrivals(plan, window) - 1.0) / entries).clamp_min_(0.0)
        share, momentum = _momentum(momentum)
        leading = price + share * (price - before)
    return repair(nearest_plan(target - gather(price, window), ball, bisections=bisections), ball)


def _momentum(current: float) -> tuple[float, float]:
    """Return the share of the last step to add, and the next value of Nesterov's sequence."""
    following = (1.0 + math.sqrt(1.0 + 4.0 * current**2)) / 2.0
    return (current - 1.0) / following, following


def repair(plan: Tensor, ball: Ball) -> Tensor:
    """Send mass back home until no pixel exceeds 1 by more than ``BOX_SLACK``. In place.

    Mass that arrives at an overfull pixel from elsewhere is scaled down, and the removed mass returns to
    its origin, which may overfill that pixel in turn. Moved mass only shrinks, so row sums stay the same,
    the cost only falls, and the worst possible result is the plan that moves nothing.
    """
    window, home = ball.window, ball.window.home
    rounds = 0
    while True:
        arrived = arrivals(plan, window)
        overfull = arrived > 1.0 + BOX_SLACK
        if not overfull.any():
            return plan
        stayed = plan[:, :, home].view_as(arrived)
        foreign = (arrived - stayed).clamp_min_(torch.finfo(plan.dtype).tiny)
        let_in = ((1.0 - stayed) / foreign).clamp_(0.0, 1.0)
        # Scaling may cycle forever; letting nothing in any more ends after one round per pixel.
        let_in = let_in if rounds < _GENTLE_REPAIRS else torch.zeros_like(let_in)
        keep = gather(torch.where(overfull, let_in, torch.ones_like(let_in)), window)
        keep[:, :, home] = 1.0
        plan.mul_(keep)
        plan[:, :, home] += (ball.mass - plan.sum(2)).clamp_min_(0.0)
        rounds += 1
