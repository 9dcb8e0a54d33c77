"""An adaptive attack on detectors: it knows them and must not be flagged.

After Carlini and Wagner 2017, "MagNet and 'Efficient Defenses Against Adversarial Attacks' are not robust
to adversarial examples", https://arxiv.org/abs/1711.08478, and their code, github.com/carlini/MagNet.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import AttackError, check_images, check_result, frozen
from robustness_bench.attacks.constant_search import ConstantSearch, Nearest, hinge, improved
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.adam import Adam
from robustness_bench.attacks.numerics.losses import margin

_INSIDE = 0.999  # pixels of exactly 0 and 1 stay at finite w, where tanh is not yet flat
_CHECKS = 10  # of progress, per search step
_CLEAR = 1e-4  # beyond boundary and thresholds, since the same image rounds differently in another batch


class Guarded(nn.Module, ABC):
    """A system that classifies or flags an image. All three methods are differentiable in x."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The final logits, after reforming: (N, C, H, W) -> (N, K)."""

    @abstractmethod
    def surfaces(self, x: Tensor, target: Tensor) -> list[Tensor]:
        """All logits that ``target`` (N,) int64 must win for the image to pass unflagged: (N, K) each.

        For example of x, of its reconstruction, and of the image generated from its code and ``target``.
        """

    @abstractmethod
    def excess(self, x: Tensor) -> Tensor:
        """(score - threshold) / scale of each of D detectors, flagged exactly where >= 0: (N, D)."""


class Probe:
    """The system as an attack sees it: checks that outputs are finite and counts passes of samples.

    Attributes:
        forwards: samples evaluated; ``surfaces`` and ``excess`` of one image count as one pass, as do
            class and flag of a judged image.
        backwards: samples for which a gradient was computed.
    """

    def __init__(self, system: Guarded) -> None:
        self.system = system
        self.forwards = 0
        self.backwards = 0

    def differentiable(self, x: Tensor, target: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return ``surfaces`` and ``excess`` of the same tensor object, which lets a system cache passes."""
        self.forwards += len(x)
        surfaces = [_finite("logits", logits) for logits in self.system.surfaces(x, target)]
        return surfaces, _finite("excess", self.system.excess(x))

    def gradient(self, loss: Tensor, w: Tensor) -> Tensor:
        """Return the gradient of each sample's loss (N,) by its row of ``w``; zero where not finite."""
        self.backwards += len(w)
        (gradient,) = torch.autograd.grad(loss.sum(), w)
        return geometry.mended(gradient)

    def logits(self, x: Tensor) -> Tensor:
        """The final logits without gradients: (N, C, H, W) -> (N, K)."""
        self.forwards += len(x)
        with torch.no_grad():
            return _finite("logits", self.system(x))

    def evaded(self, x: Tensor, y: Tensor) -> Tensor:
        """Return whether each image passes unflagged with a class other than ``y``: (N,) bool."""
        wrong = self.logits(x).argmax(1) != y
        with torch.no_grad():
            flagged = (_finite("excess", self.system.excess(x)) >= 0).any(1)
        return wrong & ~flagged


def _finite(what: str, values: Tensor) -> Tensor:
    if not torch.isfinite(values).all():
        raise AttackError(f"the guarded system's {what} is not finite (NaN or infinity)")
    return values


class Evasion(NamedTuple):
    """What the attack did to each of N samples."""

    x_adv: Tensor
    """(N, C, H, W): the nearest image that evades; the natural one where none was found."""
    success: Tensor
    """(N,) bool: x_adv is unflagged and misclassified, judged by a separate pass."""
    distance: Tensor
    """(N,): the L2 norm of x_adv - x. 0 with success: the natural image already evades."""
    forwards: float
    """Forward passes of the whole system per sample, the mean over the batch: see ``Probe``."""
    backwards: float
    """Backward passes per sample, the mean over the batch."""


@dataclass(frozen=True, kw_only=True)
class AdaptiveDetection:
    """The nearest image in L2 that a guarded system misclassifies and does not flag.

    For one target class t after another, minimise by Adam on w, where x' = (tanh(w) + 1) / 2,

        ‖x' - x‖₂² + c · (Σ max(κ - margin of t, 0) + weight · Σ max(excess + slack, 0))

    over surfaces and over detectors, for the smallest c that succeeds. Success is only ever that x' is
    unflagged and misclassified, whatever its class. Where the scores saturate and have no gradient, the
    logits still have one.

    Args:
        targets: number of classes tried for each sample, starting with the likeliest wrong classes of the
            natural image; at most all wrong classes.
        search_steps: values of c tried for each sample and target.
        steps: gradient steps for each.
        step_size: Adam's learning rate, in units of w.
        initial_const: first c.
        confidence: κ, in logits.
        weight: of the detectors' excess relative to logits.
        slack: how far below its threshold the loss pushes a score, in the detector's scale.
        abort_early: check ten times per search step, and end it for a sample whose loss has stalled.

    Differs from the reference: hinges on the logits of every surface, several targets one after another,
    and c per sample. There, steps are 10 000 of 0.01, κ is 1 and the summed excess weighs 1000.
    """

    targets: int = 2
    search_steps: int = 4
    steps: int = 300
    step_size: float = 0.05
    initial_const: float = 1.0
    confidence: float = 0.1
    weight: float = 1.0
    slack: float = 0.1
    abort_early: bool = True

    def __post_init__(self) -> None:
        for name in ("targets", "search_steps", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("step_size", "initial_const"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        for name in ("confidence", "weight", "slack"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")

    def passes(self, classes: int) -> tuple[int, int]:
        """Return the most forward and backward passes that a sample can cost, for time estimates."""
        gradients = min(self.targets, classes - 1) * self.search_steps * self.steps
        return 2 * gradients + 3, gradients

    def run(self, system: Guarded, x: Tensor, y: Tensor) -> Evasion:
        """Attack N samples; a natural image that already evades is left unchanged.

        Deterministic. Up to rounding, a sample's result does not depend on the other samples.

        Raises:
            ValueError: x or y are not as ``robustness_bench.attacks.base`` says.
            AttackError: logits or excess of the system that are not finite.
        """
        check_images(x, y)
        probe = Probe(system)
        with frozen(system):
            x_adv = self.perturb(probe, x, y) if len(x) else x.clone()
            if len(x):
                check_result(x_adv, x)
            success = probe.evaded(x_adv, y)
        x_adv = torch.where(success[:, None, None, None], x_adv, x)
        n = max(len(x), 1)
        return Evasion(
            x_adv, success, geometry.size(x_adv - x, "l2"), probe.forwards / n, probe.backwards / n
        )

    def perturb(self, probe: Probe, x: Tensor, y: Tensor) -> Tensor:
        """Return the nearest images that evade, natural where none does. The system is already frozen."""
        found = x.clone()
        held = ~probe.evaded(x, y)
        x, y = x[held], y[held]
        nearest = Nearest(x)
        if len(x):
            for target in self._targets(probe.logits(x), y):
                self._approach(probe, x, y, target, nearest)
        found[held] = nearest.images
        return found

    def _targets(self, logits: Tensor, y: Tensor) -> Tensor:
        """(N, K), (N,) -> (targets, N): the likeliest wrong classes, the likeliest first."""
        wrong = logits.scatter(1, y[:, None], -torch.inf)
        likeliest: Tensor = wrong.argsort(dim=1, descending=True, stable=True)
        return likeliest[:, : min(self.targets, logits.shape[1] - 1)].T

    def _approach(self, probe: Probe, x: Tensor, y: Tensor, target: Tensor, nearest: Nearest) -> None:
        """Offer ``nearest`` every evading image on the way to ``target`` (N,), for one c after another."""
        search = ConstantSearch.start(self.initial_const, x)
        for _ in range(self.search_steps):
            success = torch.zeros_like(y, dtype=torch.bool)
            rows = torch.arange(len(x), device=x.device)  # the samples still in this search step
            descent = Adam(((2.0 * x - 1.0) * _INSIDE).atanh())
            previous = torch.full_like(search.c, torch.inf)
            for step in range(self.steps):
                if not len(rows):
                    break
                w = descent.w.requires_grad_()
                x_adv = (w.tanh() + 1.0) / 2.0
                distance = (x_adv - x[rows]).square().flatten(1).sum(1)
                unrest, excess = self._unrest(probe, x_adv, target[rows])
                loss = distance + search.c[rows] * unrest
                gradient = probe.gradient(loss, w)
                x_adv, distance, loss = x_adv.detach(), distance.detach(), loss.detach()

                quiet = (excess < -_CLEAR).all(1)
                quiet &= ~success[rows] | (distance < nearest.distance[rows])
                judged, images = rows[quiet], x_adv[quiet]
                if len(judged):
                    evaded = margin(probe.logits(images), y[judged]) > _CLEAR
                    success[judged] |= evaded
                    nearest.offer(judged, images, distance[quiet], evaded)

                descent.step(gradient, self.step_size)
                if self.abort_early and step % max(self.steps // _CHECKS, 1) == 0:
                    stay = improved(loss, previous)
                    rows, previous = rows[stay], loss[stay]
                    descent.keep(stay)
            search = search.after(success)

    def _unrest(self, probe: Probe, x_adv: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of all hinges, 0 if ``target`` passes unflagged, and the excess: (N,), (N, D)."""
        surfaces, excess = probe.differentiable(x_adv, target)
        scores = self.weight * (excess + self.slack).relu().sum(1)
        return sum((hinge(-margin(logits, target), self.confidence) for logits in surfaces), scores), excess
