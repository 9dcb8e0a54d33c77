"""WMIM: the baseline of Zhou et al. 2022 that maximises the mutual information of adversarial samples.

https://arxiv.org/abs/2207.12203, section 4.1, after Zhu et al. 2020, "Learning adversarially robust
representations via worst-case mutual information maximization", https://arxiv.org/abs/2002.11798.
"""

from dataclasses import dataclass

from torch import Tensor

from robustness_bench.defenses.base import Batch, Defense
from robustness_bench.defenses.mutual_information.estimator import StandardMI


@dataclass(frozen=True, kw_only=True)
class WMIM(Defense):
    """CE(h(x̃), y) - α mean Î(x̃; h(x̃)), Î a frozen estimator of a Standard-AT model.

    Args:
        alpha: weight of the estimate. Neither paper gives it for this loss: 1 is our choice.

    A batch of one sample has no marginal to compare with, so no mutual information term either: it is 0.
    """

    alpha: float = 1.0

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        if not isinstance(batch.estimators, StandardMI):
            raise ValueError(
                'WMIM needs the estimators of objective "standard": its preset must require them'
            )
        mi = batch.adversarial_logits.new_zeros(())
        if len(batch.y) > 1:
            (estimate,) = batch.estimators.standard(batch.x_adv, batch.adversarial_logits)
            mi = -self.alpha * estimate.mean()
        return {"adversarial": batch.cross_entropy(batch.adversarial_logits), "mi": mi}
