"""The contract between a learned part of a detector and the trainer: what ``Defense`` is to a model."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from robustness_bench.attacks.numerics.noise import Noise


class Images(NamedTuple):
    """Natural training images of one step."""

    x: Tensor
    """(N, C, H, W) in [0, 1]."""
    y: Tensor
    """(N,) int64."""
    fixed: Noise
    """The same for a sample in every epoch."""
    fresh: Noise
    """Another in every epoch."""


@dataclass(frozen=True, kw_only=True)
class Part(ABC):
    """A network that detectors share. Its fields are its identity; the trainer owns everything else."""

    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    """Of Adam."""

    @abstractmethod
    def build(self, channels: int, size: int, classes: int) -> nn.Module:
        """A freshly initialised network; draws from torch's global generator."""

    @abstractmethod
    def terms(self, network: nn.Module, images: Images) -> dict[str, Tensor]:
        """Named terms; their sum is the loss of one step."""

    @abstractmethod
    def figures(self, network: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
        """What it reaches on held-out images (N, C, H, W), labels (N,)."""

    def groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups of Adam; ``lr_scale`` is a group's share of the learning rate."""
        return [{"params": list(network.parameters())}]
