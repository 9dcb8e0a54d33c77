"""Losses an attack climbs: (N, K) logits and (N,) labels -> (N,) values, higher is worse for the model."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional

from attacks.margins import margin

LossName = Literal["ce", "margin", "dlr"]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(z)_y."""
    return functional.cross_entropy(logits, y, reduction="none")


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio: Croce and Hein 2020, https://arxiv.org/abs/2003.01690, equation 6.

    The margin divided by the gap between the largest and the third logit, so that scaling the logits
    changes nothing. It is not defined below three classes, where the
    margin takes its place.
    """
    if logits.shape[1] < 3:
        return margin(logits, y)
    largest = logits.topk(3, dim=1).values
    return margin(logits, y) / (largest[:, 0] - largest[:, 2] + 1e-12)


LOSSES: dict[LossName, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": cross_entropy,
    "margin": margin,
    "dlr": dlr,
}
