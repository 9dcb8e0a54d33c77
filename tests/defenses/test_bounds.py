import math

import pytest
import torch

from defenses.mutual_information.bounds import donsker_varadhan


def test_equals_a_plain_loop() -> None:
    scores = 5 * torch.randn(6, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = []
    for i in range(6):
        terms = []
        for location in range(3):
            others = [math.exp(scores[i, j, location]) for j in range(6) if j != i]
            terms.append(scores[i, i, location].item() - math.log(sum(others) / 5))
        expected.append(sum(terms) / 3)
    assert donsker_varadhan(scores).tolist() == pytest.approx(expected, abs=1e-12)


def test_large_scores_do_not_overflow() -> None:
    assert torch.isfinite(donsker_varadhan(1e4 * torch.randn(4, 4, 2))).all()


def test_independent_scores_carry_nothing() -> None:
    assert donsker_varadhan(torch.ones(5, 5, 2)).abs().max() < 1e-6


def test_one_sample_has_no_marginal() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        donsker_varadhan(torch.ones(1, 1, 2))
