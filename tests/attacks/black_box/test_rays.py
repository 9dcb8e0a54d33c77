"""RayS against the closed form of a linear model, and against what a label alone can tell."""

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import predict
from robustness_bench.attacks.black_box.rays import RayS, _flips, _stages
from tests.support import Linear, images, small_model


def test_two_classes_of_a_linear_model_are_as_near_as_they_are() -> None:
    """The nearest point of a hyperplane in L∞ lies at a corner, x + r·sign(w)."""
    model = Linear((1, 6, 6), classes=2)
    x = 0.5 + 0.1 * (images(30, size=6) - 0.5)
    y = predict(model, x)
    found = RayS(queries=1500)(model, x, y)
    nearest = model.boundary(x, "linf")
    assert (found.prediction != y).all()
    assert (found.distance >= nearest * (1 - 1e-5)).all()
    assert (found.distance <= nearest * 1.02 + 1e-3).all()


@pytest.mark.parametrize("queries", [2, 3, 10, 57, 300])
def test_queries_are_kept_to_and_more_come_no_farther(queries: int) -> None:
    model, x = small_model().eval(), images(20)
    y = predict(model, x)
    fewer, more = (RayS(queries=each)(model, x, y) for each in (queries, 2 * queries))
    assert queries - 1 <= fewer.forwards - 2 <= queries  # one judges the natural image, one what is kept
    assert fewer.backwards == 0
    fooled = fewer.prediction != y
    assert (more.prediction != y)[fooled].all()
    assert (more.distance <= fewer.distance + 1e-6)[fooled].all()


class OnlyLabels(nn.Module):
    """Logits that tell the class and nothing else, without a gradient."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.detach())
        return nn.functional.one_hot(logits.argmax(1), logits.shape[1]).float()


def test_labels_are_all_it_sees() -> None:
    model, x = small_model().eval(), images(20)
    y = predict(model, x)
    assert torch.equal(RayS(queries=200)(model, x, y).x_adv, RayS(queries=200)(OnlyLabels(model), x, y).x_adv)


def test_after_single_pixels_it_begins_anew() -> None:
    """Where nothing fools, no flip is kept: every ray is all 1 but for one part."""

    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.images = list[Tensor]()

        def forward(self, x: Tensor) -> Tensor:
            self.images.append(x.clone())
            return torch.tensor([[1.0, 0.0]]).expand(len(x), -1)

    model = Same()
    RayS(queries=10)(model, torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64))
    rays = [each.flatten().long().tolist() for each in model.images[1:10]]
    parts = [[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]
    assert rays == [*parts, *parts[:2]]


def test_stages_cut_the_pixels_into_parts_down_to_single_ones() -> None:
    x = torch.zeros(1, 1, 2, 5)
    assert _stages(x) == 5
    for stage, parts in enumerate((1, 2, 4, 8, 16)):
        flipped = [_flips(x, torch.tensor([part]), torch.tensor([stage])).flatten() for part in range(parts)]
        assert torch.equal(torch.stack(flipped).prod(0), -torch.ones(10))  # each pixel is in one part
    assert _flips(x, torch.tensor([1]), torch.tensor([1])).flatten().tolist() == [1.0] * 5 + [-1.0] * 5
    assert _stages(torch.zeros(1, 3, 32, 32)) == 13


def test_impossible_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="queries must be at least 2"):
        RayS(queries=1)
    with pytest.raises(ValueError, match="tolerance positive"):
        RayS(tolerance=0.0)
