"""The scores against closed forms, plain loops, scipy, and the identities of information theory."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon  # type: ignore[import-untyped]
from scipy.stats import entropy as scipy_entropy  # type: ignore[import-untyped]
from torch import Tensor

from robustness_bench.defenses.detectors import scores
from robustness_bench.defenses.detectors.scores import READINGS, Reading

LOG2, LOG3 = math.log(2), math.log(3)
FLOOR = -math.log(1e-12)
each_reading = pytest.mark.parametrize("reading", READINGS)
Rows = list[list[float]]

UNIFORM_2, FIRST_2, SECOND_2 = [0.5, 0.5], [1.0, 0.0], [0.0, 1.0]
IDENTITY_2: Rows = [[1.0, 0.0], [0.0, 1.0]]
NOISE_2: Rows = [[0.5, 0.5], [0.5, 0.5]]
A_3, B_3 = [0.5, 0.25, 0.25], [1 / 2, 1 / 3, 1 / 6]
C_3: Rows = [[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]]
H_B_3 = LOG2 / 2 + LOG3 / 3 + math.log(6) / 6
H_AB_3 = LOG3 / 3 + LOG2 / 6
X_3 = 0.5 * 0.5 * FLOOR + LOG3 / 3 + (0.75 * LOG2 + 0.25 * FLOOR) / 6


def _logs(p: object) -> Tensor:
    """log p with log 0 = -1000, as of a logit gap of 1000."""
    return torch.tensor(p, dtype=torch.float64).log().clamp_min(-1000.0)


def _random(n: int = 50, k: int = 5, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logarithms of a (N, K), b (N, K) and C (N, K, K)."""
    generator = torch.Generator().manual_seed(0)
    a, b = (scale * torch.randn(n, k, generator=generator) for _ in range(2))
    c = scale * torch.randn(n, k, k, generator=generator)
    return scores.log_probabilities(a), scores.log_probabilities(b), scores.log_probabilities(c)


@pytest.mark.parametrize(
    ("reading", "a", "b", "c", "delta", "expected"),
    [
        # B tells A: the distance is 0
        ("literal", UNIFORM_2, UNIFORM_2, IDENTITY_2, 0.0, 0.0),
        ("vi", UNIFORM_2, UNIFORM_2, IDENTITY_2, 0.0, 0.0),
        # B tells nothing of A
        ("literal", UNIFORM_2, UNIFORM_2, NOISE_2, 0.0, 1.0),
        ("literal", UNIFORM_2, UNIFORM_2, NOISE_2, 0.1, 2 * LOG2 / (2 * LOG2 + 0.1)),
        ("vi", UNIFORM_2, UNIFORM_2, NOISE_2, 0.0, 2 * LOG2),
        ("cross", UNIFORM_2, UNIFORM_2, NOISE_2, 0.0, LOG2),
        ("cross_jaccard", UNIFORM_2, UNIFORM_2, NOISE_2, 0.1, 2 * LOG2 / (2 * LOG2 + 0.1)),
        # the ceiling
        ("literal", FIRST_2, FIRST_2, NOISE_2, 0.0, 2.0),
        ("vi", FIRST_2, FIRST_2, NOISE_2, 0.0, 2 * LOG2),
        # below 0: a is uncertain, the joint entropy is not
        ("literal", UNIFORM_2, [0.9, 0.1], IDENTITY_2, 0.0, 1 - LOG2 / 0.3250829733914482),
        ("literal", UNIFORM_2, FIRST_2, IDENTITY_2, 0.1, -LOG2 / 0.1),
        ("vi", UNIFORM_2, FIRST_2, IDENTITY_2, 0.0, -LOG2),
        # certain and agreeing, certain and contradicting: the literal reading prices neither
        ("literal", FIRST_2, FIRST_2, IDENTITY_2, 0.0, 0.0),
        ("literal", FIRST_2, SECOND_2, IDENTITY_2, 0.0, 0.0),
        ("cross", FIRST_2, FIRST_2, IDENTITY_2, 0.0, 0.0),
        ("cross", FIRST_2, SECOND_2, IDENTITY_2, 0.0, FLOOR),
        ("cross_jaccard", FIRST_2, FIRST_2, IDENTITY_2, 0.1, 0.0),
        ("cross_jaccard", FIRST_2, FIRST_2, IDENTITY_2, 0.0, 0.0),
        ("cross_jaccard", FIRST_2, SECOND_2, IDENTITY_2, 0.1, 2 * FLOOR / (FLOOR + 0.1)),
        ("cross", UNIFORM_2, UNIFORM_2, IDENTITY_2, 0.0, FLOOR / 2),
        # three classes, nothing symmetric
        ("literal", A_3, B_3, C_3, 0.0, (H_B_3 + 2 * H_AB_3 - 1.5 * LOG2) / (H_B_3 + H_AB_3)),
        ("literal", A_3, B_3, C_3, 0.3, (H_B_3 + 2 * H_AB_3 - 1.5 * LOG2) / (H_B_3 + H_AB_3 + 0.3)),
        ("vi", A_3, B_3, C_3, 0.0, H_B_3 + 2 * H_AB_3 - 1.5 * LOG2),
        ("cross", A_3, B_3, C_3, 0.0, X_3),
        ("cross_jaccard", A_3, B_3, C_3, 0.1, (H_B_3 + 2 * X_3 - 1.5 * LOG2) / (H_B_3 + X_3 + 0.1)),
    ],
)
def test_a_reading_has_the_closed_form(
    reading: Reading, a: list[float], b: list[float], c: Rows, delta: float, expected: float
) -> None:
    value = READINGS[reading](_logs([a]), _logs([b]), _logs([c]), delta)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def _by_loop(reading: Reading, a: list[float], b: list[float], c: Rows, delta: float) -> float:
    """From the definitions, one number at a time."""
    k = range(len(a))
    h_a, h_b = -sum(p * math.log(p) for p in a), -sum(p * math.log(p) for p in b)
    if reading in ("literal", "vi"):
        h_ab = -sum(b[j] * sum(c[j][i] * math.log(c[j][i]) for i in k) for j in k)
    else:
        h_ab = -sum(b[j] * sum(a[i] * max(math.log(c[j][i]), -FLOOR) for i in k) for j in k)
    information, joint = h_a - h_ab, h_b + h_ab
    return {
        "literal": (joint - information) / (joint + delta),
        "vi": joint - information,
        "cross": h_ab,
        "cross_jaccard": (joint - information) / (joint + delta),
    }[reading]


@each_reading
@pytest.mark.parametrize("delta", [0.0, 0.1])
def test_a_reading_is_the_loop_over_its_definition(reading: Reading, delta: float) -> None:
    logs = _random()
    a, b, c = (log.exp().tolist() for log in logs)
    expected = [_by_loop(reading, a[n], b[n], c[n], delta) for n in range(len(a))]
    assert READINGS[reading](*logs, delta).tolist() == pytest.approx(expected, rel=1e-9)


def test_information_and_distance_are_two_forms_of_one() -> None:
    a, b, c = _random()
    h_a, h_b = (torch.tensor(scipy_entropy(log.exp().numpy(), axis=1)) for log in (a, b))
    h_ab = (b.exp() * torch.tensor(scipy_entropy(c.exp().numpy(), axis=2))).sum(1)
    information = h_a - h_ab
    torch.testing.assert_close(scores.conditional_entropy(b, c), h_ab)
    torch.testing.assert_close(scores.literal(a, b, c, 0.0), 1 - information / (h_b + h_ab))
    torch.testing.assert_close(scores.literal(a, b, c, 0.0), 1 + (h_ab - h_a) / (h_b + h_ab))
    torch.testing.assert_close(scores.vi(a, b, c, 0.0), h_b + 2 * h_ab - h_a)


def test_on_a_true_joint_distribution_the_distance_is_a_distance() -> None:
    """a is then b times C: I >= 0, so d is in [0, 1] and VI at least 0."""
    _, b, c = _random()
    a = torch.logsumexp(b[:, :, None] + c, 1)
    d = scores.literal(a, b, c, 0.0)
    assert 0 < d.min() < d.max() < 1
    assert scores.vi(a, b, c, 0.0).min() > 0
    joint = (b[:, :, None] + c).exp().flatten(1).numpy()
    mutual = scipy_entropy(a.exp().numpy(), axis=1) + scipy_entropy(b.exp().numpy(), axis=1)
    mutual -= scipy_entropy(joint, axis=1)
    np.testing.assert_allclose(d.numpy(), 1 - mutual / scipy_entropy(joint, axis=1), rtol=1e-9)


@each_reading
def test_the_names_of_the_classes_do_not_matter(reading: Reading) -> None:
    a, b, c = _random()
    order = torch.tensor([3, 0, 4, 1, 2])
    renamed = READINGS[reading](a[:, order], b[:, order], c[:, order][:, :, order], 0.0)
    torch.testing.assert_close(renamed, READINGS[reading](a, b, c, 0.0), rtol=1e-12, atol=1e-12)
    half = READINGS[reading](a, b, c[:, order], 0.0)
    assert (half - renamed).abs().max() > 0.1


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_entropy_and_divergence_are_scipys(scale: float) -> None:
    a, b, _ = _random(scale=scale)
    p, q = a.exp().numpy(), b.exp().numpy()
    np.testing.assert_allclose(scores.entropy(a).numpy(), scipy_entropy(p, axis=1), rtol=1e-7, atol=1e-12)
    found = scores.jensen_shannon(a, b)
    np.testing.assert_allclose(found.numpy(), jensenshannon(p, q, axis=1) ** 2, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(found, scores.jensen_shannon(b, a), rtol=1e-12, atol=1e-14)


def test_the_divergence_has_its_ends() -> None:
    first, second, even = _logs([FIRST_2]), _logs([SECOND_2]), _logs([UNIFORM_2])
    assert scores.jensen_shannon(first, second).item() == pytest.approx(LOG2, rel=1e-12)
    assert scores.jensen_shannon(first, first).item() == 0
    mixed = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)  # H(3/4, 1/4)
    assert scores.jensen_shannon(first, even).item() == pytest.approx(mixed - LOG2 / 2, rel=1e-12)


def test_log_probabilities_divide_by_the_temperature() -> None:
    found = scores.log_probabilities(torch.tensor([[0.0, 10.0 * LOG3]]), 10.0)
    assert found.dtype == torch.float64
    assert found.exp()[0].tolist() == pytest.approx([0.25, 0.75], rel=1e-6)


def test_float32_logits_lose_no_small_entropy() -> None:
    """In float32 the softmax is one-hot from a gap of 17 on and its entropy 0."""
    found = scores.entropy(scores.log_probabilities(torch.tensor([[30.0, 0.0]])))
    assert found.item() == pytest.approx(31 * math.exp(-30), rel=1e-2)


@pytest.mark.parametrize(("p", "expected"), [(1, 0.25), (2, 0.125)])
def test_the_distance_is_a_mean_over_pixels(p: int, expected: float) -> None:
    x = torch.tensor([[[[0.0, 1.0], [1.0, 0.5]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    other = torch.tensor([[[[0.5, 0.5], [1.0, 0.5]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    assert scores.distance(x, other, p).tolist() == [expected, 0.0]
    assert scores.distance(other, x, p).tolist() == [expected, 0.0]


def _corners(k: int = 3, gap: float = 1000.0) -> tuple[Tensor, Tensor, Tensor]:
    """Float32 logits: every pair of one-hot or uniform a and b, with C the identity, uniform or constant."""
    outputs = torch.cat([gap * torch.eye(k), torch.zeros(1, k)])
    table = [gap * torch.eye(k), torch.zeros(k, k), gap * torch.eye(k)[[0] * k]]
    rows = [(a, b, c) for a in outputs for b in outputs for c in table]
    a, b, c = zip(*rows, strict=True)
    return torch.stack(a), torch.stack(b), torch.stack(c)


@each_reading
@pytest.mark.parametrize("delta", [0.0, 0.1])
def test_saturated_logits_give_finite_scores_and_gradients(reading: Reading, delta: float) -> None:
    logits = [each.double().requires_grad_() for each in _corners()]
    a, b, c = (scores.log_probabilities(each) for each in logits)
    found = READINGS[reading](a, b, c, delta)
    assert found.isfinite().all()
    assert found.max() <= 2 * FLOOR + LOG3
    a, b, c = (scores.log_probabilities(each) for each in _corners())  # of float32 logits
    assert torch.equal(found, READINGS[reading](a, b, c, delta))
    for gradient in torch.autograd.grad(found.sum(), logits):
        assert gradient.isfinite().all()


def test_two_certain_outputs_are_at_distance_0_and_an_uncertain_one_is_far_below() -> None:
    certain, even = torch.tensor([[1000.0, 0.0]]), torch.zeros(1, 2)
    c = scores.log_probabilities(1000.0 * torch.eye(2)[None])
    a, b = scores.log_probabilities(certain), scores.log_probabilities(even)
    assert scores.literal(a, a, c, 0.0).item() == 0
    assert scores.literal(a, a, c, 1e-9).item() == 0
    assert -math.inf < scores.literal(b, a, c, 0.0).item() < -1e100


def test_the_distance_stays_as_it_is_down_to_tiny_entropies() -> None:
    """Gaps of 200: entropies of 1e-85 of equal size, so A tells nothing of B, d = 1; not floored to 0."""
    certain = scores.log_probabilities(torch.tensor([[200.0, 0.0]]))
    c = scores.log_probabilities(torch.tensor([[[200.0, 0.0], [0.0, 200.0]]]))
    assert scores.literal(certain, certain, c, 0.0).item() == pytest.approx(1.0, rel=1e-6)
