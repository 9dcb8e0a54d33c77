"""Lower bounds of mutual information from a matrix of scores, one value per sample."""

import math

import torch
from torch import Tensor


def donsker_varadhan(scores: Tensor) -> Tensor:
    """The Donsker–Varadhan bound in nats (Belghazi et al. 2018, https://arxiv.org/abs/1801.04062, eq. 10).

    Args:
        scores: (N, N, L), u[i, j, l]: output of sample i against location l of the input of sample
            j; N at least 2.

    Returns:
        (N,): mean over l of u[i, i, l] - (logsumexp over j ≠ i of u[i, j, l] - log(N - 1)).
    """
    n = len(scores)
    if n < 2:
        raise ValueError(f"the bound needs at least 2 samples, got {n}")
    joint = scores.diagonal(dim1=0, dim2=1).T  # (N, L)
    same = torch.eye(n, dtype=torch.bool, device=scores.device)[:, :, None]
    marginal = scores.masked_fill(same, -math.inf).logsumexp(1) - math.log(n - 1)
    return (joint - marginal).mean(1)
