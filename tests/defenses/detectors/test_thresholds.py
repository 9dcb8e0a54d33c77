"""MagNet's threshold against a plain loop, and what it refuses."""

import math

import numpy as np
import pytest
import torch

from robustness_bench.defenses.detectors.scores import threshold
from robustness_bench.defenses.detectors.view import DetectorError


def _by_loop(scores: list[float], rate: float) -> float:
    """MagNet's code: the images sorted by their marks, and the num-th from the end."""
    number = int(len(scores) * rate)
    ordered = sorted(scores)
    for _ in range(number - 1):
        ordered.pop()
    return ordered.pop()


@pytest.mark.parametrize(
    ("n", "rate", "flagged"),
    [(1000, 0.005, 5), (5000, 0.001, 5), (1000, 0.0059, 5), (360, 0.01, 3), (100, 0.5, 50), (10, 0.99, 9)],
)
def test_it_is_the_score_that_magnets_loop_finds(n: int, rate: float, flagged: int) -> None:
    scores = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = threshold(scores, rate)
    assert found == _by_loop(scores.tolist(), rate)
    assert int((scores >= found).sum()) == flagged


def test_lists_arrays_and_tensors_are_the_same() -> None:
    scores = [3.0, 1.0, 4.0, 1.5, 9.0]
    assert threshold(scores, 0.4) == threshold(np.array(scores), 0.4) == threshold(torch.tensor(scores), 0.4)
    assert threshold(scores, 0.4) == 4.0


def test_ties_below_the_threshold_do_not_matter() -> None:
    assert threshold([0.0] * 98 + [1.0, 2.0], 0.02) == 1.0


@pytest.mark.parametrize(
    ("scores", "rate", "message"),
    [
        ([0.0] * 97 + [2.0] * 3, 0.02, "3 of 100 natural images reach the score 2 and 2 may"),
        ([1.0] * 100, 0.5, "100 of 100 natural images reach the score 1 and 50 may"),
        ([0.0] * 97 + [1.0, 1.0, 2.0], 0.02, "3 of 100 natural images reach the score 1 and 2 may"),
        ([*range(99), math.nan], 0.02, "1 of 100 scores are NaN or infinite"),
        ([*range(98), math.inf, -math.inf], 0.02, "2 of 100 scores are NaN or infinite"),
        (list(range(199)), 0.005, "a rate of 0.005 flags none of 199 images"),
        ([], 0.005, "a rate of 0.005 flags none of 0 images"),
        (list(range(100)), 0.0, "the rate must be between 0 and 1, both excluded, got 0.0"),
        (list(range(100)), 1.0, "the rate must be between 0 and 1, both excluded, got 1.0"),
        (list(range(100)), -0.1, "got -0.1"),
        (list(range(100)), math.nan, "got nan"),
    ],
)
def test_what_gives_no_threshold_is_refused(scores: list[float], rate: float, message: str) -> None:
    with pytest.raises(DetectorError, match=message) as raised:
        threshold(scores, rate)
    assert "\n" not in str(raised.value)
    assert ";" in str(raised.value) or "got" in str(raised.value)
