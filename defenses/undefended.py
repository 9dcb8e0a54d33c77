"""Natural training: the baseline that every defense must beat."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robustness_bench.defenses.base import Batch, Defense


@dataclass(frozen=True, kw_only=True)
class Undefended(Defense):
    """Cross-entropy on natural images."""

    adversarial: ClassVar[bool] = False

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return {"natural": batch.cross_entropy(batch.logits)}
