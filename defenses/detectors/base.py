"""The contracts between a detector, or a learned part of it, and their callers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.defenses.detectors.registry import ROLES
from robustness_bench.defenses.detectors.view import View


@dataclass(frozen=True, kw_only=True)
class Detector(ABC):
    """A way to score images; its fields are its hyperparameters and its identity in records."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the learned networks that it uses: what its hyperparameters of ``ROLES`` name."""
        return tuple(name for role in ROLES if (name := getattr(self, role, None)))

    @abstractmethod
    def score(self, view: View) -> Tensor:
        """Return (N,) float64; higher is more suspicious. Finite wherever the networks' outputs are."""

    @property
    def rebuilt_by(self) -> tuple[str, ...]:
        """Auto-encoders whose Z(AE(x)) the score uses."""
        return ()

    @property
    def generated_by(self) -> tuple[str, ...]:
        """Generators whose Z(G(E(x), j)) the score uses."""
        return ()


class Images(NamedTuple):
    """The natural training images of one step."""

    x: Tensor
    """(N, C, H, W) in [0, 1]."""
    y: Tensor
    """(N,) int64."""
    fixed: Noise
    """Noise that is the same for a sample in every epoch."""
    fresh: Noise
    """Noise that differs in every epoch."""


@dataclass(frozen=True, kw_only=True)
class Part(ABC):
    """A network that detectors share. Its fields are its identity; the trainer does everything else."""

    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    """Of Adam."""

    @abstractmethod
    def build(self, channels: int, size: int, classes: int) -> nn.Module:
        """Return a freshly initialised network; draws from torch's global generator."""

    @abstractmethod
    def terms(self, network: nn.Module, images: Images) -> dict[str, Tensor]:
        """Return named terms; their sum is the loss of one step."""

    @abstractmethod
    def figures(self, network: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
        """Return its quality measures on held-out images (N, C, H, W) with labels (N,)."""

    def groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Return Adam's parameter groups; ``lr_scale`` multiplies the learning rate of a group."""
        return [{"params": list(network.parameters())}]
