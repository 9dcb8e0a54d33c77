"""A union of detectors and a reformer: what it judges, what an adaptive attack sees, what both cost."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from robustness_bench.attacks.adaptive import Guarded
from robustness_bench.defenses.detectors.base import Detector
from robustness_bench.defenses.detectors.scores import threshold
from robustness_bench.defenses.detectors.system import Judged, System, score_all
from robustness_bench.defenses.detectors.view import DetectorError, Networks, View
from tests.defenses.detectors.toys import DETECTORS, Counting, Generator, Shape, images, networks

N, K = 6, 3
EVERY = tuple(DETECTORS)
SMOOTH = tuple(name for name in DETECTORS if name != "random")
AE, ENCODER = "autoencoder-1", "generator"


def _detectors(names: Sequence[str]) -> dict[str, Detector]:
    return {name: DETECTORS[name] for name in names}


def _system(
    names: Sequence[str] = EVERY,
    *,
    reformer: str | None = AE,
    shape: Shape = (1, 8, 8),
    gain: float = 3.0,
    rate: float = 0.3,
) -> System:
    """Calibrated on its own random images."""
    made, detectors = networks(shape, K, gain), _detectors(names)
    with torch.no_grad():
        calibration = score_all(detectors, View(images(50, shape, seed=9), made))
    taus = {name: threshold(values, rate) for name, values in calibration.items()}
    scales = {name: taus[name] - float(values.median()) for name, values in calibration.items()}
    return System(networks(shape, K, gain), detectors, taus, reformer, scales)


def _passes(system: System) -> int:
    assert isinstance(system.classifier, Counting)
    return system.classifier.images


def _generator(system: System) -> Generator:
    made = system.networks.parts[ENCODER]
    assert isinstance(made, Generator)
    return made


def test_it_judges_by_thresholds() -> None:
    system, x = _system(), images(N)
    judged = system.judge(x)
    assert [*judged.scores] == [*judged.flags] == [*EVERY]
    with torch.no_grad():
        expected = {name: DETECTORS[name].score(View(x, networks())) for name in EVERY}
        made = View(x, networks())
        torch.testing.assert_close(judged.logits, made.logits)
        torch.testing.assert_close(judged.reformed, made.rebuilt_logits(AE))
    for name in EVERY:
        torch.testing.assert_close(judged.scores[name], expected[name], rtol=1e-4, atol=1e-6)
        assert torch.equal(judged.flags[name], judged.scores[name] >= system.thresholds[name])
    assert not judged.logits.requires_grad


def test_a_score_on_the_threshold_is_flagged() -> None:
    x = images(N)
    scores = _system(["jsd"]).judge(x).scores["jsd"]
    taus = {"jsd": float(scores[2])}
    flags = System(networks(), _detectors(["jsd"]), taus).judge(x).flags["jsd"]
    assert flags[2]
    assert torch.equal(flags, scores >= scores[2])


def test_the_union_is_the_or_of_its_detectors() -> None:
    judged = _system(rate=0.1).judge(images(40))
    by_hand = [any(bool(flags[n]) for flags in judged.flags.values()) for n in range(40)]
    assert judged.flagged.tolist() == by_hand
    assert 0 < sum(by_hand) < 40
    alone = [float(flags.double().mean()) for flags in judged.flags.values()]
    assert sum(by_hand) / 40 > max(alone)


def test_no_detector_flags_nothing() -> None:
    system = System(networks(), {}, {}, AE, {})
    judged = system.judge(images(N))
    assert judged.flagged.tolist() == [False] * N
    assert system.excess(images(N)).shape == (N, 0)


def test_without_a_reformer_the_logits_are_the_classifiers() -> None:
    system, x = _system(reformer=None), images(N)
    judged = system.judge(x)
    assert torch.equal(judged.reformed, judged.logits)
    with torch.no_grad():
        torch.testing.assert_close(system(x), system.classifier(x))


def test_forward_is_the_reformed_logits() -> None:
    system, x = _system(), images(N)
    torch.testing.assert_close(system(x), system.judge(x).reformed)
    assert (system(x) - system.classifier(x)).abs().max() > 1e-3


def test_judging_runs_the_classifier_once_on_every_image() -> None:
    system = _system()
    system.judge(images(N))
    assert _passes(system) == N + 2 * N + N * K  # x, two auto-encoders, every class
    assert (_generator(system).encoded, _generator(system).decoded) == (N, N * K + N)
    for name in (AE, "autoencoder-2"):
        part = system.networks.parts[name]
        assert isinstance(part, Counting)
        assert part.images == N


@pytest.mark.parametrize(
    ("names", "reformer", "passes"),
    [
        (["reconstruction-1", "reconstruction-2"], AE, 2 * N),
        (["reconstruction-1"], None, N),
        (["reconstruction-1", "jsd"], AE, 2 * N),
        (["jsd"], None, 2 * N),
        (["conditional"], AE, 2 * N),
        (["literal", "cross", "vi"], AE, 2 * N + N * K),
        (["generated"], None, N + N * K),
    ],
)
def test_judging_costs_no_pass_that_is_not_needed(
    names: list[str], reformer: str | None, passes: int
) -> None:
    system = _system(names, reformer=reformer)
    system.judge(images(N))
    assert _passes(system) == passes


@pytest.mark.parametrize(
    ("names", "reformer", "expected"),
    [
        (["reconstruction-2", "entropy", "random"], None, ["x"]),
        (["reconstruction-2"], AE, ["x", AE]),
        (["jsd"], None, ["x", AE]),
        (["jsd", "literal", "cross"], AE, ["x", AE, ENCODER]),
        (["literal-delta"], AE, ["x", AE, "autoencoder-2", ENCODER]),
        (["generated"], None, ["x", ENCODER]),
        (["conditional"], None, ["x"]),
    ],
)
def test_surfaces_are_the_logits_that_scores_and_class_depend_on(
    names: list[str], reformer: str | None, expected: list[str]
) -> None:
    system, x = _system(names, reformer=reformer), images(N)
    target = torch.tensor([0, 1, 2, 2, 1, 0])
    found = system.surfaces(x, target)
    assert _passes(system) == N * len(expected)  # of the generator one class each
    view = View(x, networks())
    known = {"x": view.logits, ENCODER: view.generated_logits(ENCODER, target)}
    wanted = [known[name] if name in known else view.rebuilt_logits(name) for name in expected]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_excess_is_above_0_exactly_where_flagged() -> None:
    system, x = _system(), images(40)
    judged, excess = system.judge(x), system.excess(x)
    assert excess.dtype == torch.float64
    flags = torch.stack([*judged.flags.values()], 1)
    assert torch.equal(excess >= 0, flags)
    assert flags.any(0).all()
    assert (~flags).any(0).all()


def test_excess_is_counted_in_scales() -> None:
    x, taus = images(N), {"jsd": 0.01, "vi": 0.2}
    system = System(networks(), _detectors(["jsd", "vi"]), taus, None, {"jsd": 0.005, "vi": 4.0})
    judged = system.judge(x)
    expected = [(judged.scores["jsd"] - 0.01) / 0.005, (judged.scores["vi"] - 0.2) / 4.0]
    torch.testing.assert_close(system.excess(x), torch.stack(expected, 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SMOOTH)
def test_the_gradient_of_the_excess_is_the_finite_difference(name: str) -> None:
    shape: Shape = (1, 3, 3)
    system = _system([name], shape=shape).double()
    x = (0.2 + 0.6 * images(2, shape)).double().requires_grad_()
    assert torch.autograd.gradcheck(system.excess, (x,), eps=1e-6, atol=1e-6, rtol=1e-4)
    (gradient,) = torch.autograd.grad(system.excess(x).sum(), x)
    assert gradient.flatten(1).abs().max(1).values.min() > 0


def test_surfaces_and_excess_of_one_tensor_have_right_gradients_together() -> None:
    shape: Shape = (1, 3, 3)
    system = _system(SMOOTH, shape=shape).double()
    target = torch.tensor([1, 2])
    x = (0.2 + 0.6 * images(2, shape)).double().requires_grad_()

    def both(image: Tensor) -> Tensor:
        return torch.cat([*system.surfaces(image, target), system.excess(image)], 1)

    assert torch.autograd.gradcheck(both, (x,), eps=1e-6, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("gain", [100.0, 1000.0, 1e5])
def test_a_certain_classifier_leaves_excess_and_gradient_finite(gain: float) -> None:
    detectors = _detectors(EVERY)
    system = System(networks(gain=gain), detectors, dict.fromkeys(EVERY, 0.5), AE, dict.fromkeys(EVERY, 0.1))
    x = images(40).requires_grad_()
    excess = system.excess(x)
    assert excess.isfinite().all()
    assert excess.min() == (-1e6 if gain == 1000.0 else excess.clamp_min(-1e6).min())
    (gradient,) = torch.autograd.grad(excess.sum(), x)
    assert gradient.isfinite().all()


def test_the_random_control_carries_no_gradient_and_does_no_harm() -> None:
    system, x = _system(["jsd", "random"]), images(N).requires_grad_()
    excess = system.excess(x)
    (both,) = torch.autograd.grad(excess.sum(), x, retain_graph=True)
    (first,) = torch.autograd.grad(excess[:, 0].sum(), x)
    assert torch.equal(both, first)


def test_a_step_of_an_attack_and_its_judgement_share_their_passes() -> None:
    system = _system(["jsd", "literal"])
    x, target = images(N).requires_grad_(), torch.zeros(N, dtype=torch.int64)
    system.surfaces(x, target)
    system.excess(x)
    assert _passes(system) == N + N + N + N * K
    with torch.no_grad():
        system(x)
        system.excess(x)
    assert _passes(system) == 2 * (N + N + N * K) + N


def test_a_kept_view_is_used_once_and_only_for_what_it_saw() -> None:
    system, fresh = _system(SMOOTH), _system(SMOOTH)
    x, target = images(N), torch.zeros(N, dtype=torch.int64)
    system.surfaces(x, target)
    x.mul_(0.5)  # the same tensor with another content
    torch.testing.assert_close(system.excess(x), fresh.excess(x.clone()))
    system.surfaces(x, target)
    other = images(N, seed=2)
    torch.testing.assert_close(system.excess(other), fresh.excess(other.clone()))


def test_a_kept_view_without_a_graph_serves_no_gradient() -> None:
    system, fresh = _system(["jsd", "cross"]), _system(["jsd", "cross"])
    x, target = images(N), torch.zeros(N, dtype=torch.int64)
    (expected,) = torch.autograd.grad(fresh.excess(other := images(N).requires_grad_()).sum(), other)

    def gradient() -> Tensor:
        return torch.autograd.grad(system.excess(x).sum(), x)[0]

    system.surfaces(x, target)
    x.requires_grad_()  # only after it was looked at
    torch.testing.assert_close(gradient(), expected)
    with torch.no_grad():
        system(x)
    torch.testing.assert_close(gradient(), expected)


def test_a_graph_is_never_walked_twice() -> None:
    system, x = _system(SMOOTH), images(N).requires_grad_()
    system(x).sum().backward()
    system.excess(x).sum().backward()
    system.surfaces(x, torch.zeros(N, dtype=torch.int64))
    system.excess(x).sum().backward()
    system.excess(x).sum().backward()


def test_inference_mode_is_no_error() -> None:
    system = _system()
    with torch.inference_mode():
        x = images(N)
        system(x)
        assert system.excess(x).shape == (N, len(EVERY))


def test_batches_are_their_images_one_by_one() -> None:
    system, x = _system(), images(N)
    whole, target = system.judge(x), torch.tensor([0, 1, 2, 0, 1, 2])
    excess, surfaces = system.excess(x), system.surfaces(x, target)
    for n in range(N):
        one = slice(n, n + 1)
        judged = system.judge(x[one])
        for name in EVERY:
            torch.testing.assert_close(judged.scores[name], whole.scores[name][one], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(system.excess(x[one]), excess[one], rtol=1e-3, atol=1e-4)
        for alone, among in zip(system.surfaces(x[one], target[one]), surfaces, strict=True):
            torch.testing.assert_close(alone, among[one])


def test_it_is_a_guarded_system_of_all_its_networks() -> None:
    made = networks()
    made.classifier.train()
    system = System(made, _detectors(["literal"]), {"literal": 1.0}, "autoencoder-2", {"literal": 1.0})
    assert isinstance(system, Guarded)
    assert not any(module.training for module in system.modules())
    held = {id(weight) for weight in system.parameters()}
    for network in (made.classifier, *made.parts.values()):
        assert {id(weight) for weight in network.parameters()} <= held


class Broken(Counting):
    """NaN for the second image."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x).clone()
        logits[1] = math.nan
        return logits


@pytest.mark.parametrize("names", [EVERY, ["jsd"], ["reconstruction-1"]])
def test_nan_is_refused_and_not_passed_as_unflagged(names: Sequence[str]) -> None:
    made = networks()
    broken = Networks(classifier=Broken(made.classifier), parts=made.parts)
    numbers = dict.fromkeys(names, 1.0)
    system = System(broken, _detectors(names), numbers, None, numbers)
    with pytest.raises(DetectorError, match=r"1 of 6 .* are NaN or infinite; check the networks|\d+ of 18"):
        system.judge(images(N))
    if names != ["reconstruction-1"]:
        with pytest.raises(DetectorError, match="are NaN or infinite"):
            system.excess(images(N))


class BrokenOnce(Counting):
    """NaN in the one call that is named."""

    def __init__(self, inner: torch.nn.Module, call: int) -> None:
        super().__init__(inner)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits * math.nan if self.calls == self.call else logits


@pytest.mark.parametrize("call", [1, 2])
def test_nan_logits_that_no_detector_reads_are_refused(call: int) -> None:
    made = networks()
    broken = Networks(classifier=BrokenOnce(made.classifier, call), parts=made.parts)
    system = System(broken, _detectors(["reconstruction-1"]), {"reconstruction-1": 1.0}, AE)
    with pytest.raises(DetectorError, match="18 of 18 logits are NaN or infinite"):
        system.judge(images(N))


@pytest.mark.parametrize(
    ("thresholds", "scales", "reformer", "message"),
    [
        ({}, None, AE, "thresholds are given for no detector; give one for each of: jsd"),
        ({"jsd": 1.0, "vi": 1.0}, None, AE, "thresholds are given for jsd, vi; give one for each of: jsd"),
        ({"jsd": math.nan}, None, AE, "threshold of 'jsd' must be above -inf and finite, got nan"),
        ({"jsd": math.inf}, None, AE, "threshold of 'jsd'"),
        ({"jsd": -math.inf}, None, AE, "threshold of 'jsd'"),
        ({"jsd": 1.0}, {"jsd": 0.0}, AE, "scale of 'jsd' must be above 0.0 and finite, got 0.0"),
        ({"jsd": 1.0}, {"jsd": -1.0}, AE, "scale of 'jsd'"),
        ({"jsd": 1.0}, {"jsd": math.inf}, AE, "scale of 'jsd'"),
        ({"jsd": 1.0}, {}, AE, "scales are given for no detector"),
        ({"jsd": 1.0}, None, "reformer", "no part 'reformer'"),
    ],
)
def test_what_makes_no_system_is_refused(
    thresholds: dict[str, float], scales: dict[str, float] | None, reformer: str, message: str
) -> None:
    with pytest.raises(DetectorError, match=message):
        System(networks(), _detectors(["jsd"]), thresholds, reformer, scales)


def test_a_missing_part_is_found_before_anything_runs() -> None:
    bare = Networks(classifier=networks().classifier, parts={})
    with pytest.raises(DetectorError, match="no part 'autoencoder-1'"):
        System(bare, _detectors(["jsd"]), {"jsd": 1.0})


def test_excess_needs_scales() -> None:
    system = System(networks(), _detectors(["jsd"]), {"jsd": 1.0})
    assert isinstance(system.judge(images(N)), Judged)
    with pytest.raises(DetectorError, match="no scales; build it with one"):
        system.excess(images(N))
