"""Lower bounds of mutual information from scores, one value per sample.

A score u[i, j, l] compares the output of sample i with location l of the input of sample j. Every bound
is row-wise in i: a block of rows is enough to compute those rows' values, which `lower_bound` uses.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Bound = Literal["dv", "jsd", "infonce"]

_SCORES_AT_ONCE = 2**24


def lower_bound(
    overall: Tensor,
    local: Tensor,
    bound: Bound,
    *,
    divisor: float = 1.0,
    scores_at_once: int = _SCORES_AT_ONCE,
) -> Tensor:
    """Compute the bound from u[i, j, l] = ⟨overall_i, local_jl⟩ / divisor, in chunks to save memory.

    Args:
        overall: (N, U), of the outputs; N at least 2.
        local: (N, L, U), of the inputs.
        scores_at_once: rows i are processed in chunks of at most this many scores, but at least one row
            (N·L scores). With several chunks the backward pass recomputes the scores of each.

    Returns:
        (N,), float64 if an argument is, else float32. Scores are computed and reduced in at least
            float32, also under autocast and for half-precision arguments.
    """
    if bound not in _BOUNDS:
        raise ValueError(f"unknown bound {bound!r}: one of {', '.join(_BOUNDS)}")
    n, locations, _ = local.shape
    dtype = torch.promote_types(torch.promote_types(overall.dtype, local.dtype), torch.float32)
    overall, local = overall.to(dtype) / divisor, local.to(dtype)
    rows = max(1, scores_at_once // (n * locations))
    compute = partial(_chunk, _BOUNDS[bound])
    if rows < n and torch.is_grad_enabled():
        compute = partial(checkpoint, compute, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([compute(part, local, rows * k) for k, part in enumerate(overall.split(rows))])


def donsker_varadhan(scores: Tensor, first: int = 0) -> Tensor:
    """The Donsker–Varadhan bound in nats (Belghazi et al. 2018, https://arxiv.org/abs/1801.04062, eq. 10).

    Args:
        scores: (R, N, L), u[i, j, l] of the rows i = first … first + R - 1; N at least 2.

    Returns:
        (R,): mean over l of u[i, i, l] - (logsumexp over j ≠ i of u[i, j, l] - log(N - 1)). It is
            unbounded, and the fewer the samples, the more it can exceed the mutual information.

    Differs from the paper: a marginal for every i and l, as in the code of Zhou et al. 2022, instead of
    one for the batch.
    """
    own, same = _own(scores, first)
    marginal = scores.masked_fill(same, -math.inf).logsumexp(1) - math.log(scores.shape[1] - 1)
    return (own - marginal).mean(1)


def jensen_shannon(scores: Tensor, first: int = 0) -> Tensor:
    """The bound of the Jensen–Shannon divergence of joint and product (not of the information in nats).

    Hjelm et al. 2018, https://arxiv.org/abs/1808.06670, eq. 4, plus 2 log 2, so that independence gives 0
    (Nowozin et al. 2016, https://arxiv.org/abs/1606.00709, the Jensen–Shannon rows of its tables).

    Args:
        scores: (R, N, L), as of `donsker_varadhan`.

    Returns:
        (R,): mean over l of (log 2 - softplus(-u[i, i, l])) minus mean over j ≠ i and l of
        (softplus(-u[i, j, l]) + u[i, j, l] - log 2). It estimates 2·JSD, at most 2 log 2: 0 for
        independence and growing with dependence, but not mutual information in nats.
    """
    own, same = _own(scores, first)
    _, n, locations = scores.shape
    joint = functional.logsigmoid(own).mean(1)
    product = functional.logsigmoid(-scores).masked_fill(same, 0.0).sum((1, 2)) / ((n - 1) * locations)
    return joint + product + 2 * math.log(2)


def info_nce(scores: Tensor, first: int = 0) -> Tensor:
    """The InfoNCE bound in nats (van den Oord et al. 2018, https://arxiv.org/abs/1807.03748, eq. 4 and 5).

    Args:
        scores: (R, N, L), as of `donsker_varadhan`.

    Returns:
        (R,): mean over l of u[i, i, l] - logsumexp over all j, i included, of u[i, j, l] + log N; at most
        log N.
    """
    own, _ = _own(scores, first)
    return (own - scores.logsumexp(1)).mean(1) + math.log(scores.shape[1])


_BOUNDS: dict[Bound, Callable[[Tensor, int], Tensor]] = {
    "dv": donsker_varadhan,
    "jsd": jensen_shannon,
    "infonce": info_nce,
}


def _chunk(reduce: Callable[[Tensor, int], Tensor], overall: Tensor, local: Tensor, first: int) -> Tensor:
    """Compute a bound's rows from ``first`` on: overall (R, U), local (N, L, U) -> (R,)."""
    n, locations, units = local.shape
    with torch.autocast(overall.device.type, enabled=False):
        scores = overall @ local.reshape(n * locations, units).T
        return reduce(scores.reshape(-1, n, locations), first)


def _own(scores: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Return u[i, i, l] as (R, L), and the mask of j = i as (R, N, 1)."""
    rows, n, _ = scores.shape
    if n < 2:
        raise ValueError(f"the bound needs at least 2 samples, got {n}")
    row = torch.arange(first, first + rows, device=scores.device)
    same = row[:, None] == torch.arange(n, device=scores.device)
    return scores.diagonal(offset=first, dim1=0, dim2=1).T, same[:, :, None]
