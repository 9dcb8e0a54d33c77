"""How far a sample is from losing its class, read from the logits: pure functions, one value per sample."""

import torch
from torch import Tensor


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max over k ≠ y of z_k - z_y, above 0 exactly where the model errs: (N, K), (N,) -> (N,).

    Needs two classes or more. The gradient is that of the one runner-up.
    """
    true = y[:, None]
    others = logits.scatter(1, true, -torch.inf)
    return others.max(1).values - logits.gather(1, true)[:, 0]
