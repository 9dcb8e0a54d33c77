"""Standard adversarial training: Madry et al. 2018, https://arxiv.org/abs/1706.06083, equation 2.1."""

from dataclasses import dataclass

from torch import Tensor

from robustness_bench.defenses.base import Batch, Defense


@dataclass(frozen=True, kw_only=True)
class Standard(Defense):
    """Cross-entropy on adversarial images."""

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return {"adversarial": batch.cross_entropy(batch.adversarial_logits)}
