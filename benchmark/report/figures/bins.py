"""Bins for scores of any range: plain, logarithmic, or logarithmic on both sides of 0.

Scores of different detectors differ by orders of magnitude and have long tails; bins have equal width on
the scale that fits. Scores beyond the shown range are counted in the bins at its ends.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robustness_bench.benchmark.report.detectors.roc import Scores

BINS = 36
_TAIL = 0.005  # share of the scores that may lie beyond each end of the range
_DECADE = 10.0
_HEAVY = 4.5  # in interquartile ranges: a wider range has long tails; a normal distribution has 3.8
_ROOM = 0.03


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps scores to positions on an axis.

    Attributes:
        width: for "asinh", the width of the nearly linear part around 0.
    """

    kind: Literal["linear", "log", "asinh"]
    low: float
    high: float
    width: float = 1.0

    def place(self, score: float) -> float:
        """Return the position of a score, from 0 at ``low`` to 1 at ``high``, clipped to that range."""
        low, high = self._bent(self.low), self._bent(self.high)
        return (self._bent(min(max(score, self.low), self.high)) - low) / (high - low)

    def score(self, place: float) -> float:
        """Return the score at a position: the inverse of ``place``."""
        low, high = self._bent(self.low), self._bent(self.high)
        return self._straight(low + (high - low) * place)

    def edges(self, bins: int = BINS) -> tuple[float, ...]:
        return (self.low, *(self.score(index / bins) for index in range(1, bins)), self.high)

    def shares(self, scores: Scores, bins: int = BINS) -> tuple[float, ...]:
        """Return the share of the scores in each bin; they add up to 1."""
        inner = np.array(self.edges(bins)[1:-1])
        counts = np.bincount(np.searchsorted(inner, scores, "right"), minlength=bins)
        return tuple(float(count) / max(len(scores), 1) for count in counts)

    def ticks(self, apart: float = 0.27) -> tuple[float, ...]:
        """Return round scores in rising order, at least ``apart`` from each other."""
        kept: list[float] = []
        for tick in self._round():
            inside = self.low <= tick <= self.high
            if inside and all(abs(self.place(tick) - self.place(other)) >= apart for other in kept):
                kept.append(tick)
        return tuple(sorted(kept))

    def _bent(self, score: float) -> float:
        if self.kind == "log":
            return math.log10(score)
        return math.asinh(score / self.width) if self.kind == "asinh" else score

    def _straight(self, place: float) -> float:
        if self.kind == "log":
            return float(10.0**place)
        return math.sinh(place) * self.width if self.kind == "asinh" else place

    def _round(self) -> list[float]:
        """Return candidates for ticks, the roundest first."""
        if self.kind == "linear":
            step = 10.0 ** math.floor(math.log10((self.high - self.low) / 2))
            spans = [step * factor for factor in (5, 2, 1)]
            return [
                round(index * span, 12)
                for span in spans
                for index in range(math.ceil(self.low / span), math.floor(self.high / span) + 1)
            ]
        most = max(abs(self.low), abs(self.high))
        least = self.low if self.kind == "log" else self.width
        powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
        sizes = [factor * 10.0**power for factor in (1, 5, 2) for power in powers]
        return [0.0, *sizes] if self.kind == "log" else [0.0, *(s * size for size in sizes for s in (1, -1))]


def scale_of(natural: Scores, adversarial: Scores, thresholds: Sequence[float]) -> Scale:
    """Return the scale that shows both kinds of scores, with the thresholds inside."""
    sides = [side[np.isfinite(side)] for side in (natural, adversarial)]
    ends = [np.quantile(side, (_TAIL, 1 - _TAIL)) for side in sides if len(side)]
    marks = [mark for mark in thresholds if math.isfinite(mark)]
    low = float(min([*(end[0] for end in ends), *marks], default=0.0))
    high = float(max([*(end[1] for end in ends), *marks], default=1.0))
    if not low < high:
        return Scale(kind="linear", low=low - 0.5, high=high + 0.5)
    width = min(_middle(side) for side in sides if len(side))
    if high - low <= _HEAVY * width:
        low = 0.0 if 0 < low < _ROOM * high else low
        return _widened(Scale(kind="linear", low=low, high=high))
    if low > 0 and high > _DECADE * low:
        return _widened(Scale(kind="log", low=low, high=high))
    return _widened(Scale(kind="asinh", low=low, high=high, width=width))


def _widened(scale: Scale) -> Scale:
    """Return the scale with room for a threshold at its end."""
    return replace(scale, high=scale.score(1 + _ROOM))


def _middle(scores: NDArray[np.float64]) -> float:
    """Return the interquartile range or, if half of the scores are equal, the smallest magnitude."""
    quarters = np.quantile(scores, (0.25, 0.75))
    sizes = np.abs(scores[scores != 0])
    return float(quarters[1] - quarters[0]) or float(min(sizes, default=1.0))
