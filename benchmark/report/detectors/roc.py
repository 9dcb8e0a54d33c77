"""AUROC, ROC curves, and rates at thresholds set on held-out natural images."""

import math

import numpy as np
from numpy.typing import NDArray

RATES = (0.001, 0.005, 0.01, 0.05)
FPRS = tuple(10 ** (step / 40 - 3) for step in range(121))
"""The FPR values at which curves are drawn: from 0.1 % to 100 %."""
Scores = NDArray[np.float64]
_ROUNDING = 1e-9  # so that 0.29 of 100 images is 29, not 28


def auroc(natural: Scores, adversarial: Scores) -> float:
    """Return the chance that an adversarial image scores higher than a natural one, ties counted half; exact.

    Mann and Whitney 1947; both sides need a score.
    """
    ordered = np.sort(natural)
    below = np.searchsorted(ordered, adversarial, "left")
    upto = np.searchsorted(ordered, adversarial, "right")
    return int(below.sum() + upto.sum()) / (2 * natural.size * adversarial.size)


def threshold_at(held_out: Scores, rate: float) -> float | None:
    """Return the score from which on this share of held-out images is flagged: MagNet's rule.

    None if the share is less than one image, or if ties would flag more.
    """
    count = int(held_out.size * rate + _ROUNDING)
    if not count:
        return None
    threshold = float(np.sort(held_out)[-count])
    return threshold if int((held_out >= threshold).sum()) == count else None


def at_rates(adversarial: Scores, held_out: Scores | None) -> tuple[float | None, ...]:
    """Return the percent of scores flagged at the thresholds that flag ``RATES`` of the held-out images."""
    if held_out is None or not adversarial.size:
        return (None,) * len(RATES)
    thresholds = [threshold_at(held_out, rate) for rate in RATES]
    return tuple(None if each is None else 100.0 * float((adversarial >= each).mean()) for each in thresholds)


def tpr_at(natural: Scores, adversarial: Scores, fpr: float) -> float:
    """Return the largest share of adversarial images that a threshold flags at no more than this FPR.

    This is a point on the ROC's steps, not interpolated: a threshold flags all images of equal score or none.
    """
    allowed = math.floor(fpr * len(natural) + _ROUNDING)
    if allowed >= len(natural):
        return 1.0
    spared = np.sort(natural)[::-1][allowed]
    return float((adversarial > spared).mean())


def roc(natural: Scores, adversarial: Scores) -> tuple[float, ...]:
    """Return the TPR at each of ``FPRS``."""
    return tuple(tpr_at(natural, adversarial, fpr) for fpr in FPRS)
