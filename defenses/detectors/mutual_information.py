"""The mutual-information detector: Hsu et al. 2018, https://arxiv.org/abs/1809.08986."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from robustness_bench.defenses.detectors.base import Detector
from robustness_bench.defenses.detectors.divergence import check_temperature
from robustness_bench.defenses.detectors.scores import READINGS, Reading, log_probabilities
from robustness_bench.defenses.detectors.view import DetectorError, View

Reconstruct = Literal["autoencoder", "generator"]


@dataclass(frozen=True, kw_only=True)
class MutualInformation(Detector):
    """How little an image's class says about the class of its reconstruction.

    Args:
        reading: see ``scores.READINGS``; the paper prints "literal".
        generator: part that gives p(A | B) by making an image of every class from the code of x.
        autoencoder: part that reconstructs x; None if the generator does.
        reconstruct: "autoencoder", or "generator": G(E(x), argmax F(x)).
        delta: added to the joint entropy of "literal" and "cross_jaccard", in nats.
        temperature: of every softmax.
    """

    reading: Reading
    generator: str
    autoencoder: str | None = None
    reconstruct: Reconstruct = "autoencoder"
    delta: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if self.reading not in READINGS:
            raise DetectorError(f"reading must be one of {', '.join(READINGS)}, got {self.reading!r}")
        if self.reconstruct not in get_args(Reconstruct):
            raise DetectorError(f"reconstruct must be autoencoder or generator, got {self.reconstruct!r}")
        if (self.reconstruct == "autoencoder") != bool(self.autoencoder):
            raise DetectorError(
                f"autoencoder must name a part for reconstruct='autoencoder' and be left out for "
                f"'generator', got {self.autoencoder!r} for {self.reconstruct!r}"
            )
        if not 0 <= self.delta < float("inf"):
            raise DetectorError(f"delta must be at least 0 and finite, got {self.delta}")
        if self.delta and self.reading in ("vi", "cross"):
            raise DetectorError(f"delta must be 0 for {self.reading!r}, which does not use it: {self.delta}")

    @property
    def rebuilt_by(self) -> tuple[str, ...]:
        return (self.autoencoder,) if self.autoencoder else ()

    @property
    def generated_by(self) -> tuple[str, ...]:
        return (self.generator,)

    def score(self, view: View) -> Tensor:
        on_x, on_rebuilt, on_generated = (
            log_probabilities(logits, self.temperature)
            for logits in (view.logits, self._rebuilt(view), view.conditional_logits(self.generator))
        )
        return READINGS[self.reading](on_x, on_rebuilt, on_generated, self.delta)

    def _rebuilt(self, view: View) -> Tensor:
        """Return the logits of the reconstruction, (N, K)."""
        if self.autoencoder:
            return view.rebuilt_logits(self.autoencoder)
        predicted = view.logits.argmax(1)
        rows = predicted[:, None, None].expand(-1, 1, view.logits.shape[1])
        return view.conditional_logits(self.generator).gather(1, rows)[:, 0]
