import pytest
import torch

from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.noise import Noise


def test_size() -> None:
    delta = torch.tensor([[[[3.0, -4.0]]], [[[0.0, 1.0]]]])
    assert geometry.size(delta, "l2").tolist() == [5.0, 1.0]
    assert geometry.size(delta, "linf").tolist() == [4.0, 1.0]


def test_projection_is_the_nearest_point() -> None:
    delta = torch.tensor([[[[3.0, -4.0]]], [[[0.3, 0.4]]]])
    assert torch.allclose(geometry.project(delta, "l2", 1.0)[0], torch.tensor([[[0.6, -0.8]]]))
    assert torch.equal(geometry.project(delta, "l2", 1.0)[1], delta[1])
    assert torch.equal(geometry.project(delta, "linf", 1.0)[0], torch.tensor([[[1.0, -1.0]]]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ascent_maximises_a_linear_function(norm: Norm) -> None:
    gradient = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    best = (gradient * geometry.ascent(gradient, norm)).flatten(1).sum(1)
    dual = torch.linalg.vector_norm(gradient.flatten(1), ord=1 if norm == "linf" else 2, dim=1)
    assert torch.allclose(best, dual)
    assert torch.isfinite(geometry.ascent(torch.zeros(1, 1, 2, 2), norm)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_points_fill_the_ball_evenly(norm: Norm) -> None:
    """The radius r of a uniform point of a d-dimensional ball has (r/ε)^d uniform."""
    points = geometry.random_in_ball(Noise.for_samples(torch.arange(4000), 0), (1, 1, 3), norm, 0.5, 0)
    radii = geometry.size(points, norm)
    assert radii.max() <= 0.5
    levels = (radii / 0.5) ** 3
    quantiles = torch.linspace(0.1, 0.9, 9)
    assert torch.allclose(levels.quantile(quantiles), quantiles, atol=0.03)
    assert points.mean(0).abs().max() < 0.02
