"""The bounds against plain loops, and against distributions whose information is known."""

import math
import operator
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from robustness_bench.defenses.mutual_information.bounds import (
    Bound,
    donsker_varadhan,
    info_nce,
    jensen_shannon,
    lower_bound,
)

BOUNDS: dict[Bound, Callable[[Tensor], Tensor]] = {
    "dv": donsker_varadhan,
    "jsd": jensen_shannon,
    "infonce": info_nce,
}
each_bound = pytest.mark.parametrize("bound", BOUNDS)
N, LOCATIONS, UNITS = 7, 3, 5


def _softplus(u: float) -> float:
    return max(u, 0.0) + math.log1p(math.exp(-abs(u)))


def _by_loop(scores: Tensor, bound: Bound) -> list[float]:
    """Every bound from its definition, one scalar at a time."""
    u, (n, _, locations) = scores.tolist(), scores.shape
    values = []
    for i in range(n):
        value = 0.0
        for location in range(locations):
            own = u[i][i][location]
            every = [u[i][j][location] for j in range(n)]
            others = every[:i] + every[i + 1 :]
            if bound == "dv":
                value += own - math.log(sum(math.exp(other) for other in others) / (n - 1))
            elif bound == "infonce":
                value += own - math.log(sum(math.exp(score) for score in every)) + math.log(n)
            else:
                value += math.log(2) - _softplus(-own)
                value -= sum(_softplus(-other) + other - math.log(2) for other in others) / (n - 1)
        values.append(value / locations)
    return values


def _features(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """overall (N, U) and local (N, L, U), leaves with gradients."""
    generator = torch.Generator().manual_seed(0)
    overall = scale * torch.randn(N, UNITS, generator=generator, dtype=torch.float64)
    local = scale * torch.randn(N, LOCATIONS, UNITS, generator=generator, dtype=torch.float64)
    return overall.to(dtype).requires_grad_(), local.to(dtype).requires_grad_()


def _difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a.detach().double() - b.detach().double()).abs().max())


# ---- by definition ---------------------------------------------------------------------------------


@each_bound
def test_equals_a_plain_loop(bound: Bound) -> None:
    scores = 8 * torch.randn(6, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores[0, 0], scores[0, 1] = -20.5, 20.5  # where torch's softplus is a line already, off by 1e-9
    assert BOUNDS[bound](scores).tolist() == pytest.approx(_by_loop(scores, bound), abs=1e-12)


@each_bound
def test_features_equal_a_plain_loop(bound: Bound) -> None:
    overall, local = _features()
    rows, columns = overall.tolist(), local.tolist()
    scores = [
        [[sum(map(operator.mul, row, place)) / 2.5 for place in column] for column in columns] for row in rows
    ]
    expected = _by_loop(torch.tensor(scores, dtype=torch.float64), bound)
    values = lower_bound(overall, local, bound, divisor=2.5)
    assert values.tolist() == pytest.approx(expected, abs=1e-12)


@each_bound
def test_independent_scores_carry_nothing(bound: Bound) -> None:
    assert BOUNDS[bound](torch.full((5, 5, 2), 0.0)).abs().max() < 1e-6


@each_bound
def test_one_sample_has_no_marginal(bound: Bound) -> None:
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        lower_bound(torch.ones(1, 3), torch.ones(1, 2, 3), bound)


def test_unknown_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown bound 'nwj': one of dv, jsd, infonce"):
        lower_bound(*_features(), "nwj")  # type: ignore[arg-type]


def test_largest_values() -> None:
    scores = 50.0 * torch.eye(6)[:, :, None] - 25
    assert info_nce(scores).tolist() == pytest.approx([math.log(6)] * 6, abs=1e-6)
    assert jensen_shannon(scores).tolist() == pytest.approx([2 * math.log(2)] * 6, abs=1e-6)
    assert donsker_varadhan(scores).tolist() == pytest.approx([50.0] * 6, abs=1e-5)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 1e4])
def test_infonce_is_at_most_log_n_and_jsd_at_most_two_log_two(scale: float) -> None:
    for seed in range(20):
        scores = scale * torch.randn(9, 9, 4, generator=torch.Generator().manual_seed(seed))
        assert info_nce(scores).max() <= math.log(9) + 1e-6
        assert jensen_shannon(scores).max() <= 2 * math.log(2) + 1e-6


# ---- chunks ----------------------------------------------------------------------------------------


def _grown(bound: Bound, scores_at_once: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values and both gradients of a weighted sum of them."""
    overall, local = _features()
    values = lower_bound(overall, local, bound, scores_at_once=scores_at_once)
    (values * torch.arange(1.0, N + 1)).sum().backward()
    assert overall.grad is not None
    assert local.grad is not None
    return values, overall.grad, local.grad


@each_bound
@pytest.mark.parametrize("rows", [1, 2, 3, 6])  # 7 samples: the last chunk is a remainder
def test_chunks_change_neither_values_nor_gradients(bound: Bound, rows: int) -> None:
    for chunked, whole in zip(
        _grown(bound, rows * N * LOCATIONS), _grown(bound, N * N * LOCATIONS), strict=True
    ):
        assert _difference(chunked, whole) < 1e-12


@pytest.mark.parametrize(("at_once", "largest"), [(1, 1), (20, 1), (42, 2), (62, 2), (63, 3), (10_000, 7)])
def test_chunks_hold_no_more_scores_than_allowed(
    at_once: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    whole = Tensor.logsumexp

    def watched(self: Tensor, dim: int) -> Tensor:
        seen.append(tuple(self.shape))
        return whole(self, dim)

    monkeypatch.setattr(Tensor, "logsumexp", watched)
    values = lower_bound(*_features(), "dv", scores_at_once=at_once)
    assert max(shape[0] for shape in seen) == largest
    assert sum(shape[0] for shape in seen) == N
    before = len(seen)
    values.sum().backward()
    assert len(seen) - before == (before if before > 1 else 0)  # each of several chunks once more


def test_default_chunks_hold_at_most_sixteen_million_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    whole = Tensor.logsumexp

    def watched(self: Tensor, dim: int) -> Tensor:
        sizes.append(self.numel())
        return whole(self, dim)

    monkeypatch.setattr(Tensor, "logsumexp", watched)
    with torch.no_grad():
        lower_bound(torch.zeros(300, 1), torch.zeros(300, 200, 1), "infonce")
    assert sizes == [279 * 60_000, 21 * 60_000]
    assert max(sizes) <= 2**24


@each_bound
def test_chunks_keep_no_scores_for_the_backward_pass(bound: Bound) -> None:
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    n, locations, units = 40, 3, 2
    overall, local = torch.ones(n, units), torch.ones(n, locations, units)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        lower_bound(overall.requires_grad_(), local, bound, scores_at_once=4 * n * locations)
    assert max(sizes, default=0) <= n * locations * units


@each_bound
def test_gradients_equal_finite_differences(bound: Bound) -> None:
    overall, local = _features()

    def values(overall: Tensor, local: Tensor) -> Tensor:
        return lower_bound(overall, local, bound, scores_at_once=2 * N * LOCATIONS)

    assert torch.autograd.gradcheck(values, (overall, local))


# ---- precision -------------------------------------------------------------------------------------


@each_bound
@pytest.mark.parametrize("at_once", [N * LOCATIONS, N * N * LOCATIONS])
def test_huge_scores_overflow_nowhere(bound: Bound, at_once: int) -> None:
    overall, local = _features(torch.float32, scale=60.0)
    assert (overall @ local.flatten(0, 1).T).abs().max() > 1e4
    values = lower_bound(overall, local, bound, scores_at_once=at_once)
    values.sum().backward()
    for tensor in (values, overall.grad, local.grad):
        assert tensor is not None
        assert torch.isfinite(tensor).all()


@each_bound
@pytest.mark.parametrize("at_once", [N * LOCATIONS, N * N * LOCATIONS])
def test_autocast_changes_nothing(bound: Bound, at_once: int) -> None:
    """Autocast's bfloat16 would be off by 1e-2; backward runs outside of it, as it should."""

    def computed(autocast: bool) -> tuple[Tensor, Tensor | None]:
        overall, local = _features(torch.float32)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            values = lower_bound(overall, local, bound, scores_at_once=at_once)
        values.sum().backward()
        return values, local.grad

    (values, gradient), (expected, expected_gradient) = computed(True), computed(False)
    assert values.dtype == torch.float32
    assert torch.equal(values, expected)
    assert gradient is not None
    assert expected_gradient is not None
    assert torch.equal(gradient, expected_gradient)


@each_bound
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_scored_in_float32(bound: Bound, dtype: torch.dtype) -> None:
    overall, local = _features(dtype)
    values = lower_bound(overall, local, bound)
    assert values.dtype == torch.float32
    assert _difference(values, lower_bound(overall.double(), local.double(), bound)) < 2e-6
    assert lower_bound(overall, local.double(), bound).dtype == torch.float64


# ---- known information -----------------------------------------------------------------------------

SAMPLES = 2000


def _log_ratio(product: Tensor, squares: Tensor, rho: float, dimensions: int) -> Tensor:
    """log p(x, y) / (p(x) p(y)) of standard normals of correlation rho, from x·y and |x|² + |y|²."""
    spread = 1 - rho**2
    return (2 * rho * product - rho**2 * squares) / (2 * spread) - dimensions / 2 * math.log(spread)


@cache
def _gaussian_scores(rho: float, dimensions: int) -> Tensor:
    """(SAMPLES, SAMPLES, 1) of the best critic there is."""
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, SAMPLES, dimensions, generator=generator, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * z
    squares = x.square().sum(1) + y.square().sum(1, keepdim=True)
    return _log_ratio(y @ x.T, squares, rho, dimensions)[:, :, None]


GAUSSIANS = [(0.5, 1), (0.5, 3), (0.9, 1), (0.9, 2)]


@pytest.mark.parametrize("bound", ["dv", "infonce"])
@pytest.mark.parametrize(("rho", "dimensions"), GAUSSIANS)
def test_gaussians_have_their_mutual_information(bound: Bound, rho: float, dimensions: int) -> None:
    """-d/2 log(1 - ρ²). Per sample the log ratio has the standard deviation ρ√d."""
    expected = -dimensions / 2 * math.log(1 - rho**2)
    error = rho * math.sqrt(dimensions / SAMPLES)
    mean = BOUNDS[bound](_gaussian_scores(rho, dimensions)).mean().item()
    assert mean == pytest.approx(expected, abs=3 * error)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_gaussians_have_their_jensen_shannon_divergence(rho: float) -> None:
    """2·JSD of joint and product, integrated on a grid."""
    axis = torch.linspace(-9, 9, 601, dtype=torch.float64)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    product = torch.exp(-(x**2 + y**2) / 2) / (2 * math.pi)
    joint = product * _log_ratio(x * y, x**2 + y**2, rho, 1).exp()
    mixture = (joint + product) / 2
    per_cell = torch.xlogy(joint, joint / mixture) + torch.xlogy(product, product / mixture)
    expected = float(per_cell.nan_to_num().sum() * (axis[1] - axis[0]) ** 2)
    mean = jensen_shannon(_gaussian_scores(rho, 1)).mean().item()
    assert mean == pytest.approx(expected, abs=0.02)


TABLE = torch.tensor([[9.0, 1.0, 2.0], [3.0, 12.0, 1.0], [2.0, 2.0, 4.0], [1.0, 1.0, 2.0]]).double()


def _table_scores() -> tuple[Tensor, Tensor]:
    """Log ratios (N, N, 1) of samples that have TABLE's frequencies exactly, and those of the table."""
    p = TABLE / TABLE.sum()
    ratios = (p / (p.sum(1, keepdim=True) * p.sum(0, keepdim=True))).log()
    cells = torch.arange(TABLE.numel()).repeat_interleave(TABLE.flatten().long())
    outputs, inputs = cells // 3, cells % 3
    return ratios[outputs][:, inputs][:, :, None], ratios


def test_a_joint_table_has_its_mutual_information() -> None:
    """Exactly so: summed over all j, the ratios of a row make N, whatever the row."""
    scores, ratios = _table_scores()
    n = len(scores)
    information = (TABLE / n * ratios).sum().item()
    assert information == pytest.approx(0.28, abs=0.02)  # nats; far from 0
    assert info_nce(scores).mean().item() == pytest.approx(information, abs=1e-12)
    without_own = (((n - ratios.exp()) / (n - 1)).log() * TABLE / n).sum().item()
    assert donsker_varadhan(scores).mean().item() == pytest.approx(information - without_own, abs=1e-12)
    assert abs(without_own) < 0.02


def test_a_joint_table_has_its_jensen_shannon_divergence() -> None:
    """2·JSD, but for the pairs j = i, which are missing from the product."""
    scores, _ = _table_scores()
    n = len(scores)
    joint = TABLE / n
    product = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    others = (n * product - joint) / (n - 1)
    mixture = (joint + product) / 2
    expected = (joint * (joint / mixture).log() + others * (product / mixture).log()).sum().item()
    divergence = (joint * (joint / mixture).log() + product * (product / mixture).log()).sum().item()
    assert jensen_shannon(scores).mean().item() == pytest.approx(expected, abs=1e-12)
    assert expected == pytest.approx(divergence, abs=0.02)
