"""The attack against an oracle: what transport can do to a linear model is a linear program."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import predict
from robustness_bench.attacks.wasserstein import Box, Method, Wasserstein
from tests.attacks.numerics.test_transport import Program
from tests.support import Constant, Linear, Small, images, small_model

METHODS: tuple[Method, ...] = ("frank-wolfe", "projected-gradient")
BOXES: tuple[Box, ...] = ("clip", "clamp", "project")
every_method = pytest.mark.parametrize("method", METHODS)
every_box = pytest.mark.parametrize("box", BOXES)


def attack(method: Method = "frank-wolfe", box: Box = "clamp", **fields: Any) -> Wasserstein:
    return Wasserstein(
        norm="linf", method=method, box=box, **{"eps": 0.05, "steps": 10, "bisections": 8, **fields}
    )


def critical(model: Linear, x: Tensor, window: int, box: bool) -> float:
    """The smallest eps at which transport of one image (C, H, W) changes the class of a two-class model."""
    program = Program(x, window)
    y = int(model(x[None]).argmax())
    weight = (model.weight[y] - model.weight[1 - y]).detach().double().numpy()[program.end]
    bias = (model.bias[y] - model.bias[1 - y]).item()
    ceiling = np.ones(program.pixels) if box else None
    cost = program.solve(program.distance, ceiling=ceiling, also=(weight, -bias))
    return float("inf") if cost is None else float(cost) / x.double().sum().item()


@every_method
@pytest.mark.parametrize(("channels", "window"), [(1, 5), (2, 4)])
def test_succeeds_just_above_the_critical_budget_and_fails_just_below(
    method: Method, window: int, channels: int
) -> None:
    """Dark images: all the mass that can meet in a pixel fits into it, so that the box never binds."""
    model = Linear((channels, 6, 6), classes=2)
    x = 0.04 * images(16, channels, 6)
    model.bias.data.zero_()
    tried = 0
    for row in range(16):
        eps = critical(model, x[row], window, box=False)
        if not 0.02 < eps < 1.0 or tried == 3:
            continue
        one, label = x[row : row + 1], predict(model, x[row : row + 1])
        above = attack(method, "clip", eps=1.02 * eps, window=window, steps=8)
        below = attack(method, "clip", eps=0.98 * eps, window=window, steps=8)
        assert above(model, one, label).prediction != label
        assert below(model, one, label).prediction == label
        tried += 1
    assert tried == 3


@pytest.mark.parametrize(("method", "above_by"), [("frank-wolfe", 1.05), ("projected-gradient", 1.15)])
def test_project_succeeds_above_the_critical_budget_of_the_box(method: Method, above_by: float) -> None:
    """Bright images: with the box the critical budget is a good deal higher than without."""
    model = Linear(classes=2)
    model.bias.data.zero_()
    x = (0.4 + 0.8 * images(24, size=6)).clamp(0, 1)
    tried = 0
    for row in range(24):
        free, boxed = (critical(model, x[row], 5, box) for box in (False, True))
        if not (0.02 < boxed < 1.0 and boxed > 1.1 * free) or tried == 2:
            continue
        one, label = x[row : row + 1], predict(model, x[row : row + 1])
        above = attack(method, "project", eps=above_by * boxed, steps=6, step_size=0.5)
        below = attack(method, "project", eps=0.98 * boxed, steps=1, step_size=0.5)
        assert above(model, one, label).prediction != label
        assert below(model, one, label).prediction == label
        tried += 1
    assert tried == 2


@every_method
def test_project_keeps_the_box_and_the_budget_and_clamp_finds_no_less(method: Method) -> None:
    """Recomputed from the images alone: the cheapest transport from x to x_adv keeps the budget."""
    model = small_model().eval()
    x = images(6)
    x[3:] = (2 * x[3:]).clamp(0, 1)
    y = predict(model, x)
    fields: dict[str, Any] = {"eps": 0.03, "steps": 3, "step_size": 0.3}
    kept = attack(method, "project", **fields).for_transfer()(model, x, y, goal="transfer")
    for before, after in zip(x, kept.x_adv, strict=True):
        distance = Program(before, 5).distance_to(after)
        assert distance is not None, "the mass of every image is what it was"
        assert distance <= 0.03 * before.sum().item() * (1 + 1e-3)
    assert not torch.allclose(kept.x_adv, x, atol=0.05)
    # With more steps: where a pixel is overfull, clamping hides the gradient from the next step.
    clamped = attack(method, "clamp", **{**fields, "steps": 12})(model, x, y)
    assert (clamped.prediction != y).sum() >= (kept.prediction != y).sum()


def test_clamping_leaves_the_budget_of_transport() -> None:
    """Why "project" exists: a clamped image has lost mass, which no transport can do."""
    model = small_model().eval()
    x = (2 * images(4)).clamp(0, 1)
    outcome = attack(eps=0.1)(model, x, predict(model, x), goal="transfer")
    assert (outcome.x_adv.sum((1, 2, 3)) < x.sum((1, 2, 3)) - 0.01).any()


@every_method
@every_box
@pytest.mark.parametrize(("channels", "window"), [(1, 5), (3, 4)])
def test_every_mode_returns_legal_images_and_succeeds(
    method: Method, box: Box, channels: int, window: int
) -> None:
    model, x = small_model(channels).eval(), images(4, channels)
    x[0, :, 2:5] = 0.0
    y = predict(model, x)
    fast = {"steps": 2, "step_size": 0.4} if box == "project" else {"steps": 20}
    outcome = attack(method, box, eps=0.15, window=window, **fast)(model, x, y)
    assert outcome.x_adv.min() >= 0
    assert outcome.x_adv.max() <= 1
    assert (outcome.prediction != y).all()
    assert not torch.equal(outcome.x_adv, x)


@every_method
@every_box
def test_batch_equals_one_by_one(method: Method, box: Box) -> None:
    model, x = small_model().eval(), images(5)
    y = predict(model, x)
    runner = attack(method, box, eps=0.01, steps=1 if box == "project" else 6)
    whole = runner(model, x, y, goal="transfer")
    for row in (1, 4):
        alone = runner(model, x[row : row + 1], y[row : row + 1], goal="transfer")
        assert torch.allclose(whole.x_adv[row : row + 1], alone.x_adv, atol=1e-4)


@every_method
def test_more_steps_do_not_lose(method: Method) -> None:
    """The image of the highest loss is kept, even where the steps are so large that the loss falls again."""
    model, x = small_model().eval(), images(12)
    y, before = predict(model, x), torch.full((12,), -torch.inf)
    for steps in (1, 2, 3, 5, 8):
        runner = attack(method, eps=0.05, steps=steps, step_size=5.0).for_transfer()
        logits = model(runner(model, x, y, goal="transfer").x_adv)
        loss = nn.functional.cross_entropy(logits, y, reduction="none").detach()
        assert (loss >= before - 1e-5).all()
        before = loss


@every_box
def test_what_the_model_sees(box: Box) -> None:
    """Only "clip" shows it an image outside the box, and judges the clipped one all the same."""

    class Witness(nn.Module):
        """Remembers the brightest pixel of the images it was to climb, and of those it was to judge."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.climbed, self.judged = small_model(), 0.0, 0.0

        def forward(self, x: Tensor) -> Tensor:
            brightest = x.detach().max().item()
            if x.requires_grad:
                self.climbed = max(self.climbed, brightest)
            else:
                self.judged = max(self.judged, brightest)
            logits: Tensor = self.inner(x)
            return logits

    model, x = Witness().eval(), (2 * images(3)).clamp(0, 1)
    attack(box=box, eps=0.2, steps=2)(model, x, predict(model.inner, x), goal="transfer")
    assert model.judged == 1
    assert model.climbed > 1.1 if box == "clip" else model.climbed == 1


@pytest.mark.parametrize(("method", "steps"), [("frank-wolfe", 60), ("projected-gradient", 30)])
def test_nears_the_optimum_of_a_concave_objective(method: Method, steps: int) -> None:
    """For a concave f, max g·q over plans q, less g·x_adv, bounds how far f(x_adv) is from the optimum."""

    class Pull(nn.Module):
        """The loss falls with the squared distance from a target image: the optimum is no vertex."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(images(1, size=6, seed=8))

        def forward(self, x: Tensor) -> Tensor:
            far = (x - self.weight).square().flatten(1).sum(1, keepdim=True)
            return torch.cat([far, torch.zeros_like(far)], 1)

    model, eps = Pull(), 0.1
    x, y = 0.25 + 0.5 * images(2, size=6), torch.zeros(2, dtype=torch.int64)
    runner = attack(method, eps=eps, steps=steps, step_size=0.1).for_transfer()
    x_adv = runner(model, x, y, goal="transfer").x_adv
    gradient = -2 * (x_adv - model.weight).detach()
    for row in range(2):
        best = Program(x[row], 5).highest(gradient[row], eps * x[row].sum().item(), box=False)
        short = best - (gradient[row] * x_adv[row]).sum().item()
        gained = (model(x[row : row + 1]) - model(x_adv[row : row + 1]))[0, 0].item()
        assert gained > 0.2
        assert short <= 0.05 * gained


@every_box
def test_passes_are_counted_as_announced(box: Box) -> None:
    x, y = images(3, size=6), torch.zeros(3, dtype=torch.int64)
    runner = attack(box=box, steps=3)
    outcome = runner(Constant(), x, y)
    forwards, backwards = runner.passes(5)
    assert outcome.forwards == forwards + 2  # the base class looks before and after
    assert outcome.backwards == backwards == 3
    assert torch.equal(outcome.x_adv, x)


def test_nothing_is_spent_on_fallen_samples() -> None:
    model, x = small_model().eval(), images(16)
    y = predict(model, x)
    runner = attack(eps=0.3, steps=40)
    assert runner(model, x, y).backwards < 5
    assert runner.for_transfer()(model, x, y).backwards == 40


def test_black_images_survive() -> None:
    model, x = Small().eval(), torch.zeros(2, 1, 8, 8)
    for method in METHODS:
        outcome = attack(method)(model, x, predict(model, x))
        assert torch.equal(outcome.x_adv, x)


def test_identity_is_every_field() -> None:
    runner = attack()
    assert Wasserstein(**json.loads(json.dumps(dataclasses.asdict(runner)))) == runner


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eps", -0.1),
        ("eps", float("nan")),
        ("steps", 0),
        ("window", 1),
        ("bisections", 0),
        ("gamma", 0.0),
        ("step_size", float("inf")),
        ("method", "newton"),
        ("box", "none"),
        ("norm", "l1"),
    ],
)
def test_wrong_hyperparameters_are_named(field: str, value: object) -> None:
    fields: dict[str, Any] = {"norm": "linf", "eps": 0.1, field: value}
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        Wasserstein(**fields)
