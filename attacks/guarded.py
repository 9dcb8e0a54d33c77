"""What an adaptive attack sees of a classifier that is guarded by detectors and a reformer."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import AttackError
from robustness_bench.attacks.numerics import geometry


class Guarded(nn.Module, ABC):
    """A system that answers with a class or flags the image. All three methods carry gradients to x."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The final logits, after reforming: (N, C, H, W) -> (N, K)."""

    @abstractmethod
    def surfaces(self, x: Tensor, target: Tensor) -> list[Tensor]:
        """All the logits that ``target`` (N,) int64 should win for the system to be quiet: (N, K) each.

        Say of x, of its reconstruction, and of the image generated from its code and ``target``.
        """

    @abstractmethod
    def excess(self, x: Tensor) -> Tensor:
        """(score - threshold) / scale of each of D detectors, flagged exactly where >= 0: (N, D)."""


class Probe:
    """The system as an attack asks it: checks that answers are finite and counts passes of samples.

    Attributes:
        forwards: samples shown; ``surfaces`` and ``excess`` of one image count as one pass, as do
            the class and the flag of one that is judged.
        backwards: samples that a gradient was taken of.
    """

    def __init__(self, system: Guarded) -> None:
        self.system = system
        self.forwards = 0
        self.backwards = 0

    def differentiable(self, x: Tensor, target: Tensor) -> tuple[list[Tensor], Tensor]:
        """``surfaces`` and ``excess``, asked with one and the same tensor, for systems that cache."""
        self.forwards += len(x)
        surfaces = [_finite("logits", logits) for logits in self.system.surfaces(x, target)]
        return surfaces, _finite("excess", self.system.excess(x))

    def gradient(self, loss: Tensor, w: Tensor) -> Tensor:
        """Of each sample's loss (N,) with respect to its row of ``w`` (N, …); zero where it is not finite."""
        self.backwards += len(w)
        (gradient,) = torch.autograd.grad(loss.sum(), w)
        return geometry.mended(gradient)

    def logits(self, x: Tensor) -> Tensor:
        """The final logits without gradients: (N, C, H, W) -> (N, K)."""
        self.forwards += len(x)
        with torch.no_grad():
            return _finite("logits", self.system(x))

    def evaded(self, x: Tensor, y: Tensor) -> Tensor:
        """Whether each image passes unflagged and with another class than ``y``: (N,) bool."""
        wrong = self.logits(x).argmax(1) != y
        with torch.no_grad():
            flagged = (_finite("excess", self.system.excess(x)) >= 0).any(1)
        return wrong & ~flagged


def _finite(what: str, values: Tensor) -> Tensor:
    if not torch.isfinite(values).all():
        raise AttackError(f"the guarded system's {what} is not finite (NaN or infinity)")
    return values
