"""What the detectors compute: pure functions, one float64 value per image, in nats.

The notation of Hsu et al. 2018, https://arxiv.org/abs/1809.08986: a (N, K) is the classifier's output on
the image, b (N, K) on its reconstruction, C (N, K, K) on the image generated for each class j,
C[n, j, i] = p(A = i | B = j). All are passed as logarithms, which stay finite where a probability is 0.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from robustness_bench.defenses.detectors.view import DetectorError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Reading = Literal["literal", "vi", "cross", "cross_jaccard"]
_LOG_FLOOR = math.log(1e-12)  # of p(A | B) in the cross readings
_LEAST = 1e-150  # of a joint entropy, so that the ratio and its gradient stay finite in float64


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log softmax(z / T) over the last dimension, in float64 whatever the logits' type."""
    return (logits.double() / temperature).log_softmax(-1)


def distance(x: Tensor, other: Tensor, p: float) -> Tensor:
    """The mean over pixels of |x - other|^p: (N, C, H, W) twice -> (N,)."""
    return (x.double() - other.double()).abs().pow(p).flatten(1).mean(1)


def entropy(log_p: Tensor) -> Tensor:
    """Over the last dimension: (…, K) -> (…)."""
    return -(log_p.exp() * log_p).sum(-1)


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The divergence, in [0, log 2], over the last dimension."""
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(-1)


def conditional_entropy(log_b: Tensor, log_c: Tensor) -> Tensor:
    """H(A|B) = -Σ_j b_j Σ_i C_ji log C_ji, as printed: (N,)."""
    return (log_b.exp() * entropy(log_c)).sum(-1)


def cross_entropy(log_a: Tensor, log_b: Tensor, log_c: Tensor) -> Tensor:
    """-Σ_j b_j Σ_i a_i log max(C_ji, 1e-12): (N,)."""
    costs = -log_c.clamp_min(_LOG_FLOOR)
    return torch.einsum("nj,ni,nji->n", log_b.exp(), log_a.exp(), costs)


def literal(log_a: Tensor, log_b: Tensor, log_c: Tensor, delta: float) -> Tensor:
    """The Jaccard distance 1 - I(A;B) / H(A,B): (N,), at most 2, not bounded below.

    With delta, (H(A,B) - I) / (H(A,B) + delta). The paper does not say how p(a, b) couples the three
    computations. Here only b weights C, so I can be negative, and d can be above 1 or below 0.

    Where all outputs are certain, I and H(A,B) are 0 and d is 0, the limit of delta -> 0: two constants
    carry the same information. A joint entropy below 1e-150 counts as 1e-150.
    """
    return _jaccard(entropy(log_a), entropy(log_b), conditional_entropy(log_b, log_c), delta)


def vi(log_a: Tensor, log_b: Tensor, log_c: Tensor, delta: float) -> Tensor:
    """The variation of information H(A,B) - I(A;B), the numerator of ``literal``: (N,)."""
    return _variation(entropy(log_a), entropy(log_b), conditional_entropy(log_b, log_c))


def cross(log_a: Tensor, log_b: Tensor, log_c: Tensor, delta: float) -> Tensor:
    """H(A|B) with a, the output on the image itself, outside the logarithm: (N,), at least 0."""
    return cross_entropy(log_a, log_b, log_c)


def cross_jaccard(log_a: Tensor, log_b: Tensor, log_c: Tensor, delta: float) -> Tensor:
    """``literal`` with the conditional entropy of ``cross``: (N,)."""
    return _jaccard(entropy(log_a), entropy(log_b), cross_entropy(log_a, log_b, log_c), delta)


READINGS: dict[Reading, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "literal": literal,
    "vi": vi,
    "cross": cross,
    "cross_jaccard": cross_jaccard,
}
"""The readings of p(a, b); ``vi`` and ``cross`` have no denominator, so they do not use delta."""


def _variation(h_a: Tensor, h_b: Tensor, h_ab: Tensor) -> Tensor:
    """With H(A,B) = H(B) + H(A|B) and I = H(A) - H(A|B)."""
    return h_b + 2 * h_ab - h_a


def _jaccard(h_a: Tensor, h_b: Tensor, h_ab: Tensor, delta: float) -> Tensor:
    return _variation(h_a, h_b, h_ab) / (h_b + h_ab + delta).clamp_min(_LEAST)


def threshold(scores: "Tensor | NDArray[np.float64] | Sequence[float]", rate: float) -> float:
    """Return the int(n · rate)-th largest of n scores; that share of the images reaches it.

    The rule of MagNet: Meng and Chen 2017, https://arxiv.org/abs/1705.09064, in the authors' code.

    Raises:
        DetectorError: no scores, or a score that is not finite; a rate outside (0, 1) or one that flags no
            image; more images at or above the threshold than the rate allows, as when a score saturates.
    """
    values = torch.as_tensor(scores, dtype=torch.float64).flatten()
    n = len(values)
    if odd := n - int(values.isfinite().sum()):
        raise DetectorError(f"{odd} of {n} scores are NaN or infinite; check the networks that made them")
    if not 0 < rate < 1:
        raise DetectorError(f"the rate must be between 0 and 1, both excluded, got {rate}")
    allowed = int(n * rate)
    if not allowed:
        raise DetectorError(f"a rate of {rate} flags none of {n} images; give more images or a larger rate")
    found = float(values.sort(descending=True).values[allowed - 1])
    if (reached := int((values >= found).sum())) > allowed:
        raise DetectorError(
            f"{reached} of {n} natural images reach the score {found:.6g} and {allowed} may: it saturates or "
            f"repeats there; use another rate, or a detector with another temperature or delta"
        )
    return found
