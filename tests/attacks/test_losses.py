"""Losses by hand."""

import pytest
import torch
from torch import Tensor

from attacks.losses import LOSSES, LossName, dlr
from attacks.margins import margin

LOGITS = torch.tensor([[3.0, 1.0, 0.0, -1.0], [0.0, 2.0, 5.0, 1.0]])
LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ce", [-torch.tensor(3.0).exp().log() + LOGITS[0].logsumexp(0), LOGITS[1].logsumexp(0) - 2.0]),
        ("margin", [-2.0, 3.0]),
        ("dlr", [-2.0 / (3.0 - 0.0), 3.0 / (5.0 - 1.0)]),
    ],
)
def test_values(name: LossName, expected: list[float]) -> None:
    assert LOSSES[name](LOGITS, LABELS) == pytest.approx(torch.tensor(expected))


def test_dlr_does_not_see_the_scale() -> None:
    assert torch.allclose(dlr(1e4 * LOGITS, LABELS), dlr(LOGITS, LABELS))


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(classes: int) -> None:
    logits = LOGITS[:1, :classes]
    largest = logits[0].sort(descending=True).values
    scale: Tensor = torch.tensor(1.0) if classes == 2 else largest[0] - largest[2]
    assert torch.allclose(dlr(logits, LABELS[:1]), margin(logits, LABELS[:1]) / scale)
