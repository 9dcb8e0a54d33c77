"""ROC curves: flagged share of adversarial images against that of natural ones, over all thresholds."""

import math

import numpy as np

from robustness_bench.benchmark.report.detectors.roc import Scores

FPRS = tuple(10 ** (step / 40 - 3) for step in range(121))
"""The FPR values at which curves are drawn: from 0.1 % to 100 %."""


def tpr_at(natural: Scores, adversarial: Scores, fpr: float) -> float:
    """Return the largest share of adversarial images that a threshold flags at no more than this FPR.

    This is a point on the ROC's steps, not interpolated: a threshold flags all images of equal score or none.
    """
    allowed = math.floor(fpr * len(natural) + 1e-9)
    if allowed >= len(natural):
        return 1.0
    spared = np.sort(natural)[::-1][allowed]
    return float((adversarial > spared).mean())


def roc(natural: Scores, adversarial: Scores) -> tuple[float, ...]:
    """Return the TPR at each of ``FPRS``."""
    return tuple(tpr_at(natural, adversarial, fpr) for fpr in FPRS)
