"""The two estimators of NAMID: local Deep InfoMax with the networks of Zhu et al. 2020.

Hjelm et al. 2018, https://arxiv.org/abs/1808.06670; Zhu et al. 2020, https://arxiv.org/abs/2002.11798;
trained by equations 4 or 5 of Zhou et al. 2022, https://arxiv.org/abs/2207.12203.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from defenses.mutual_information.bounds import donsker_varadhan

Objective = Literal["eq-5", "eq-4"]
Scores = Literal["cosine", "dot"]


class _Projection(nn.Module):
    """1×1 block: a nonlinear branch plus a shortcut that starts near the identity, then LayerNorm."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.nonlinear = nn.Sequential(
            nn.Conv2d(inputs, units, 1, bias=False),
            nn.BatchNorm2d(units),
            nn.ReLU(inplace=True),
            nn.Conv2d(units, units, 1),
        )
        self.shortcut = nn.Conv2d(inputs, units, 1)
        self.norm = nn.LayerNorm(units)
        nn.init.uniform_(self.shortcut.weight, -0.01, 0.01)
        with torch.no_grad():
            for unit in range(min(inputs, units)):
                self.shortcut.weight[unit, unit] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) -> (N, h·w, units)."""
        features = self.nonlinear(x) + self.shortcut(x)
        normed: Tensor = self.norm(features.flatten(2).transpose(1, 2))
        return normed


class Estimator(nn.Module):
    """E_φ: one mutual-information estimate per sample between an input and logits.

    Args:
        channels, classes: of the images and of the logits.
        units: width U of the space in which both are compared; 2048 in the paper.
        scores: "dot" is the papers' inner product of the two vectors, each of length about √U behind
            LayerNorm; "cosine" divides it by U.

    Differs from the paper: "cosine" is the default. A difference of Donsker–Varadhan terms, which
    equation 5 maximises, grows with the scale of the scores: with "dot" it reaches hundreds of nats
    and L_mi drowns L_adv.
    """

    def __init__(self, channels: int, classes: int, units: int, scores: Scores) -> None:
        super().__init__()
        self.divisor = units if scores == "cosine" else 1
        self.local = nn.Sequential(
            nn.Conv2d(channels, 64, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 128, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(inplace=True),
            _Projection(128, units),
        )
        self.overall = _Projection(classes, units)

    def forward(self, inputs: Tensor, *logits: Tensor) -> tuple[Tensor, ...]:
        """The estimate in nats for each of several outputs against the same inputs.

        Args:
            inputs: (N, C, H, W), natural images or noise.
            logits: each (N, K).

        Returns:
            One (N,) per element of ``logits``; the other N - 1 samples are the marginal.
        """
        local = self.local(inputs)  # (N, L, U)
        return tuple(self._estimate(local, output) for output in logits)

    def _estimate(self, local: Tensor, logits: Tensor) -> Tensor:
        overall = self.overall(logits[:, :, None, None])[:, 0]  # (N, U)
        scores = torch.einsum("iu,jlu->ijl", overall, local) / self.divisor
        return donsker_varadhan(scores)


class MIEstimators(nn.Module):
    """E_n for the natural pattern (fed with x) and E_a for the adversarial one (fed with x̃ - x)."""

    def __init__(self, channels: int, classes: int, units: int, scores: Scores) -> None:
        super().__init__()
        self.natural = Estimator(channels, classes, units, scores)
        self.adversarial = Estimator(channels, classes, units, scores)

    def terms(
        self, x: Tensor, x_adv: Tensor, y: Tensor, h: Tensor, h_adv: Tensor, objective: Objective
    ) -> dict[str, Tensor]:
        """The training loss as named scalar terms, to be minimised; h and h_adv are h_θ0's outputs.

        "eq-4" maximises E_n(h(x)) and E_a(h(x̃)) over the whole batch. "eq-5" maximises
        E_n(h(x)) - E_n(h(x̃)) and E_a(h(x̃)) - E_a(h(x)) over the samples of equation 6; a batch
        with fewer than two of them has no terms.
        """
        if objective == "eq-4":
            (natural,) = self.natural(x, h)
            (adversarial,) = self.adversarial(x_adv - x, h_adv)
            return {"natural": -natural.mean(), "adversarial": -adversarial.mean()}
        chosen = select(h, h_adv, y)
        if int(chosen.sum()) < 2:
            return {}
        x, x_adv, h, h_adv = x[chosen], x_adv[chosen], h[chosen], h_adv[chosen]
        natural, natural_adv = self.natural(x, h, h_adv)
        adversarial, adversarial_adv = self.adversarial(x_adv - x, h, h_adv)
        return {
            "natural": (natural_adv - natural).mean(),
            "adversarial": (adversarial - adversarial_adv).mean(),
        }


def select(logits: Tensor, adversarial_logits: Tensor, y: Tensor) -> Tensor:
    """Equation 6 as a mask (N,): right on the natural image, wrong on the adversarial one."""
    return (logits.argmax(1) == y) & (adversarial_logits.argmax(1) != y)
