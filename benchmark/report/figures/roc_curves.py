"""ROC curves: adversarial images that are flagged against natural ones that are, at any threshold."""

import math

import numpy as np

from robustness_bench.benchmark.report.detectors.roc import Scores

FPRS = tuple(10 ** (step / 40 - 3) for step in range(121))
"""Where curves are drawn: from 0.1 % to 100 %."""


def tpr_at(natural: Scores, adversarial: Scores, fpr: float) -> float:
    """The largest share of adversarial images that a threshold flags with at most this share of natural.

    A point of the ROC's steps, without interpolation: a threshold flags all images of equal score or none.
    """
    allowed = math.floor(fpr * len(natural) + 1e-9)
    if allowed >= len(natural):
        return 1.0
    spared = np.sort(natural)[::-1][allowed]
    return float((adversarial > spared).mean())


def roc(natural: Scores, adversarial: Scores) -> tuple[float, ...]:
    """TPR at each of ``FPRS``."""
    return tuple(tpr_at(natural, adversarial, fpr) for fpr in FPRS)
