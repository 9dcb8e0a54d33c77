"""What an adaptive attack sees of a classifier that is guarded by detectors and a reformer."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import AttackError
from robustness_bench.attacks.numerics import geometry


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
