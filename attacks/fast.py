"""AutoAttack's answer for a fraction of its price: cheap members first, the whole of it where they may err.

Cheap members miss what AutoAttack finds mostly where gradients mislead. So a sample that shows a sign of
that goes through AutoAttack, and so does a random share of all that are left: what it still finds there
bounds what was missed on the others.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustness_bench.attacks.autoattack import AutoAttack
from robustness_bench.attacks.base import BudgetAttack
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm, per_sample
from robustness_bench.attacks.numerics.losses import margin, margin_slope, targeted_margin
from robustness_bench.attacks.numerics.noise import Noise, key_of
from robustness_bench.attacks.numerics.precision import ByAge, Precision, confirmed, lowered_steps
from robustness_bench.attacks.searches.pool import Rows, Samples, Search, searched

_CLOSE = 0.2  # of the margin at the natural image: an ascent that leaves less of it is worth another try
_BY_DISTANCE = 2  # the ascent from which on linear distances choose the class
_LIKELIEST = 9  # classes whose boundary's distance is worth a gradient
_FLAT = 0.02  # of that margin, that a step of ε along the gradient would at least take away
_KEPT = 0.3  # of what that step promises, that the ascents at least keep
_NEAR = 0.1  # a step so short, in ε, that the gradient at least keeps
_TRUE = 0.5  # this share of its promise
_CURVED = 1.5  # of that promise: ascents that gain more have come to steeper places, where they may get stuck
_RESTLESS = 0.3  # of what is missing: the gradient promises less where an ascent has come to rest
_MORE, _LONG = 2, 40  # longer ascents of a sample whose ascent has not, at most; steps of the first
_STUCK = 1.0  # of what is missing: if the gradient promises that after these too, the sample is marked
_CORNERS = 2  # random corners of the ball, none of which should be worse than what the ascents reach
_AUDIT, _CORNER = key_of("audit"), key_of("corner")
ALONE, ESCALATED, AUDITED = range(3)
"""How a sample's outcome came about: by the cheap members alone; by AutoAttack since something about it, or
a model that draws, may have misled them; by AutoAttack since it is in the audit, with nothing else to it."""


@dataclass(frozen=True, kw_only=True)
class FastAutoAttack(BudgetAttack):
    """Margin ascents towards the likeliest classes, then AutoAttack, version standard, for some samples.

    The first ascent goes for whichever class is nearest, the second for the one that has come nearest
    besides, each later one for the one whose boundary a linear model of the natural image has nearest, of
    those that have had none (Melamed et al. 2024, https://arxiv.org/abs/2407.02240). A sample leaves the
    moment it falls. One that comes close to it, so that a fifth of its margin is left at most, gets another
    ascent to the class that has come nearest; if only a tenth is left then, one twice as long, and so on.
    Those that stand go through AutoAttack if

    - the gradient at the natural image promises next to nothing from a step of ε, or
    - a tenth of that step keeps less than half of its promise, or all ascents less than 0.3 of it, or
    - a random corner of the ball is worse for the model than all that the ascents have found, or
    - the ascents gain more than 1.5 of that promise, and where they end, and two longer ones after them, the
      gradient promises all that is missing (a climb comes to rest where the loss is smooth), or
    - they are in the audit, whatever they look like.

    All of this is decided by the sample alone. Where two passes of the natural image differ, there is no
    ascent. AutoAttack then does what it would have done by itself.

    Args:
        targets: ascents of a sample, the first included.
        steps: of each.
        close_targets: further ascents of a sample that comes close, at most.
        close_steps: of the first of these; each other one has twice those of the one before.
        audit: share of the samples, 0 to 1: see ``audited``.
        full_steps: AutoAttack's ``steps``.
        square_queries: AutoAttack's.
        precision: of the ascents' and APGD's gradients, but for the last steps (``numerics.precision``).
    """

    tells: ClassVar[bool] = True

    targets: int = 4
    steps: int = 10
    close_targets: int = 4
    close_steps: int = 12
    audit: float = 0.01
    full_steps: int = 100
    square_queries: int = 5000
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.targets, self.steps, self.close_targets, self.close_steps) < 1:
            raise ValueError(f"targets and steps must be at least 1, got {self!r}")
        if not 0.0 <= self.audit <= 1.0:
            raise ValueError(f"audit must be a share between 0 and 1, got {self.audit}")
        self._full()  # checks its own

    @property
    def stream(self) -> str:
        return AutoAttack.__name__

    def _full(self) -> AutoAttack:
        return AutoAttack(
            norm=self.norm,
            eps=self.eps,
            steps=self.full_steps,
            square_queries=self.square_queries,
            precision=self.precision,
        )

    def passes(self, classes: int) -> tuple[int, int]:
        """Of a sample that comes close and that nothing marks; the audit's share of AutoAttack is in it."""
        ascents = min(self.targets, classes)
        steps = ascents * self.steps + self.close_steps * (2**self.close_targets - 1)
        forwards, backwards = self._full().passes(classes)
        return (
            steps + ascents + self.close_targets + 6 + _CORNERS + math.ceil(self.audit * forwards),
            steps + min(classes - 1, _LIKELIEST) + 2 + math.ceil(self.audit * backwards),
        )

    def for_transfer(self) -> AutoAttack:
        """AutoAttack's own images: the last of a climb carries over, the first one that fools hardly."""
        return self._full().for_transfer()

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        return self.perturb_told(model, x, y, noise)[0][""]

    def perturb_told(
        self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise
    ) -> tuple[dict[str, Tensor], Tensor]:
        samples, way = Samples(x, y, noise), torch.full_like(y, ALONE, dtype=torch.int8)
        with torch.no_grad():
            logits, again = model(x), model(x)
        draws = (logits != again).any(1)
        x_adv, rows, marked = self._ascended(model, samples, logits, (~draws).nonzero()[:, 0])
        way[rows[_drawn(noise[rows], self.audit)]] = AUDITED
        way[rows[marked]] = ESCALATED
        way[draws] = ESCALATED
        if len(doubtful := (way != ALONE).nonzero()[:, 0]):
            x_adv[doubtful] = self._full().perturb(model, *samples.pick(doubtful))
        return {"": x_adv}, way

    def _ascended(
        self, model: nn.Module, samples: Samples, logits: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the samples ``rows``: images of those that fall, who stands, and which of these are marked."""
        x_adv, gap, ends = samples.x.clone(), -margin(logits, samples.y), samples.x.clone()
        ahead = _ahead(logits, samples.y)  # how near each class has come, on the natural image at first

        def ascend(on: Tensor, number: int, target: Tensor | None, steps: int) -> Tensor:
            """Return which of the samples ``on`` stand after one more ascent."""
            if not len(on):
                return on
            ascent = Ascent(
                model,
                samples.pick(on),
                key_of("ascent", number),
                target,
                classes=logits.shape[1],
                norm=self.norm,
                eps=self.eps,
                steps=steps,
                precision=self.precision,
            )
            found = searched(ascent, room=len(on))
            fooled = confirmed(model, found.images, samples.y[on], found.fooled)
            ahead[on], ends[on] = torch.maximum(ahead[on], ascent.ahead), ascent.ends
            x_adv[on[fooled]] = found.images[fooled]
            return on[~fooled]

        next_up, tried = ahead, torch.zeros_like(logits, dtype=torch.bool)
        for number in range(min(self.targets, logits.shape[1])):
            if number == 0:
                rows = ascend(rows, number, None, self.steps)
                tried[rows, ahead[rows].argmax(1)] = True
                continue
            if number == _BY_DISTANCE and len(rows):
                next_up = torch.full_like(logits, -torch.inf)
                next_up[rows] = -linear_distances(model, *samples.pick(rows)[:2], logits[rows], self.norm)
            target = next_up[rows].masked_fill(tried[rows], -torch.inf).argmax(1)
            tried[rows, target] = True
            rows = ascend(rows, number, target, self.steps)
        for number in range(self.close_targets):
            close = ahead[rows].amax(1) >= -_CLOSE / 2**number * gap[rows]
            on = rows[close]
            stand = ascend(on, self.targets + number, ahead[on].argmax(1), 2**number * self.close_steps)
            rows = torch.cat([rows[~close], stand])
        if not len(rows):
            return x_adv, rows, torch.zeros_like(rows, dtype=torch.bool)
        marked, curved = torch.zeros((2, len(gap)), dtype=torch.bool, device=gap.device)
        marked[rows], curved[rows] = self._marked(model, samples.pick(rows), gap[rows], ahead[rows].amax(1))
        doubtful = curved[rows] & ~marked[rows]
        on, rows = rows[doubtful], rows[~doubtful]
        for number in range(_MORE):
            resting = self._promised(model, samples.pick(on), ends[on]) < _RESTLESS
            rows = torch.cat([rows, on[resting]])
            on = ascend(on[~resting], self.targets + self.close_targets + number, None, 2**number * _LONG)
        marked[on] = self._promised(model, samples.pick(on), ends[on]) >= _STUCK
        rows = torch.cat([rows, on])
        return x_adv, rows, marked[rows]

    def _promised(self, model: nn.Module, samples: Samples, ends: Tensor) -> Tensor:
        """What the gradient promises where a climb has ended, as a share of what is missing: (M,).

        Without a gradient (one that is no number is given as 0) nothing says that it is at rest: infinite.
        """
        if not len(ends):  # which a network may not take
            return ends.new_empty(0)
        x, y, _ = samples
        slope, reached = margin_slope(model, ends, y)
        promise = (slope * (self._along(slope, x, 1.0) - ends)).flatten(1).sum(1)
        share = promise / (-reached).clamp_min(torch.finfo(reached.dtype).tiny)
        return share.masked_fill((slope == 0).flatten(1).all(1), torch.inf)

    def _marked(
        self, model: nn.Module, samples: Samples, gap: Tensor, highest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where the gradient may have misled, and where the loss is curved, both (M,) bool.

        Args:
            gap: by which the margin of the natural image lies below 0.
            highest: margin that the ascents have reached.
        """
        x, y, noise = samples
        slope, _ = margin_slope(model, x, y)
        promise = (slope * (self._along(slope, x, 1.0) - x)).flatten(1).sum(1)
        odd = promise < _FLAT * gap
        kept = (highest + gap) / torch.minimum(promise, gap)
        odd |= kept < _KEPT
        with torch.no_grad():
            short = self._along(slope, x, _NEAR)
            odd |= margin(model(short), y) + gap < _TRUE * (slope * (short - x)).flatten(1).sum(1)
            for number in range(_CORNERS):
                uniform = noise.stream(_CORNER).uniform(tuple(x.shape[1:]), draw=number)
                odd |= margin(model(self._along(uniform - 0.5, x, 1.0)), y) >= highest
        return odd, kept > _CURVED

    def _along(self, slope: Tensor, x: Tensor, share: float) -> Tensor:
        """A step of a share of ε up the slope, inside the box."""
        return (x + share * self.eps * geometry.ascent(slope, self.norm)).clamp(0.0, 1.0)


@dataclass
class Ascending(Rows):
    sample: Tensor
    x_adv: Tensor


class Ascent(Search[Ascending]):
    """Climb a margin from a random point, by steps of 2ε at first and of none at last, as a cosine falls.

    Args:
        target: (N,), the class to go for; None: whichever is nearest.

    Attributes:
        ahead: (N, K), by how much the logit of each class has at most lain above the true one's.
        ends: (N, C, H, W), where each climb has ended.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        stream: int,
        target: Tensor | None,
        *,
        classes: int,
        norm: Norm,
        eps: float,
        steps: int,
        precision: Precision,
    ) -> None:
        super().__init__(samples, [stream], steps + 1)
        self.target, self.norm, self.eps = target, norm, eps
        self.seen = ByAge(model, lowered_steps(precision, steps))
        self.ahead = samples.x.new_full((len(samples.y), classes), -torch.inf)
        self.ends = samples.x.clone()
        self.sizes: Tensor = eps * (1.0 + (torch.arange(steps + 1) * math.pi / steps).cos())

    def begin(self, sample: Tensor, start: Tensor) -> Ascending:
        x, _, noise = self.picked(sample, start)
        return Ascending(sample, geometry.random_start(noise, x, self.norm, self.eps))

    def step(self, state: Ascending, age: Tensor) -> tuple[Ascending, Tensor, Tensor]:
        sample, x_adv = state.sample, state.x_adv.detach()
        x, y = self.samples.x[sample], self.samples.y[sample]
        last = bool((age == self.steps - 1).all())
        x_adv.requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            logits = self.seen(x_adv, age)
            value = (
                margin(logits, y) if self.target is None else targeted_margin(logits, y, self.target[sample])
            )
        self.ahead[sample] = torch.maximum(self.ahead[sample], _ahead(logits.detach(), y))
        fooled = self.seen.confirmed(logits, x_adv, y, age)
        if last:
            self.ends[sample] = x_adv
            return state, x_adv, fooled
        (gradient,) = torch.autograd.grad(value.sum(), x_adv)
        x_adv = x_adv.detach()
        moved = x_adv + per_sample(self.sizes[age].to(x), x) * geometry.ascent(gradient, self.norm)
        moved = (x + geometry.project(moved - x, self.norm, self.eps)).clamp(0.0, 1.0)
        return Ascending(sample, moved), x_adv, fooled


def _ahead(logits: Tensor, y: Tensor) -> Tensor:
    """z_k - z_y of every class k, -∞ of the true one: (N, K), (N,) -> (N, K)."""
    true = y[:, None]
    return (logits - logits.gather(1, true)).scatter(1, true, -torch.inf)


def linear_distances(model: nn.Module, x: Tensor, y: Tensor, logits: Tensor, norm: Norm) -> Tensor:
    """How far each class's boundary is as the gradients at ``x`` have it: (N, …), (N,), (N, K) -> (N, K).

    The distance of the true class, and of those that are not among the nine likeliest others, is infinite.
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    likeliest = others.topk(min(_LIKELIEST, logits.shape[1] - 1), dim=1).indices
    distances = torch.full_like(logits, torch.inf)
    point = x.detach().requires_grad_()
    with torch.enable_grad():
        again = model(point)
        for number, target in enumerate(likeliest.unbind(1), start=1):
            ahead = targeted_margin(again, y, target)
            (slope,) = torch.autograd.grad(ahead.sum(), point, retain_graph=number < likeliest.shape[1])
            # How much ahead a step of length 1 along the slope puts the class.
            gain = (slope * geometry.ascent(slope, norm)).flatten(1).sum(1)
            distance = -ahead.detach() / gain.clamp_min(torch.finfo(gain.dtype).tiny)
            distances.scatter_(1, target[:, None], distance[:, None])
    return distances


def audited(ids: Tensor, share: float, seed: int) -> Tensor:
    """Which samples are in the audit if they stand: (N,) int64 ids -> (N,) bool, of ``share`` on average."""
    return _drawn(Noise.for_samples(ids, seed, AutoAttack.__name__), share)


def _drawn(noise: Noise, share: float) -> Tensor:
    drawn: Tensor = noise.stream(_AUDIT).uniform((1,))[:, 0] < share
    return drawn
