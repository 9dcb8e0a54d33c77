"""The contract between a detector and its callers."""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from robustness_bench.defenses.detectors.view import View


@dataclass(frozen=True, kw_only=True)
class Detector(ABC):
    """A way to score images; its fields are its hyperparameters and its identity in records."""

    @property
    @abstractmethod
    def parts(self) -> tuple[str, ...]:
        """Names of the learned networks that it uses."""

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

    def identity(self) -> dict[str, Any]:
        """Name and every hyperparameter, ready for JSON."""
        return {"detector": type(self).__name__, **dataclasses.asdict(self)}
