"""NAMID: Zhou et al. 2022, "Improving adversarial robustness via mutual information estimation".

ICML 2022, https://arxiv.org/abs/2207.12203, equations 6, 8 and 9.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustness_bench.defenses.base import Batch, Defense, InnerLoss
from robustness_bench.defenses.mutual_information.estimator import MIEstimators, select
from robustness_bench.defenses.standard import Standard


@dataclass(frozen=True, kw_only=True)
class NAMID(Defense):
    """L_adv + α L_mi: raises natural and lowers adversarial mutual information in adversarial outputs.

    Args:
        base: the defense whose loss is L_adv and whose inner attack is used: TRADES for NAMID_T, MART for
            NAMID_M.
        alpha: α of equation 9.
        lam: λ of equation 8.
        adversarial_mi, natural_mi: False drops E_a or E_n from equation 8, including from the λ term
            (figure 5, i and ii; iii is λ = 0). At most one may be False.
        natural_first: epochs on natural images before the schedule's, at most a quarter as many (the
            authors' code: 2, out of its 100).

    L_mi is taken over the samples of equation 6, selected with the model in training: natural image
    classified correctly, adversarial image not. The similarity of equation 8 is between two vectors
    over those samples, since per sample it would be ±1. A batch with fewer than two such samples has no
    L_mi. As in the authors' code, the marginal of each estimate is the whole batch, not the few selected
    samples, and the first epochs use only natural images: from random weights the gradient of L_mi is
    tens of times that of L_adv, and some trainings never recover from it.

    Differs from the authors' code: these first epochs come on top of the schedule's, so that NAMID has
    as many adversarial epochs as the defenses it is compared with.
    """

    base: Defense = field(default_factory=Standard)
    alpha: float = 5.0
    lam: float = 0.1
    adversarial_mi: bool = True
    natural_mi: bool = True
    natural_first: int = 2

    def __post_init__(self) -> None:
        if not (self.adversarial_mi or self.natural_mi):
            raise ValueError("NAMID without adversarial_mi and without natural_mi is its base: name that")

    def natural_epochs(self, epochs: int) -> int:
        return min(self.natural_first, epochs // 4)

    def inner_loss(self, model: nn.Module, x: Tensor, y: Tensor) -> InnerLoss:
        return self.base.inner_loss(model, x, y)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        if not isinstance(batch.estimators, MIEstimators):
            raise ValueError("NAMID needs the estimators E_n and E_a: its preset must require them")
        natural = batch.logits  # before the base computes the adversarial ones: see Batch
        terms = self.base.terms(batch)
        chosen = select(natural, batch.adversarial_logits, batch.y)
        if int(chosen.sum()) < 2:
            return {**terms, "mi": batch.logits.new_zeros(())}
        return {**terms, "mi": self.alpha * self._mi(batch, batch.estimators, chosen)}

    def _mi(self, batch: Batch, estimators: MIEstimators, chosen: Tensor) -> Tensor:
        """Compute L_mi of equation 8 over the samples of the mask ``chosen`` (N,)."""
        x, x_adv, h, h_adv = batch.x, batch.x_adv, batch.logits, batch.adversarial_logits
        loss = h.new_zeros(())
        if self.natural_mi:
            natural, natural_adv = (each[chosen] for each in estimators.natural(x, h, h_adv))
            loss = loss + _dissimilarity(natural_adv, natural) - self.lam * natural_adv.mean()
        if self.adversarial_mi:
            both = estimators.adversarial(x_adv - x, h, h_adv)
            adversarial, adversarial_adv = (each[chosen] for each in both)
            loss = loss + _dissimilarity(adversarial_adv, adversarial) + self.lam * adversarial_adv.mean()
        return loss


def _dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """Compute |1 - cos(a, b)| of two vectors over samples, equation 8's optimisation strategy."""
    similarity: Tensor = functional.cosine_similarity(a, b, dim=0)
    return torch.abs(1.0 - similarity)
