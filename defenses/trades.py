"""TRADES: Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy".

ICML 2019, https://arxiv.org/abs/1901.08573, equation 5 and algorithm 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustness_bench.defenses.base import Batch, Defense, InnerLoss


@dataclass(frozen=True, kw_only=True)
class TRADES(Defense):
    """CE(h(x), y) + β mean KL(p(x) ‖ p(x̃)), p the softmax of h; x̃ maximises the same divergence.

    Args:
        beta: β = 1/λ of equation 5; 6 in the paper's experiments.

    The gradient of the loss runs through both outputs. In the inner attack h(x) is constant and computed
    only once.

    Differs from the paper: x̃ starts where the training's inner attack starts, by default uniformly in
    the ball; algorithm 1 starts at x + 0.001·N(0, 1), since at x itself the divergence has no slope.
    """

    beta: float = 6.0

    def inner_loss(self, model: nn.Module, x: Tensor, y: Tensor) -> InnerLoss:
        with torch.no_grad():
            logits = model(x)
        return lambda adversarial_logits: kl_divergence(logits, adversarial_logits)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        divergence = kl_divergence(batch.logits, batch.adversarial_logits).mean()
        return {"natural": batch.cross_entropy(batch.logits), "kl": self.beta * divergence}


def kl_divergence(logits: Tensor, other: Tensor) -> Tensor:
    """KL(softmax of ``logits`` ‖ softmax of ``other``) in nats, (N,) from two (N, K)."""
    log_p, log_q = logits.log_softmax(1), other.log_softmax(1)
    divergence: Tensor = (log_p.exp() * (log_p - log_q)).sum(1)
    return divergence
