"""MagNet's detector based on the classifier: Meng and Chen 2017, https://arxiv.org/abs/1705.09064, 4.2.2."""

from dataclasses import dataclass

from torch import Tensor

from robustness_bench.defenses.detectors.base import Detector
from robustness_bench.defenses.detectors.scores import jensen_shannon, log_probabilities
from robustness_bench.defenses.detectors.view import DetectorError, View


def check_temperature(temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise DetectorError(f"temperature must be positive and finite, got {temperature}")


@dataclass(frozen=True, kw_only=True)
class Divergence(Detector):
    """The Jensen–Shannon divergence, in nats, of softmax(Z / T) on the image and on its reconstruction."""

    autoencoder: str
    temperature: float

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def score(self, view: View) -> Tensor:
        return jensen_shannon(
            log_probabilities(view.logits, self.temperature),
            log_probabilities(view.rebuilt_logits(self.autoencoder), self.temperature),
        )

    @property
    def rebuilt_by(self) -> tuple[str, ...]:
        return (self.autoencoder,)
