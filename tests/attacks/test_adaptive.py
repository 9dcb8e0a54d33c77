"""The attack that has to pass detectors, against closed forms, a QP solver and systems that lie."""

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustness_bench.attacks.adaptive import AdaptiveDetection, Evasion, Guarded, Probe
from robustness_bench.attacks.base import AttackError, frozen, predict
from robustness_bench.attacks.numerics.losses import margin
from robustness_bench.attacks.registry import build_attack
from tests.support import Constant, Linear, NaNWhereBright, images, small_model

NEAR = AdaptiveDetection(confidence=0.0, steps=200, slack=0.02)
"""For systems whose boundary is known: nothing beyond it is wanted."""
QUICK = AdaptiveDetection(steps=60, search_steps=3)
CLEAR = 1e-4  # what the attack keeps from every boundary


class Bare(Guarded):
    """A classifier alone, which counts the samples it is asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits

    def surfaces(self, x: Tensor, target: Tensor) -> list[Tensor]:
        return [self.model(x)]

    def excess(self, x: Tensor) -> Tensor:
        return x.new_zeros((len(x), 0))


class HalfSpaces(Bare):
    """Detector d flags where normal_d · x >= offset_d; normals (D, pixels)."""

    def __init__(self, model: nn.Module, normals: Tensor, offsets: Tensor) -> None:
        super().__init__(model)
        self.normals, self.offsets = normals, offsets

    def excess(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.normals.to(x.dtype).T - self.offsets.to(x.dtype)


class Blurred(Bare):
    """Reforms by a blur and flags what the blur changes much: in its pixels, or in its logits."""

    def __init__(self, model: nn.Module, natural: Tensor) -> None:
        super().__init__(model)
        with torch.no_grad(), frozen(self):
            scores = self.scores(natural)
        self.threshold: Tensor = 1.02 * scores.max(0).values
        self.scale: Tensor = scores.std(0)

    def blur(self, x: Tensor) -> Tensor:
        smooth: Tensor = functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return smooth

    def scores(self, x: Tensor) -> Tensor:
        pixels: Tensor = (x - self.blur(x)).abs().flatten(1).mean(1)
        logits: Tensor = (self.model(x).softmax(1) - self.model(self.blur(x)).softmax(1)).abs().sum(1)
        return torch.stack([pixels, logits], 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(self.blur(x))
        return logits

    def surfaces(self, x: Tensor, target: Tensor) -> list[Tensor]:
        return [self.model(x), self.forward(x)]

    def excess(self, x: Tensor) -> Tensor:
        excess: Tensor = (self.scores(x) - self.threshold.to(x.dtype)) / self.scale.to(x.dtype)
        return excess


def evades(system: Guarded, x: Tensor, y: Tensor) -> Tensor:
    """By the definition, from fresh passes."""
    with torch.no_grad(), frozen(system):
        flagged = (system.excess(x) >= 0).any(1)
    return ~flagged & (classes(system, x) != y)


def classes(system: Guarded, x: Tensor) -> Tensor:
    with frozen(system):
        return predict(system, x)


def two_classes(direction: Tensor, distance: float, x: Tensor) -> Linear:
    """A linear model whose boundary is ``distance`` away from x (1, 1, H, W), along ``direction``."""
    model = Linear((1, *x.shape[2:]), classes=2).requires_grad_(False)
    unit = direction / direction.norm()
    model.weight.copy_(torch.stack([-2.0 * unit, 2.0 * unit]))
    offset = 2.0 * (x.flatten() @ unit + distance)
    model.bias.copy_(torch.stack([offset, -offset]))
    return model


@pytest.fixture(scope="module")
def linear() -> tuple[Linear, Tensor, Tensor]:
    """Mid-grey images of one class in five, about 0.35 away from the nearest other."""
    model = Linear(classes=5).requires_grad_(False)
    model.weight[0] *= 3.0  # the nearest class, and not the likeliest
    x = 0.5 + 0.1 * (images(8, size=6) - 0.5)
    return model, x, model(x).argmax(1)


@pytest.fixture(scope="module")
def blurred() -> tuple[Blurred, Tensor, Tensor]:
    x = images(8)
    system = Blurred(small_model(), x).eval()
    return system, x, classes(system, x)


# How near it comes.


def test_without_detectors_it_comes_to_the_boundary_of_a_linear_model(
    linear: tuple[Linear, Tensor, Tensor],
) -> None:
    model, x, y = linear
    assert len(y.unique()) == 1
    outcome = dataclasses.replace(NEAR, targets=4).run(Bare(model), x, y)
    assert outcome.success.all()
    ratio = outcome.distance / model.boundary(x, "l2")
    assert ratio.min() >= 1 - 1e-4
    assert ratio.max() <= 1.03


@pytest.mark.parametrize("cosine", [-0.5, 0.4, 0.8])
def test_a_half_space_is_gone_around_by_the_shortest_way(cosine: float) -> None:
    """Both planes touched: ‖δ‖² = (α² + β² - 2ραβ) / (1 - ρ²); one plane where the other does not bind."""
    generator = torch.Generator().manual_seed(3)
    x = torch.full((1, 1, 6, 6), 0.5)
    u, v = torch.linalg.qr(torch.randn(36, 2, generator=generator)).Q.T
    v = cosine * u + math.sqrt(1 - cosine**2) * v
    alpha, beta = 0.5, 0.1
    system = HalfSpaces(two_classes(u, alpha, x), v[None], (x.flatten() @ v + beta)[None])
    outcome = NEAR.run(system, x, torch.tensor([0]))
    direct = alpha * cosine <= beta
    both = math.sqrt((alpha**2 + beta**2 - 2 * cosine * alpha * beta) / (1 - cosine**2))
    wanted = alpha if direct else both
    assert outcome.success.all()
    assert direct == (cosine < 0)
    assert 1 - 1e-4 <= outcome.distance.item() / wanted <= 1.06


def nearest_by_solver(system: HalfSpaces, x: Tensor, y: int) -> float:
    """Over the wrong classes k: the nearest point of the box with z_k >= z_y and no detector above 0."""
    optimize: Any = pytest.importorskip("scipy.optimize")
    model: Any = system.model
    weight, bias = model.weight.double().numpy(), model.bias.double().numpy()
    natural = x.flatten().double().numpy()
    normals, offsets = system.normals.double().numpy(), system.offsets.double().numpy()
    found = []
    for k in {*range(len(weight))} - {y}:
        rows = np.vstack([weight[k] - weight[y], -normals])
        ends = np.append(bias[k] - bias[y], offsets)
        answer = optimize.minimize(
            lambda p: ((p - natural) ** 2).sum(),
            np.full_like(natural, 0.5),
            jac=lambda p: 2 * (p - natural),
            bounds=[(0, 1)] * len(natural),
            constraints={
                "type": "ineq",
                "fun": lambda p, a=rows, b=ends: a @ p + b,
                "jac": lambda p, a=rows: a,
            },
            method="SLSQP",
            options={"ftol": 1e-12},
        )
        if (rows @ answer.x + ends).min() > -1e-7:
            found.append(math.sqrt(answer.fun))
    return min(found)


def test_agrees_with_a_quadratic_solver_on_three_classes_two_detectors_and_the_box() -> None:
    generator = torch.Generator().manual_seed(4)
    model = Linear((1, 2, 3), classes=3, seed=4).requires_grad_(False)
    x = torch.rand(6, 1, 2, 3, generator=generator) * 0.9 + 0.05
    logits = model(x)
    model.bias[0] += 0.3 + (logits[:, 1:].max(1).values - logits[:, 0]).max().item()
    normals = torch.randn(2, 6, generator=generator)
    system = HalfSpaces(model, normals, (x.flatten(1) @ normals.T).max(0).values + 0.05)
    wanted = np.array([nearest_by_solver(system, image, 0) for image in x])
    assert (wanted > 1.05 * model.boundary(x, "l2").numpy()).sum() >= 3, "box and detectors must bind"
    outcome = NEAR.run(system, x, torch.zeros(6, dtype=torch.int64))
    assert outcome.success.all()
    assert ((outcome.x_adv < 0.01) | (outcome.x_adv > 0.99)).any(), "the box must bind"
    ratio = outcome.distance.numpy() / wanted
    assert ratio.min() >= 1 - 1e-3
    assert ratio.max() <= 1.04


def test_more_targets_are_never_farther_and_sometimes_nearer(linear: tuple[Linear, Tensor, Tensor]) -> None:
    model, x, y = linear
    distances = [dataclasses.replace(QUICK, targets=n).run(Bare(model), x, y).distance for n in (1, 2, 4, 9)]
    for fewer, more in pairwise(distances):
        assert (more <= fewer).all()
    assert (distances[2] < 0.98 * distances[0]).any()
    assert torch.equal(distances[2], distances[3]), "there are four wrong classes"


def test_the_likeliest_wrong_class_is_tried_first(linear: tuple[Linear, Tensor, Tensor]) -> None:
    tried = []

    class Asked(Bare):
        def surfaces(self, x: Tensor, target: Tensor) -> list[Tensor]:
            tried.append(target)
            return super().surfaces(x, target)

    model, x, y = linear
    dataclasses.replace(QUICK, steps=1, search_steps=1, targets=3).run(Asked(model), x, y)
    ranking = model(x).argsort(descending=True, dim=1)
    assert torch.equal(torch.stack(tried, 1), ranking[:, 1:4])


class Witness(Bare):
    """Remembers the nearest image that it was shown and that evades, of one sample."""

    def __init__(self, system: Guarded, x: Tensor, y: Tensor) -> None:
        super().__init__(system)
        self.x, self.y, self.nearest = x, y, math.inf

    def surfaces(self, x: Tensor, target: Tensor) -> list[Tensor]:
        assert isinstance(self.model, Guarded)
        return self.model.surfaces(x, target)

    def excess(self, x: Tensor) -> Tensor:
        assert isinstance(self.model, Guarded)
        excess = self.model.excess(x)
        with torch.no_grad():
            clear = margin(self.model(x), self.y) > CLEAR
        if clear and (excess < -CLEAR).all():
            self.nearest = min(self.nearest, (x - self.x).norm().item())
        return excess


@pytest.mark.parametrize("row", [0, 3, 6])
def test_nothing_nearer_that_evades_was_ever_shown(row: int, blurred: tuple[Blurred, Tensor, Tensor]) -> None:
    system, x, y = blurred
    x, y = x[row : row + 1], y[row : row + 1]
    witness = Witness(system, x, y)
    outcome = QUICK.run(witness, x, y)
    assert outcome.success.all()
    assert outcome.distance.item() == pytest.approx(witness.nearest, rel=1e-5)


# What counts as a success.


def check(outcome: Evasion, system: Guarded, x: Tensor, y: Tensor) -> None:
    assert torch.equal(outcome.success, evades(system, outcome.x_adv, y))
    assert torch.equal(outcome.x_adv[~outcome.success], x[~outcome.success])
    assert torch.allclose(outcome.distance, (outcome.x_adv - x).flatten(1).norm(dim=1))
    assert outcome.x_adv.min() >= 0
    assert outcome.x_adv.max() <= 1


def test_every_success_is_unflagged_misclassified_and_in_the_box(
    blurred: tuple[Blurred, Tensor, Tensor],
) -> None:
    system, x, y = blurred
    outcome = QUICK.run(system, x, y)
    assert outcome.success.all()
    check(outcome, system, x, y)
    assert (outcome.distance > 0.01).all()


def test_too_few_steps_fail_on_some_and_keep_those_natural(blurred: tuple[Blurred, Tensor, Tensor]) -> None:
    system, x, y = blurred
    outcome = dataclasses.replace(QUICK, targets=1, search_steps=1, steps=9).run(system, x, y)
    check(outcome, system, x, y)
    assert outcome.success.any()
    assert not outcome.success.all()


def test_a_detector_that_flags_everything_is_not_passed(linear: tuple[Linear, Tensor, Tensor]) -> None:
    """With a threshold that just touches every score: exactly 0 is flagged, misclassified (row 0) or not."""
    model, x, y = linear
    y = torch.cat([(y[:1] + 1) % 5, y[1:]])
    system = HalfSpaces(model, torch.zeros(1, 36), torch.zeros(1))
    outcome = QUICK.run(system, x, y)
    assert not outcome.success.any()
    assert torch.equal(outcome.x_adv, x)
    assert outcome.distance.tolist() == [0.0] * len(x)


def test_one_of_several_detectors_is_enough_to_flag(linear: tuple[Linear, Tensor, Tensor]) -> None:
    model, x, y = linear
    system = HalfSpaces(model, torch.zeros(3, 36), torch.tensor([9.0, -0.5, 9.0]))
    assert not QUICK.run(system, x, y).success.any()


def test_what_no_forward_pass_confirms_is_no_success(linear: tuple[Linear, Tensor, Tensor]) -> None:
    class QuietUnderAttack(Bare):
        def excess(self, x: Tensor) -> Tensor:
            return x.new_full((len(x), 1), -1.0 if x.requires_grad else 1.0)

    model, x, y = linear
    outcome = QUICK.run(QuietUnderAttack(model), x, y)
    assert not outcome.success.any()
    assert torch.equal(outcome.x_adv, x)


def test_nothing_fools_a_constant_classifier() -> None:
    x = images(2)
    outcome = QUICK.run(Bare(Constant()), x, torch.zeros(2, dtype=torch.int64))
    assert not outcome.success.any()
    assert torch.equal(outcome.x_adv, x)


def test_the_natural_image_is_kept_where_it_evades_and_changed_where_it_is_flagged() -> None:
    """Rows: misclassified and unflagged, misclassified and flagged, rightly classified and flagged."""
    x = torch.full((3, 1, 6, 6), 0.5)
    x[1:, 0, 0, 0] += 0.2
    model = two_classes(torch.ones(36), -0.3, x[:1])
    detector = torch.eye(36)[:1]
    system = HalfSpaces(model, detector, torch.tensor([0.6]))
    y = torch.tensor([0, 0, 1])
    outcome = NEAR.run(system, x, y)
    check(outcome, system, x, y)
    assert outcome.success.all()
    assert outcome.distance[0] == 0
    assert outcome.distance[1].item() == pytest.approx(0.1, rel=0.05)
    assert outcome.distance[2] > 0.3


# Scores without a gradient.


class Saturating(Bare):
    """Logits of the even columns and logits of the odd ones should agree: flagged by the divergence of their
    softmax in float32, which is one-hot, and so has no gradient, where the gap is wide."""

    def __init__(self, shown: Callable[["Saturating", Tensor], list[Tensor]]) -> None:
        super().__init__(Linear())
        self.rebuilt, self.shown = Linear(), shown
        even = torch.arange(36) % 2 == 0
        with torch.no_grad():
            self.model.weight.mul_(60.0 * even)
            self.rebuilt.weight.copy_(self.model.weight.roll(1, 1))
            self.rebuilt.bias.copy_(self.model.bias)

    def surfaces(self, x: Tensor, target: Tensor) -> list[Tensor]:
        return self.shown(self, x)

    def excess(self, x: Tensor) -> Tensor:
        a, b = self.model(x).softmax(1), self.rebuilt(x).softmax(1)
        mixed, *parts = [-(p * p.clamp_min(1e-12).log()).sum(1) for p in ((a + b) / 2, a, b)]
        divergence: Tensor = mixed - sum(parts) / 2
        return ((divergence - 0.05) / 0.05)[:, None]


def successes(shown: Callable[[Saturating, Tensor], list[Tensor]]) -> int:
    """Of eight: images whose columns come in equal pairs, which no detector flags."""
    system, x = Saturating(shown), images(8, size=6)[..., ::2].repeat_interleave(2, 3)
    y = classes(system, x)
    return int(QUICK.run(system, x, y).success.sum())


def test_saturated_scores_are_passed_by_way_of_the_logits_alone() -> None:
    assert successes(lambda system, x: []) == 0
    assert successes(lambda system, x: [system.model(x)]) <= 4
    assert successes(lambda system, x: [system.model(x), system.rebuilt(x)]) == 8


def test_a_score_that_no_logits_show_is_passed_by_its_excess() -> None:
    """The half-space of the closed form, met at the end: without weight the attack runs into it."""
    x = torch.full((1, 1, 6, 6), 0.5)
    u, v = torch.ones(36) / 6, torch.cat([torch.ones(18), 0 * torch.ones(18)]) / math.sqrt(18)
    system = HalfSpaces(two_classes(u, 0.5, x), v[None], (x.flatten() @ v + 0.1)[None])
    y = torch.tensor([0])
    assert QUICK.run(system, x, y).success.all()
    assert not dataclasses.replace(QUICK, weight=0.0).run(system, x, y).success.any()


# What it leaves and what it costs.


def perturbed(attack: AdaptiveDetection, system: Guarded, x: Tensor, y: Tensor) -> tuple[Tensor, int, int]:
    probe = Probe(system)
    with frozen(system):
        x_adv = attack.perturb(probe, x, y)
    return x_adv, probe.forwards, probe.backwards


def test_a_batch_gives_what_its_samples_give_alone(blurred: tuple[Blurred, Tensor, Tensor]) -> None:
    """Images and work, in float64, where a batch rounds as its samples alone do."""
    system, x, y = blurred
    system = copy.deepcopy(system).double()
    x, y = x[:4].double(), y[:4]
    attack = dataclasses.replace(QUICK, targets=2, search_steps=2, steps=40)
    whole, forwards, backwards = perturbed(attack, system, x, y)
    alone = [perturbed(attack, system, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    assert not torch.equal(whole, x)
    assert torch.allclose(whole, torch.cat([x_adv for x_adv, _, _ in alone]), atol=1e-6)
    assert forwards == sum(n for _, n, _ in alone)
    assert backwards == sum(n for _, _, n in alone)
    assert len({n for _, _, n in alone}) > 1, "samples must differ in when they stall"


def test_leaves_the_system_and_the_global_generator_as_they_were() -> None:
    x = images(3)
    system = Blurred(small_model(), x).train()
    y = classes(system, x)
    small: Any = system.model
    small.layers[1].eval()  # a module in another mode than the rest
    small.layers[0].weight.requires_grad_(False)
    state = {key: value.clone() for key, value in system.state_dict().items()}
    modes = [module.training for module in system.modules()]
    wanted = [weight.requires_grad for weight in system.parameters()]
    generator = torch.get_rng_state()

    attack = dataclasses.replace(QUICK, targets=1, search_steps=2)
    first = attack.run(system, x, y)

    assert torch.equal(generator, torch.get_rng_state())
    assert modes == [module.training for module in system.modules()]
    assert wanted == [weight.requires_grad for weight in system.parameters()]
    for key, value in system.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert all(weight.grad is None for weight in system.parameters())
    assert torch.equal(first.x_adv, attack.run(system.eval(), x, y).x_adv), "the mode must not matter"


@pytest.mark.parametrize("normals", [0, 1])
def test_passes_bounds_the_work(normals: int) -> None:
    """Reached where every image is unflagged and judged in vain; the half where every one is flagged."""
    x = images(3)
    attack = AdaptiveDetection(targets=9, search_steps=2, steps=7, abort_early=False)
    system = HalfSpaces(Constant(), torch.zeros(normals, 64), torch.zeros(normals))
    outcome = attack.run(system, x, torch.zeros(3, dtype=torch.int64))
    most, gradients = attack.passes(5)
    assert gradients == outcome.backwards == 4 * 2 * 7
    assert outcome.forwards == (most - gradients if normals else most)


def test_aborting_early_saves_passes_and_loses_little(blurred: tuple[Blurred, Tensor, Tensor]) -> None:
    one = dataclasses.replace(QUICK, targets=1)
    full, aborted = (dataclasses.replace(one, abort_early=abort).run(*blurred) for abort in (False, True))
    assert aborted.success.all()
    assert aborted.backwards < 0.8 * full.backwards
    assert aborted.distance.mean() < 1.05 * full.distance.mean()


# Awkward input.


def test_pixels_of_exactly_0_and_1_move() -> None:
    x = torch.stack([torch.zeros(1, 6, 6), torch.ones(1, 6, 6), images(1, size=6)[0].round()])
    system = Bare(Linear(classes=5))
    y = classes(system, x)
    outcome = dataclasses.replace(QUICK, steps=200).run(system, x, y)
    assert outcome.success.all()
    check(outcome, system, x, y)


def test_an_empty_batch_gives_an_empty_batch() -> None:
    outcome = QUICK.run(Bare(Constant()), images(0), torch.zeros(0, dtype=torch.int64))
    assert outcome.x_adv.shape == (0, 1, 8, 8)
    assert len(outcome.success) == len(outcome.distance) == outcome.forwards == 0


@pytest.mark.parametrize("images_", [images(2) + 0.5, images(2).double(), images(2)[0]])
def test_images_out_of_contract_are_named(images_: Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        QUICK.run(Bare(Constant()), images_, torch.zeros(2, dtype=torch.int64))


class Broken(Bare):
    """Answers what is not finite, as soon as it is asked for ``what`` with a gradient."""

    def __init__(self, what: str) -> None:
        super().__init__(Linear((1, 8, 8)))
        self.what = what

    def surfaces(self, x: Tensor, target: Tensor) -> list[Tensor]:
        return [self.model(x) * (math.nan if self.what == "logits" else 1.0)]

    def excess(self, x: Tensor) -> Tensor:
        score = x.flatten(1).sum(1, keepdim=True)
        return score * (math.nan if self.what == "excess" else 1.0)


@pytest.mark.parametrize("what", ["logits", "excess"])
def test_what_is_not_finite_is_no_result(what: str) -> None:
    """NaN compares false: such a score would pass for unflagged."""
    system, x = Broken(what), images(2)
    with pytest.raises(AttackError, match=f"{what} is not finite"):
        QUICK.run(system, x, classes(system, x))


class Kinked(Bare):
    """Bright images have no gradient that is finite."""

    def surfaces(self, x: Tensor, target: Tensor) -> list[Tensor]:
        return super().surfaces(NaNWhereBright.apply(x), target)


def test_a_broken_gradient_moves_its_own_sample_only() -> None:
    model, x = Linear((1, 8, 8)), 0.3 * images(6)
    x[3:] = x[3:] + 0.7
    y = classes(Bare(model), x)
    plain, found = QUICK.run(Bare(model), x, y), QUICK.run(Kinked(model), x, y)
    assert plain.success.any()
    assert torch.equal(found.success[:3], plain.success[:3])
    assert torch.allclose(found.x_adv[:3], plain.x_adv[:3], atol=1e-4)
    assert not found.success[3:].any()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"targets": 0}, "targets must be at least 1, got 0"),
        ({"search_steps": 0}, "search_steps must be at least 1, got 0"),
        ({"steps": -1}, "steps must be at least 1, got -1"),
        ({"step_size": 0.0}, "step_size must be positive and finite, got 0.0"),
        ({"initial_const": math.inf}, "initial_const must be positive and finite, got inf"),
        ({"confidence": -1.0}, "confidence must be at least 0 and finite, got -1.0"),
        ({"weight": math.nan}, "weight must be at least 0 and finite, got nan"),
        ({"slack": -0.1}, "slack must be at least 0 and finite, got -0.1"),
    ],
)
def test_a_wrong_value_is_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        AdaptiveDetection(**wrong)


def test_its_identity_builds_it_again() -> None:
    attack = AdaptiveDetection(targets=3, weight=0.5)
    fields = json.loads(json.dumps(dataclasses.asdict(attack)))
    rebuilt = build_attack({**fields, "attack": "attacks.adaptive:AdaptiveDetection"})
    assert repr(rebuilt) == repr(attack)
