"""Estimators of mutual information: local Deep InfoMax with the networks of Zhu et al. 2020.

Hjelm et al. 2018, https://arxiv.org/abs/1808.06670; Zhu et al. 2020, https://arxiv.org/abs/2002.11798;
trained by equations 4 or 5 of Zhou et al. 2022, https://arxiv.org/abs/2207.12203, or by the loss of
their code, https://github.com/dwDavidxd/MIAT.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustness_bench.defenses.mutual_information.bounds import Bound, lower_bound

Objective = Literal["eq-5", "eq-4", "author", "standard"]
Scores = Literal["cosine", "dot"]
Apply = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
"""(network, its input) -> its output; for example one batch at a time."""

_SHORTEST = 1e-6  # a shorter vector is not scaled to length 1: its direction is rounding noise
# The weights in the loss of the authors' code (objective "author").
_FOOLED_APART = 5.0
_SURVIVED = 0.5
_SURVIVED_TOGETHER_NATURAL = 5.0
_SURVIVED_TOGETHER_ADVERSARIAL = 8.0
_SURVIVED_LESS_ADVERSARIAL = 0.1


def build_estimators(
    channels: int,
    classes: int,
    *,
    units: int,
    scores: Scores,
    temperature: float,
    bound: Bound,
    objective: Objective,
    floor: bool,
) -> "MIEstimators | StandardMI":
    """Return freshly initialised estimators for an objective; draws from torch's global generator.

    Args:
        channels, classes, units, scores, bound, temperature: as in `Estimator`.
        objective, floor: as in `MIEstimators`; "standard" is that of `StandardMI`.
    """

    def estimator() -> Estimator:
        return Estimator(channels, classes, units, scores, bound, temperature=temperature)

    if objective == "standard":
        return StandardMI(estimator())
    return MIEstimators(estimator(), estimator(), objective, floor=floor)


def directly(network: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Apply the network to all inputs at once: the plain `Apply`."""
    return network(inputs)


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors (..., U) to length 1, in at least float32; one shorter than 1e-6 stays below 1."""
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    largest = vectors.detach().abs().amax(-1, keepdim=True)  # divided out, since its square may overflow
    return functional.normalize(vectors / largest.clamp(min=1), dim=-1, eps=_SHORTEST)


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
        scores: "cosine" is the cosine of the two vectors over ``temperature``: within ±1 / temperature
            whatever the weights are, so a Donsker–Varadhan estimate is within ±2 / temperature.
            "dot" is the papers' inner product of LayerNorm's outputs, with gain and bias: unbounded.
        bound: which lower bound of the scores is the estimate; "jsd" is not in nats.
        temperature: τ of "cosine"; "dot" has none.

    Differs from the paper: "cosine" is the default. Equation 5 maximises a difference of Donsker–Varadhan
    terms, which grows with the scale of the scores: with "dot" it reaches thousands of nats, the estimates
    on images not trained on fall to minus hundreds, and L_mi drowns L_adv.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        units: int,
        scores: Scores,
        bound: Bound,
        *,
        temperature: float,
    ) -> None:
        super().__init__()
        self.bound: Bound = bound
        self.scores: Scores = scores
        self.divisor = temperature if scores == "cosine" else 1.0
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

    def forward(self, inputs: Tensor, *logits: Tensor, apply: Apply = directly) -> tuple[Tensor, ...]:
        """Return the estimate for each of several outputs against the same inputs.

        Args:
            inputs: (N, C, H, W), images or noise; N at least 2.
            logits: each (N, K).
            apply: how the networks are applied. In evaluation mode they treat each sample separately, so
                this changes no value.

        Returns:
            One (N,) per element of ``logits``; the samples of the batch are the marginal.
        """
        local = apply(self.of_input, inputs)
        return tuple(
            lower_bound(apply(self.of_output, output), local, self.bound, divisor=self.divisor)
            for output in logits
        )

    def of_input(self, inputs: Tensor) -> Tensor:
        """Return the vectors of inputs (N, C, H, W) at every location, (N, L, U)."""
        return self._compared(self.local(inputs))

    def of_output(self, logits: Tensor) -> Tensor:
        """Return the vectors of outputs: (N, K) -> (N, U)."""
        return self._compared(self.overall(logits[:, :, None, None])[:, 0])

    def _compared(self, vectors: Tensor) -> Tensor:
        return unit(vectors) if self.scores == "cosine" else vectors


class MIEstimators(nn.Module):
    """E_n for the natural pattern (fed with x) and E_a for the adversarial one (fed with n = x̃ - x).

    Args:
        objective: the training loss.
            "eq-4" maximises E_n(x; h(x)) and E_a(n; h(x̃)) over the whole batch.
            "eq-5" maximises E_n(x; h(x)) - E_n(x; h(x̃)) and E_a(n; h(x̃)) - E_a(n; h(x)) over the
            samples of equation 6.
            "author" is the loss of the authors' code, see `_natural_term` and `_adversarial_term`.
        floor: for "eq-5": a subtracted mean below 0 counts as 0. False: as printed in the paper.

    The marginal is always the whole batch, as in the authors' code; a few selected samples would be too
    small a marginal to say much.

    Differs from the paper: ``floor``. Mutual information is never below 0, so a lower bound below 0 says no
    more than 0 does. Without a floor, most of equation 5's gain comes from there: the subtracted estimate
    falls as far as the scores allow and pulls down the other estimate, which shares its weights.

    Differs from the authors' code: their softmax before the predicted class runs over the batch, and their
    bound keeps j = i in the marginal with a score of 0.
    """

    def __init__(
        self,
        natural: Estimator,
        adversarial: Estimator,
        objective: Literal["eq-5", "eq-4", "author"],
        *,
        floor: bool,
    ) -> None:
        super().__init__()
        self.natural, self.adversarial = natural, adversarial
        self.objective, self.floor = objective, floor

    def terms(self, x: Tensor, x_adv: Tensor, y: Tensor, h: Tensor, h_adv: Tensor) -> dict[str, Tensor]:
        """Return the training loss as scalar terms "natural" and "adversarial", to be minimised.

        Args:
            x, x_adv: (N, C, H, W).
            y: (N,).
            h, h_adv: the frozen model's outputs for x and x_adv, (N, K).

        Returns:
            An empty dict if the objective uses fewer than two samples.
        """
        if len(x) < 2 or (self.objective == "eq-5" and int(select(h, h_adv, y).sum()) < 2):
            return {}
        if self.objective == "eq-4":
            (natural,) = self.natural(x, h)
            (adversarial,) = self.adversarial(x_adv - x, h_adv)
            return self.loss({"natural_of_x": natural, "adversarial_of_x_adv": adversarial}, y, h, h_adv)
        return self.loss(self.measure(x, x_adv, h, h_adv), y, h, h_adv)

    def loss(self, estimates: dict[str, Tensor], y: Tensor, h: Tensor, h_adv: Tensor) -> dict[str, Tensor]:
        """Return the terms of `terms`, computed from the estimates of `measure`.

        Where equation 6 selects fewer than two samples, "eq-5" is taken over all samples, so that there is
        always a value to compare epochs by.
        """
        natural, adversarial_adv = estimates["natural_of_x"], estimates["adversarial_of_x_adv"]
        if self.objective == "eq-4":
            return {"natural": -natural.mean(), "adversarial": -adversarial_adv.mean()}
        natural_adv, adversarial = estimates["natural_of_x_adv"], estimates["adversarial_of_x"]
        fooled, survived = select(h, h_adv, y), (h.argmax(1) == y) & (h_adv.argmax(1) == y)
        if self.objective == "eq-5":
            chosen = fooled if int(fooled.sum()) >= 2 else torch.ones_like(fooled)
            return {
                "natural": self._subtracted(natural_adv[chosen]) - natural[chosen].mean(),
                "adversarial": self._subtracted(adversarial[chosen]) - adversarial_adv[chosen].mean(),
            }
        return {
            "natural": _natural_term(natural, natural_adv, fooled, survived),
            "adversarial": _adversarial_term(adversarial, adversarial_adv, fooled, survived),
        }

    def _subtracted(self, estimates: Tensor) -> Tensor:
        return estimates.mean().clamp(min=0) if self.floor else estimates.mean()

    def measure(
        self, x: Tensor, x_adv: Tensor, h: Tensor, h_adv: Tensor, apply: Apply = directly
    ) -> dict[str, Tensor]:
        """Return estimates per sample, each (N,), over all samples, with the whole batch as marginal.

        Args:
            apply: as in `Estimator.forward`.

        Returns:
            natural_of_x: E_n(x; h(x)); natural_of_x_adv: E_n(x; h(x̃));
            adversarial_of_x: E_a(n; h(x)); adversarial_of_x_adv: E_a(n; h(x̃)).
        """
        natural, natural_adv = self.natural(x, h, h_adv, apply=apply)
        adversarial, adversarial_adv = self.adversarial(x_adv - x, h, h_adv, apply=apply)
        return {
            "natural_of_x": natural,
            "natural_of_x_adv": natural_adv,
            "adversarial_of_x": adversarial,
            "adversarial_of_x_adv": adversarial_adv,
        }


class StandardMI(nn.Module):
    """One estimator Ê of the mutual information between an image and its output, for WMIM."""

    def __init__(self, standard: Estimator) -> None:
        super().__init__()
        self.standard = standard

    def terms(self, x: Tensor, x_adv: Tensor, y: Tensor, h: Tensor, h_adv: Tensor) -> dict[str, Tensor]:
        """As in `MIEstimators`: "standard" maximises Ê(x̃; h(x̃)) over the whole batch."""
        if len(x) < 2:
            return {}
        (estimate,) = self.standard(x_adv, h_adv)
        return self.loss({"standard_of_x_adv": estimate}, y, h, h_adv)

    def loss(self, estimates: dict[str, Tensor], y: Tensor, h: Tensor, h_adv: Tensor) -> dict[str, Tensor]:
        """Return the terms of `terms`, computed from the estimates of `measure`."""
        return {"standard": -estimates["standard_of_x_adv"].mean()}

    def measure(
        self, x: Tensor, x_adv: Tensor, h: Tensor, h_adv: Tensor, apply: Apply = directly
    ) -> dict[str, Tensor]:
        """Return estimates per sample, each (N,), with the whole batch as marginal.

        Args:
            apply: as in `Estimator.forward`.

        Returns:
            standard_of_x: Ê(x; h(x)); standard_of_x_adv: Ê(x̃; h(x̃)); standard_across: Ê(x; h(x̃)).
        """
        of_x, across = self.standard(x, h, h_adv, apply=apply)
        (of_x_adv,) = self.standard(x_adv, h_adv, apply=apply)
        return {"standard_of_x": of_x, "standard_of_x_adv": of_x_adv, "standard_across": across}


def select(logits: Tensor, adversarial_logits: Tensor, y: Tensor) -> Tensor:
    """Return equation 6 as a mask (N,): right on the natural image, wrong on the adversarial one."""
    return (logits.argmax(1) == y) & (adversarial_logits.argmax(1) != y)


def _natural_term(natural: Tensor, natural_adv: Tensor, fooled: Tensor, survived: Tensor) -> Tensor:
    """The authors' loss of E_n: makes E_n(x; h(x)) large, with E_n(x; h(x̃)) orthogonal to it over the fooled
    samples and proportional to it over the surviving ones.

    Args:
        natural, natural_adv: E_n(x; h(x)) and E_n(x; h(x̃)), (N,).
        fooled, survived: right on the natural image, and wrong (fooled) or right (survived) on the
            adversarial one, (N,).

    Returns:
        A scalar. Sums over either subset are divided by the size of both together; an empty subset adds
            0. If no sample is right on the natural image: -mean of ``natural`` over the batch.
    """
    right = (fooled | survived).sum()
    if right == 0:
        return -natural.mean()
    apart = _FOOLED_APART * _off(0.0, natural, natural_adv, fooled)
    together = _SURVIVED_TOGETHER_NATURAL * _off(1.0, natural, natural_adv, survived)
    on_fooled = apart - natural[fooled].sum() / right
    on_survived = together - natural[survived].sum() / right
    return on_fooled + _SURVIVED * on_survived


def _adversarial_term(
    adversarial: Tensor, adversarial_adv: Tensor, fooled: Tensor, survived: Tensor
) -> Tensor:
    """The authors' loss of E_a: as `_natural_term`, but it makes E_a(n; h(x̃)) large over the fooled samples
    and small over the surviving ones, and each mean is over its own subset.

    Args:
        adversarial, adversarial_adv: E_a(n; h(x)) and E_a(n; h(x̃)), (N,).
    """
    if not (fooled | survived).any():
        return -adversarial_adv.mean()
    apart = _FOOLED_APART * _off(0.0, adversarial, adversarial_adv, fooled)
    together = _SURVIVED_TOGETHER_ADVERSARIAL * _off(1.0, adversarial, adversarial_adv, survived)
    on_fooled = apart - _mean(adversarial_adv, fooled)
    on_survived = together + _SURVIVED_LESS_ADVERSARIAL * _mean(adversarial_adv, survived)
    return on_fooled + _SURVIVED * on_survived


def _off(similarity: float, a: Tensor, b: Tensor, chosen: Tensor) -> Tensor:
    """Return |similarity - cos(a, b)| over the chosen samples, 0 if none; the cosine of zeros is 0."""
    if not chosen.any():
        return a.new_zeros(())
    return torch.abs(similarity - functional.cosine_similarity(a[chosen], b[chosen], dim=0))


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean over the chosen samples, 0 if there are none."""
    return values[chosen].sum() / chosen.sum().clamp(min=1)
