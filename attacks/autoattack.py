"""AutoAttack: Croce and Hein 2020, https://arxiv.org/abs/2003.01690, with attacks from ``pyautoattack``.

APGD and FAB and all their parameters are the library's. Square is ours, and so is the loop over members,
restarts and targets, so that outcomes depend only on the sample: the library seeds the global generator
and draws noise for a whole batch at once, so there a sample's result depends on its neighbours.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import AttackError, BudgetAttack, predict
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.losses import LOSSES
from robustness_bench.attacks.numerics.margins import margin
from robustness_bench.attacks.numerics.noise import Noise, NoiseOfSamples, key_of, mix
from robustness_bench.attacks.searches.square import square

_LIBRARY_NORM = {"linf": "Linf", "l2": "L2"}
_MOST_TARGETS = 9  # AutoAttack's own number of target classes
_SILENT = logging.Logger("autoattack", logging.CRITICAL)  # its warnings do not say which cell they concern

_MEMBERS: dict[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
    "square": ("square",),
}
_Run = Callable[[Tensor, Tensor, Noise], Tensor]
"""One start of a member: images, labels and noise of N samples -> an image for each."""


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

    Differs from the paper: with fewer than ten classes there are fewer targets; where the DLR losses
    are not defined (targeted: below four classes, untargeted: below three) the margin replaces them.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    version: str = "standard"
    loss: Literal["log-odds", "ce"] = "log-odds"
    steps: int = 100
    square_queries: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
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
            "apgd-t": (targets * (self.steps + 2), targets * (self.steps + 1)),
            "fab": (restarts * 2 * self.steps, restarts * self.steps * classes),
            "fab-t": (targets * 2 * self.steps, targets * self.steps),
            "square": (self.square_queries, 0),
        }
        members = [costs[name] for name in _MEMBERS[self.version]]
        return sum(forwards for forwards, _ in members), sum(backwards for _, backwards in members)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        if classes < 2:
            raise AttackError("AutoAttack needs a model of at least 2 classes, this one has 1")
        x = x.contiguous()  # the library calls view() to flatten images, which fails for channels-last memory
        x_adv, rows = x.clone(), torch.arange(len(x), device=x.device)
        for stream, run in self._runs(model, x.device, classes):
            if not len(rows):
                break
            found = run(x[rows], y[rows], Noise(mix(noise[rows].keys + stream)))
            # FAB looks for the nearest image, wherever it is.
            inside = geometry.size(found - x[rows], self.norm) <= self._limit
            fooled = (predict(model, found) != y[rows]) & inside
            x_adv[rows[fooled]] = found[fooled]
            rows = rows[~fooled]
        return x_adv

    def _runs(self, model: nn.Module, device: torch.device, classes: int) -> Iterator[tuple[int, _Run]]:
        """Yield every start of every member, with the key of its random numbers."""
        restarts = 5 if self.version == "plus" else 1
        targets = range(2, min(_MOST_TARGETS, classes - 1) + 2)  # the library's rank 1 is the class itself
        for name in _MEMBERS[self.version]:
            runs: list[_Run]
            if name in ("apgd-ce", "apgd-dlr"):
                runs = [self._apgd(model, device, name, classes)] * restarts
            elif name == "apgd-t":
                runs = [self._apgd_targeted(model, device, rank, classes) for rank in targets]
            elif name == "fab":
                runs = [self._fab(model, device, start=restart > 0) for restart in range(restarts)]
            elif name == "fab-t":
                runs = [self._fab(model, device, rank=rank) for rank in targets]
            else:
                runs = [partial(self._square, model)]
            yield from ((key_of(name, number), run) for number, run in enumerate(runs))

    def _settings(self, device: torch.device) -> dict[str, Any]:
        return {"n_iter": self.steps, "norm": _LIBRARY_NORM[self.norm], "eps": self.eps, "device": device}

    def _apgd(self, model: nn.Module, device: torch.device, name: str, classes: int) -> _Run:
        from pyautoattack.autopgd_base import APGDAttack

        averaged = 20 if self.version == "rand" else 1
        # The library climbs the method of this name, so replacing it replaces the loss.
        member = APGDAttack(model, loss="dlr", eot_iter=averaged, logger=_SILENT, **self._settings(device))
        if name == "apgd-ce":
            member.dlr_loss = LOSSES[self.loss]
        elif classes < 3:
            member.dlr_loss = margin
        return partial(_climbed, member)

    def _apgd_targeted(self, model: nn.Module, device: torch.device, rank: int, classes: int) -> _Run:
        from pyautoattack.autopgd_base import APGDAttack_targeted

        member = APGDAttack_targeted(model, logger=_SILENT, **self._settings(device))

        def targeted_margin(logits: Tensor, y: Tensor) -> Tensor:
            each = torch.arange(len(y), device=y.device)
            return logits[each, member.y_target] - logits[each, y]

        if classes < 4:
            member.dlr_loss_targeted = targeted_margin

        def run(x: Tensor, y: Tensor, noise: Noise) -> Tensor:
            with torch.no_grad():
                member.y_target = model(x).sort(dim=1)[1][:, -rank]
            return _climbed(member, x, y, noise)

        return run

    def _fab(self, model: nn.Module, device: torch.device, *, rank: int = 0, start: bool = False) -> _Run:
        """Untargeted, or at the class of a rank."""
        from pyautoattack.fab_pt import FABAttack_PT

        member = FABAttack_PT(model, **self._settings(device))
        member.target_class = rank

        def run(x: Tensor, y: Tensor, noise: Noise) -> Tensor:
            with NoiseOfSamples(noise):
                found: Tensor = member.attack_single_run(x, y, use_rand_start=start, is_targeted=rank > 0)
            return found.detach()

        return run

    def _square(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        return square(model, x, y, noise, norm=self.norm, eps=self.eps, queries=self.square_queries)


def _climbed(member: Any, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
    """Return what one start of the library's APGD found."""
    member.init_hyperparam(x)
    with NoiseOfSamples(noise):
        found: Tensor = member.attack_single_run(x, y)[3]
    return found.detach()
