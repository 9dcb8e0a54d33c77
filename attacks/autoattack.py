"""AutoAttack: Croce and Hein 2020, https://arxiv.org/abs/2003.01690.

The members are our own, with the authors' algorithms and numbers, in a loop that ties no sample's outcome
to another's: their code seeds the global generator, draws noise for a whole batch at once, and keeps a
sample to the end of a run that it fell in at the start.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import AttackError, BudgetAttack
from robustness_bench.attacks.numerics.losses import LOSSES, dlr, targeted_dlr
from robustness_bench.attacks.numerics.noise import Noise, key_of
from robustness_bench.attacks.numerics.precision import Precision, check_precision, confirmed
from robustness_bench.attacks.searches.apgd import APGD, TargetedLoss
from robustness_bench.attacks.searches.fab import FAB
from robustness_bench.attacks.searches.pool import Found, Samples, searched
from robustness_bench.attacks.searches.square import square

_MOST_TARGETS = 9  # AutoAttack's own number of target classes

_MEMBERS: dict[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
    "square": ("square",),
}


@dataclass(frozen=True, kw_only=True)
class AutoAttack(BudgetAttack):
    """An ensemble of parameter-free attacks, each run on the samples that survived the ones before it.

    Args:
        version: "standard" (APGD-CE, targeted APGD-DLR, targeted FAB, Square), "plus" (also untargeted
            APGD-DLR and FAB, with five restarts), "rand" (APGD-CE and APGD-DLR, each gradient a mean of
            20, for randomised models) or "square" (that member alone, which uses only scores).
        loss: what "apgd-ce", the first member, climbs: "log-odds", or "ce" as in the paper, whose gradient
            vanishes in float32 for wide logits.
        steps: of each run of APGD and FAB; 100 in the paper.
        square_queries: Square's queries per sample; 5000 in the paper.
        precision: of APGD's gradients (``numerics.precision``); FAB's say where the boundary lies exactly.

    Differs from the paper: with fewer than ten classes there are fewer targets; where the DLR losses
    are not defined (targeted: below four classes, untargeted: below three) the margin replaces them.
    """

    _leaves: ClassVar[bool] = True
    """Whether a sample leaves the moment it falls."""

    version: str = "standard"
    loss: Literal["log-odds", "ce"] = "log-odds"
    steps: int = 100
    square_queries: int = 5000
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_precision(self.precision)
        if self.version not in _MEMBERS:
            raise ValueError(f"version must be one of {', '.join(_MEMBERS)}, got {self.version!r}")
        if self.loss not in ("log-odds", "ce"):
            raise ValueError(f"loss must be log-odds or ce, got {self.loss!r}")
        if self.steps < 1 or self.square_queries < 1:
            raise ValueError(f"steps and square_queries must be at least 1, got {self!r}")

    def passes(self, classes: int) -> tuple[int, int]:
        targets = min(_MOST_TARGETS, classes - 1)
        restarts, averaged = (5 if self.version == "plus" else 1), (20 if self.version == "rand" else 1)
        apgd = restarts * (self.steps + 1) * averaged
        costs = {
            "apgd-ce": (apgd, apgd),
            "apgd-dlr": (apgd, apgd),
            "apgd-t": (targets * (self.steps + 1), targets * (self.steps + 1)),
            "fab": (restarts * 2 * self.steps, restarts * self.steps * classes),
            "fab-t": (targets * 2 * self.steps, targets * self.steps),
            "square": (self.square_queries, 0),
        }
        members = [costs[name] for name in _MEMBERS[self.version]]
        return sum(forwards for forwards, _ in members), sum(backwards for _, backwards in members)

    def for_transfer(self) -> "AutoAttack":
        return _ToTheEnd(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        with torch.no_grad():
            logits, again = model(x), model(x)
        if logits.shape[1] < 2:
            raise AttackError("AutoAttack needs a model of at least 2 classes, this one has 1")
        samples, x_adv, draws = Samples(x, y, noise), x.clone(), (logits != again).any(1)
        for leave, which in ((True, ~draws), (False, draws)):
            rows = which.nonzero()[:, 0]
            if len(rows):
                x_adv[rows] = self._attacked(model, samples.pick(rows), logits[rows], leave)
        return x_adv

    def _attacked(self, model: nn.Module, samples: Samples, logits: Tensor, leave: bool) -> Tensor:
        """An image for each of N samples, by one member after another.

        Args:
            leave: not where the model draws, whose first success may be a chance one.
        """
        x, y, _ = samples
        targets, wrong = ranked(logits), logits.argmax(1) != y
        x_adv, rows = x.clone(), torch.arange(len(x), device=x.device)  # the samples still under attack
        for name in _MEMBERS[self.version]:
            if name.startswith("fab"):
                rows = rows[~wrong[rows]]  # nothing is nearer than the natural image
            if not len(rows):
                break
            found = self._run(name, model, samples.pick(rows), targets[rows], len(x), leave=leave)
            # In a batch of others rounding is another.
            fooled = confirmed(model, found.images, y[rows], found.fooled)
            x_adv[rows[fooled]] = found.images[fooled]
            rows = rows[~fooled]
        return x_adv

    def _run(
        self, name: str, model: nn.Module, samples: Samples, targets: Tensor, room: int, *, leave: bool = True
    ) -> Found:
        """One member from all its starts."""
        targeted = name.endswith("-t")
        restarts = 5 if self.version == "plus" else 1
        streams = [key_of(name, start) for start in range(targets.shape[1] if targeted else restarts)]
        aims = targets if targeted else None
        if name == "square":
            noise = samples.noise.stream(streams[0])
            return square(
                model,
                samples.x,
                samples.y,
                noise,
                norm=self.norm,
                eps=self.eps,
                queries=self.square_queries,
                room=room,
            )
        if name.startswith("fab"):
            fab = FAB(
                model,
                samples,
                streams,
                norm=self.norm,
                eps=self.eps,
                limit=self._limit,
                targets=aims,
                steps=self.steps,
            )
            return searched(fab, room=room, leave=leave and self._leaves)
        apgd = APGD(
            model,
            samples,
            streams,
            norm=self.norm,
            eps=self.eps,
            loss=self._loss(name),
            targets=aims,
            steps=self.steps,
            averaged=20 if self.version == "rand" else 1,
            precision=self.precision,
        )
        return searched(apgd, room=room, leave=leave and self._leaves)

    def _loss(self, name: str) -> TargetedLoss:
        if name == "apgd-t":
            return targeted_dlr
        untargeted = LOSSES[self.loss] if name == "apgd-ce" else dlr
        return lambda logits, y, target: untargeted(logits, y)


class _ToTheEnd(AutoAttack):
    """APGD and FAB go on after a success: the last one carries over to other models better than the first."""

    _leaves: ClassVar[bool] = False

    @property
    def stream(self) -> str:
        return AutoAttack.__name__


def ranked(logits: Tensor) -> Tensor:
    """The classes after the model's own, likeliest first, nine at most: (N, K) -> (N, targets)."""
    return logits.sort(dim=1)[1].flip(1)[:, 1 : _MOST_TARGETS + 1]
