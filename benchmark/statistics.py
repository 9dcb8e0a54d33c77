"""Numbers about numbers; each docstring says what it entitles one to claim."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class MeanStd(NamedTuple):
    """Mean and sample standard deviation (n - 1); std is None for a single value.

    The spread is over training seeds on the same images: it says how much a figure moves when the
    training is repeated, not how much it would move on other images.
    """

    mean: float
    std: float | None
    n: int


def mean_std(values: Sequence[float]) -> MeanStd:
    """Raises ValueError without values."""
    if not values:
        raise ValueError("mean_std needs at least one value")
    std = statistics.stdev(values) if len(values) > 1 else None
    return MeanStd(statistics.fmean(values), std, len(values))
