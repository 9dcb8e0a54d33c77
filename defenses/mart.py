"""MART: Wang et al. 2020, "Improving adversarial robustness requires revisiting misclassified examples".

ICLR 2020, https://openreview.net/forum?id=rklOg6EFwS.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from robustness_bench.defenses.base import Batch, Defense
from robustness_bench.defenses.trades import kl_divergence


@dataclass(frozen=True, kw_only=True)
class MART(Defense):
    """BCE(h(x̃), y) + β mean[KL(p(x) ‖ p(x̃)) (1 - p_y(x))], p the softmax of h.

    BCE is the paper's boosted cross-entropy: CE(h(x̃), y) - mean log(1 - max over k ≠ y of p_k(x̃)).

    Args:
        beta: weight of the divergence, the paper's λ: 5 to 6 there, 6 in the code of its authors and of
            Zhou et al. 2022.

    The gradient runs through both outputs and through the weight 1 - p_y(x). The inner attack
    maximises the cross-entropy.

    Differs from the paper's code: log(1 - p) and the weight are computed from log-probabilities, exact and
    finite for finite logits. The code adds 1e-12 inside logarithms and uses 1.0001 - p and 1.0000001 - p_y,
    which caps -log(1 - p) at 9.2.
    """

    beta: float = 6.0

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        h, h_adv, y = batch.logits, batch.adversarial_logits, batch.y
        rival = h_adv.scatter(1, y[:, None], -math.inf).argmax(1)
        boosted = batch.cross_entropy(h_adv) - log_complement(h_adv, rival).mean()
        weight = log_complement(h, y).exp()
        return {"boosted": boosted, "kl": self.beta * (weight * kl_divergence(h, h_adv)).mean()}


def log_complement(logits: Tensor, classes: Tensor) -> Tensor:
    """Compute log(1 - p_k) for one class per sample, without the cancellation in 1 - p_k.

    Args:
        logits: (N, K), K at least 2; p is their softmax.
        classes: (N,) int64, the k of each sample.

    Returns:
        (N,), at most 0 up to rounding: logsumexp of the log-probabilities of the other classes.
    """
    others: Tensor = logits.log_softmax(1).scatter(1, classes[:, None], -math.inf)
    return others.logsumexp(1)
