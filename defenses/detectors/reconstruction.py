"""MagNet's reconstruction detector: Meng and Chen 2017, https://arxiv.org/abs/1705.09064, 4.2.1."""

from dataclasses import dataclass

from torch import Tensor

from robustness_bench.defenses.detectors.base import Detector
from robustness_bench.defenses.detectors.scores import distance
from robustness_bench.defenses.detectors.view import DetectorError, View


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Detector):
    """The mean over pixels of |x - AE(x)|^p."""

    autoencoder: str
    p: float

    def __post_init__(self) -> None:
        if not 1 <= self.p < float("inf"):
            raise DetectorError(f"p must be at least 1 and finite, got {self.p}")

    def score(self, view: View) -> Tensor:
        return distance(view.x, view.rebuilt(self.autoencoder), self.p)
