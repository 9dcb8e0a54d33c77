"""NAMID: Zhou et al. 2022, "Improving adversarial robustness via mutual information estimation".

ICML 2022, https://arxiv.org/abs/2207.12203, equations 6, 8 and 9.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from defenses.base import Batch, Defense, InnerLoss
from defenses.mutual_information.estimator import select
from defenses.standard import Standard


@dataclass(frozen=True, kw_only=True)
class NAMID(Defense):
    """L_adv + α L_mi: more natural, less adversarial mutual information in adversarial outputs.

    Args:
        base: the defense whose loss is L_adv and whose inner attack is used.
        alpha: α of equation 9.
        lam: λ of equation 8.

    L_mi is taken over the samples of equation 6, selected with the model in training: natural image
    classified correctly, adversarial image not. The similarity of equation 8 is between two vectors
    over those samples, since per sample it would be ±1. A batch with fewer than two has no L_mi.
    """

    base: Defense = field(default_factory=Standard)
    alpha: float = 5.0
    lam: float = 0.1

    def inner_loss(self, model: nn.Module, x: Tensor, y: Tensor) -> InnerLoss:
        return self.base.inner_loss(model, x, y)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        if batch.estimators is None:
            raise ValueError("NAMID needs the MI estimators: its preset must require them")
        terms = self.base.terms(batch)
        chosen = select(batch.logits, batch.adversarial_logits, batch.y)
        if int(chosen.sum()) < 2:
            return {**terms, "mi": batch.logits.new_zeros(())}
        x, x_adv = batch.x[chosen], batch.x_adv[chosen]
        h, h_adv = batch.logits[chosen], batch.adversarial_logits[chosen]
        natural, natural_adv = batch.estimators.natural(x, h, h_adv)
        adversarial, adversarial_adv = batch.estimators.adversarial(x_adv - x, h, h_adv)
        loss = (
            _dissimilarity(natural_adv, natural)
            + _dissimilarity(adversarial_adv, adversarial)
            + self.lam * (adversarial_adv - natural_adv).mean()
        )
        return {**terms, "mi": self.alpha * loss}


def _dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """|1 - cos(a, b)| of two vectors over samples, equation 8's optimisation strategy."""
    similarity: Tensor = functional.cosine_similarity(a, b, dim=0)
    return torch.abs(1.0 - similarity)
