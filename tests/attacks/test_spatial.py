"""STA against hand-computed flows and against the paper's objective minimised for one sample."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks import spatial
from robustness_bench.attacks.base import predict
from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.attacks.spatial import STA, flow_loss, warp
from tests.attacks.test_ti_dim import digits, trained_on_digits
from tests.support import Constant, Linear, images, small_model

SHORT = STA(norm="linf", steps=30)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return trained_on_digits(0)


@pytest.fixture(scope="module")
def problem(trained: nn.Module) -> tuple[nn.Module, Tensor, Tensor]:
    """Digits that the model has not seen and gets right."""
    x, y = (part[1400:1500] for part in digits())
    right = predict(trained, x) == y
    return trained, x[right], y[right]


def constant_flow(u: float, v: float, n: int, height: int, width: int) -> Tensor:
    return torch.tensor([u, v])[None, :, None, None].expand(n, 2, height, width)


def nothing(n: int) -> Noise:
    return Noise.for_samples(torch.arange(n), 0)


# The pixels a flow fetches.


@pytest.mark.parametrize(
    ("channels", "height", "width"), [(1, 8, 8), (3, 28, 28), (3, 32, 32), (2, 5, 9), (1, 1, 6)]
)
def test_no_flow_is_the_image_itself(channels: int, height: int, width: int) -> None:
    x = images(2, channels, max(height, width))[:, :, :height, :width]
    assert torch.allclose(warp(x, torch.zeros(2, 2, height, width)), x, atol=1e-5)


def test_an_integer_flow_translates_along_its_own_axis() -> None:
    """u moves along the columns and v along the rows; beyond the border its pixel continues."""
    x = images(2, channels=3, size=9)[:, :, :7]
    right = warp(x, constant_flow(2.0, 0.0, 2, 7, 9))
    assert torch.allclose(right[..., :-2], x[..., 2:], atol=1e-5)
    assert torch.allclose(right[..., -2:], x[..., -1:].expand(-1, -1, -1, 2), atol=1e-5)
    up = warp(x, constant_flow(0.0, -3.0, 2, 7, 9))
    assert torch.allclose(up[:, :, 3:], x[:, :, :-3], atol=1e-5)
    assert torch.allclose(up[:, :, :3], x[:, :, :1].expand(-1, -1, 3, -1), atol=1e-5)


def test_a_flow_between_pixels_is_bilinear() -> None:
    """Every pixel of the image by the four products of equation 1."""
    x = images(1, size=6)[:, :, :5]
    flow = 3.0 * torch.rand(1, 2, 5, 6, generator=torch.Generator().manual_seed(0)) - 1.5
    expected = torch.zeros(5, 6)
    for i in range(5):
        for j in range(6):
            column = min(max(j + flow[0, 0, i, j].item(), 0.0), 5.0)
            row = min(max(i + flow[0, 1, i, j].item(), 0.0), 4.0)
            for p in range(5):
                for q in range(6):
                    weight = max(0.0, 1 - abs(row - p)) * max(0.0, 1 - abs(column - q))
                    expected[i, j] += weight * x[0, 0, p, q]
    assert torch.allclose(warp(x, flow)[0, 0], expected, atol=1e-5)


def test_a_warped_image_stays_in_the_box() -> None:
    x = images(8, size=28).round()
    flow = 20.0 * torch.randn(8, 2, 28, 28, generator=torch.Generator().manual_seed(0))
    assert warp(x, flow).min() >= 0
    assert warp(x, flow).max() <= 1
    assert torch.allclose(warp(torch.ones_like(x), flow), torch.ones_like(x), atol=1e-6)


# The flow loss.


@pytest.mark.parametrize(("row", "column", "neighbours"), [(2, 3, 4), (0, 3, 3), (0, 0, 2), (4, 6, 2)])
def test_one_moved_pixel_costs_its_length_twice_per_neighbour(row: int, column: int, neighbours: int) -> None:
    flow = torch.zeros(2, 2, 5, 7)
    flow[0, :, row, column] = torch.tensor([3.0, -4.0])
    cost = flow_loss(flow)
    assert cost.tolist() == pytest.approx([2 * neighbours * 5.0, 0.0])
    rounded = flow_loss(flow, 0.1)
    assert rounded.tolist() == pytest.approx([2 * neighbours * (math.sqrt(25.01) - 0.1), 0.0], abs=1e-4)


def test_a_constant_flow_costs_nothing_and_a_slope_its_size() -> None:
    assert flow_loss(constant_flow(2.5, -1.0, 1, 5, 7)) == 0
    slope = torch.zeros(1, 2, 5, 7)
    slope[0, 0] = 0.5 * torch.arange(7.0)
    assert flow_loss(slope).item() == pytest.approx(2 * 5 * 6 * 0.5, rel=1e-5)
    assert flow_loss(slope.transpose(2, 3)).item() == pytest.approx(2 * 5 * 6 * 0.5, rel=1e-5)
    slope[0, 1] = 1.0 - 0.5 * torch.arange(7.0)
    assert flow_loss(slope).item() == pytest.approx(2 * 5 * 6 * math.sqrt(0.5), rel=1e-5)


def test_the_gradient_is_finite_where_nothing_moves() -> None:
    flow = torch.zeros(2, 2, 6, 6, requires_grad=True)
    x = images(2, size=6)
    (cost_gradient,) = torch.autograd.grad(flow_loss(flow, 0.1).sum(), flow)
    assert torch.equal(cost_gradient, torch.zeros_like(flow))
    (image_gradient,) = torch.autograd.grad(warp(x, flow).square().sum(), flow)
    assert torch.isfinite(image_gradient).all()
    assert image_gradient.abs().max() > 0.01


# The attack.


def recorded(
    attack: STA, model: nn.Module, x: Tensor, y: Tensor, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Tensor]:
    """What the attack made, and the flow of every iterate: (steps + 1, N, 2, H, W)."""
    flows: list[Tensor] = []

    def witness(images: Tensor, flow: Tensor) -> Tensor:
        flows.append(flow.detach().clone())
        return warp(images, flow)

    monkeypatch.setattr(spatial, "warp", witness)
    found = attack.perturb(model, x, y, nothing(len(x)))
    return found, torch.stack(flows)


def test_keeps_the_smoothest_success_of_all_iterates(
    problem: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, y = problem
    attack = dataclasses.replace(SHORT, steps=60, tau=0.1)
    found, flows = recorded(attack, model, x, y, monkeypatch)
    assert torch.equal(flows[0], torch.zeros_like(flows[0]))
    assert len(flows) == attack.steps + 1
    later = 0
    for row in range(len(x)):
        one = x[row : row + 1].expand(len(flows), -1, -1, -1)
        warped = warp(one, flows[:, row])
        costs = flow_loss(flows[:, row]).masked_fill(predict(model, warped) == y[row], torch.inf)
        smoothest = int(costs.argmin())
        expected = warped[smoothest] if costs[smoothest] < torch.inf else x[row]
        assert torch.allclose(found[row], expected, atol=1e-6)
        successes = costs.isfinite().nonzero().flatten().tolist()
        later += bool(successes) and successes[0] < smoothest < attack.steps
    assert later > 10, "for some the first success must not be the smoothest, nor the last"


def test_moves_most_digits_a_little(
    problem: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, y = problem
    found, flows = recorded(dataclasses.replace(SHORT, steps=60, tau=0.1), model, x, y, monkeypatch)
    fooled = predict(model, found) != y
    assert fooled.float().mean() > 0.9
    lengths = flows[-1].square().sum(1).sqrt().flatten(1).mean(1)
    assert lengths[fooled].median() < 0.7, "pixels of an 8×8 image move by less than one"


def test_equals_the_objective_minimised_for_one_sample(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    """The objective and the optimizer spelled out, the flow loss pair by pair."""
    model, x, y = problem
    attack = dataclasses.replace(SHORT, steps=8, tau=0.05, confidence=0.5)

    def pairs(flow: Tensor, rounding: float) -> Tensor:
        steps = [flow[:, 1:] - flow[:, :-1], flow[:, :, 1:] - flow[:, :, :-1]]
        squares = torch.cat([(step[0] ** 2 + step[1] ** 2).flatten() for step in steps])
        return 2 * ((squares + rounding**2).sqrt() - rounding).sum()

    whole = attack.perturb(model, x[:12], y[:12], nothing(12))
    for row in range(12):
        image, label = x[row : row + 1], int(y[row])
        best, smallest = image, math.inf
        flow, first, second = torch.zeros(2, 8, 8), torch.zeros(2, 8, 8), 0.0
        for step in range(9):
            flow.requires_grad_()
            warped = warp(image, flow[None])
            logits = model(warped)[0]
            behind = logits[label] - torch.cat([logits[:label], logits[label + 1 :]]).max()
            cost = pairs(flow.detach(), 0.0).item()
            if behind < -0.5 and cost < smallest:
                best, smallest = warped.detach(), cost
            loss = torch.maximum(behind, torch.tensor(-0.5)) + 0.05 * pairs(flow, 0.1)
            (gradient,) = torch.autograd.grad(loss, flow)
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient.square().mean().item()
            scale = math.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8
            flow = flow.detach() - 0.5 * (1 - step / 8) * first / (1 - 0.9 ** (step + 1)) / scale
        assert torch.allclose(whole[row : row + 1], best, atol=1e-4)
    assert (whole != x[:12]).flatten(1).any(1).sum() > 3


def test_a_heavier_flow_loss_makes_smoother_flows(
    problem: tuple[nn.Module, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, y = problem
    costs = []
    for tau in (0.0, 0.05, 0.5):
        _, flows = recorded(dataclasses.replace(SHORT, tau=tau), model, x, y, monkeypatch)
        costs.append(flow_loss(flows[-1]).mean())
    assert costs[0] > 1.5 * costs[1] > 1.5 * costs[2]


def test_an_image_must_exceed_the_confidence(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = problem
    found = dataclasses.replace(SHORT, confidence=1.0).perturb(model, x, y, nothing(len(x)))
    moved = (found != x).flatten(1).any(1)
    logits = model(found).detach()
    true = logits.gather(1, y[:, None])[:, 0]
    others = logits.scatter(1, y[:, None], -torch.inf).max(1).values
    assert moved.float().mean() > 0.5
    assert (others - true)[moved].min() > 1.0 - 1e-4


def test_failures_are_the_natural_images(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = problem
    found = dataclasses.replace(SHORT, steps=2, step_size=0.1).perturb(model, x, y, nothing(len(x)))
    stands = predict(model, found) == y
    assert stands.any()
    assert not stands.all()
    assert torch.equal(found[stands], x[stands])
    assert torch.equal(SHORT.perturb(Constant(), x, 0 * y, nothing(len(x))), x)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    model, x = small_model().eval(), images(8)
    y = model(x).argmax(1)
    whole = SHORT(model, x, y)
    assert (whole.prediction != y).any()
    for row in range(8):
        alone = SHORT(model, x[row : row + 1], y[row : row + 1])
        assert torch.allclose(whole.x_adv[row : row + 1], alone.x_adv, atol=1e-4)


def test_the_norm_only_names_the_column() -> None:
    model, x = small_model().eval(), images(6)
    y = model(x).argmax(1)
    found = [dataclasses.replace(SHORT, norm=norm)(model, x, y) for norm in STA.norms]
    assert torch.equal(found[0].x_adv, found[1].x_adv)
    assert (found[0].distance <= found[1].distance).all()
    assert SHORT.for_transfer() == SHORT


def test_passes_are_what_every_sample_costs() -> None:
    outcome = SHORT(Constant(), images(3), torch.zeros(3, dtype=torch.int64))
    forwards, backwards = SHORT.passes(5)
    assert (outcome.forwards, outcome.backwards) == (forwards + 2, backwards)  # two by the base class


@pytest.mark.parametrize(
    ("channels", "height", "width"), [(1, 8, 8), (3, 28, 28), (3, 32, 32), (1, 1, 6), (2, 5, 9)]
)
def test_any_channels_sizes_and_200_classes(channels: int, height: int, width: int) -> None:
    model = Linear((channels, height, width), classes=200)
    x = images(3, channels, max(height, width))[:, :, :height, :width]
    outcome = dataclasses.replace(SHORT, steps=5)(model, x, model(x).argmax(1))
    assert outcome.x_adv.shape == x.shape
    assert torch.isfinite(outcome.x_adv).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"step_size": 0.0}, "step_size=0.0"),
        ({"step_size": math.inf}, "step_size=inf"),
        ({"tau": -0.1}, "tau=-0.1"),
        ({"tau": math.nan}, "tau=nan"),
        ({"confidence": -1.0}, "confidence=-1.0"),
    ],
)
def test_wrong_fields_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STA(**{"norm": "l2", **changes})
