"""Thresholds from the scores of held-out natural images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustness_bench.defenses.detectors.view import DetectorError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
