"""A detector of one's own: Hendrycks and Gimpel 2017, https://arxiv.org/abs/1610.02136."""

from dataclasses import dataclass

from torch import Tensor

from robustness_bench.defenses.detectors.base import Detector
from robustness_bench.defenses.detectors.view import View


@dataclass(frozen=True, kw_only=True)
class Unsure(Detector):
    """1 minus the largest softmax output: what the classifier is unsure of is suspicious.

    Args:
        temperature: that logits are divided by.
    """

    temperature: float = 1.0

    @property
    def parts(self) -> tuple[str, ...]:
        return ()

    def score(self, view: View) -> Tensor:
        return 1 - (view.logits.double() / self.temperature).softmax(1).amax(1)
