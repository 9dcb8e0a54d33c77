"""A defense of one's own: adversarial logit pairing, in one file with one class.

    bench run --plugin examples/defense_plugin/logit_pairing.py --defense standard,logit-pairing

Kannan et al. 2018, https://arxiv.org/abs/1803.06373, section 3.1. A good example of why benchmarks are
needed: Engstrom et al. 2018, https://arxiv.org/abs/1807.10272, broke it within months.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from robustness_bench.defenses.base import Batch, Defense


@dataclass(frozen=True, kw_only=True)
class LogitPairing(Defense):
    """Cross-entropy on adversarial images, and logits of both images drawn together.

    Args:
        weight: of the mean squared difference of logits (0.5 in the paper's ImageNet experiments).
    """

    label: ClassVar[str] = "Logit pairing"
    source: ClassVar[str] = "Kannan et al. 2018, arXiv:1803.06373"

    weight: float = 0.5

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The two terms; their sum is minimised. The inner attack is the contract's: cross-entropy."""
        natural, adversarial = batch.logits, batch.adversarial_logits  # in this order: see Batch
        return {
            "adversarial": batch.cross_entropy(adversarial),
            "pairing": self.weight * functional.mse_loss(adversarial, natural),
        }
