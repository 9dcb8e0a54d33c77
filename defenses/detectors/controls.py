"""Scores without mutual information: baselines for an MI detector at the same false-positive rate."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustness_bench.attacks.numerics.noise import key_of, mix
from robustness_bench.defenses.detectors.base import Detector
from robustness_bench.defenses.detectors.scores import distance, entropy, log_probabilities
from robustness_bench.defenses.detectors.view import View


@dataclass(frozen=True, kw_only=True)
class ConditionalReconstruction(Detector):
    """The mean over pixels of |x - G(E(x), argmax F(x))|."""

    generator: str

    def score(self, view: View) -> Tensor:
        return distance(view.x, view.generated(self.generator, view.logits.argmax(1)), 1)


@dataclass(frozen=True, kw_only=True)
class OutputEntropy(Detector):
    """H(F(x)), in nats: the classifier's uncertainty alone."""

    def score(self, view: View) -> Tensor:
        return entropy(log_probabilities(view.logits))


@dataclass(frozen=True, kw_only=True)
class RandomScore(Detector):
    """Uniform on [0, 1): a hash of the float32 pixels, the same in every batch, process and device."""

    def score(self, view: View) -> Tensor:
        pixels = view.x.detach().float().flatten(1) + 0.0  # -0.0 becomes 0.0, since their bits differ
        positions = torch.arange(pixels.shape[1], device=pixels.device)
        hashed = mix(mix(pixels.view(torch.int32).long()) + mix(positions + key_of("random score")))
        bits = (mix(hashed.sum(1)) >> 11) & (2**53 - 1)
        return bits.double() * 2.0**-53
