"""Transport plans against independent solvers: SciPy's linear programs, and arithmetic by hand."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog  # type: ignore[import-untyped]
from scipy.sparse import csr_array, vstack  # type: ignore[import-untyped]
from torch import Tensor

from robustness_bench.attacks.numerics import transport
from robustness_bench.attacks.numerics.transport import Ball, Window
from tests.support import images


@dataclasses.dataclass
class Program:
    """All plans of one image x (C, H, W) as a linear program, written without the code under test."""

    x: Tensor
    k: int

    def __post_init__(self) -> None:
        channels, height, width = self.x.shape
        before, found = (self.k - 1) // 2, []
        for c in range(channels):
            for row in range(height):
                for column in range(width):
                    for o in range(self.k * self.k):
                        down, right = o // self.k - before, o % self.k - before
                        to_row, to_column = row + down, column + right
                        if 0 <= to_row < height and 0 <= to_column < width:
                            origin = (c * height + row) * width + column
                            end = (c * height + to_row) * width + to_column
                            found.append((origin, end, o, math.hypot(down, right)))
        origins, ends, offsets, distances = zip(*found, strict=True)
        self.origin, self.end, self.offset = np.array(origins), np.array(ends), np.array(offsets)
        self.distance = np.array(distances)
        self.pixels = self.x.numel()

    def sums(self, index: Any) -> Any:
        """The matrix that adds up entries by origin or by end."""
        n = len(index)
        return csr_array((np.ones(n), (index, np.arange(n))), shape=(self.pixels, n))

    def entries(self, plan: Tensor) -> Any:
        """The allowed entries of a plan (C, k·k, H·W)."""
        channels, _, places = plan.shape
        values = plan.permute(1, 0, 2).reshape(-1, channels * places).double().numpy()
        return values[self.offset, self.origin]

    def solve(
        self,
        objective: Any,
        *,
        budget: float | None = None,
        ceiling: Any = None,
        floor: Any = None,
        also: tuple[Any, float] | None = None,
    ) -> Any:
        """Minimise objective·π over rows that sum to x, and whatever else is given; None if impossible.

        ``ceiling`` and ``floor`` bound the image's pixels, ``also`` = (a, b) demands a·π <= b.
        """
        rows: list[Any] = []
        limits: list[Any] = []
        if budget is not None:
            rows, limits = [*rows, csr_array(self.distance[None])], [*limits, [budget]]
        if ceiling is not None:
            rows, limits = [*rows, self.sums(self.end)], [*limits, ceiling]
        if floor is not None:
            rows, limits = [*rows, -self.sums(self.end)], [*limits, -floor]
        if also is not None:
            rows, limits = [*rows, csr_array(also[0][None])], [*limits, [also[1]]]
        result = linprog(
            objective,
            A_ub=vstack(rows, format="csr") if rows else None,
            b_ub=np.concatenate(limits) if limits else None,
            A_eq=self.sums(self.origin),
            b_eq=self.x.double().flatten().numpy(),
            method="highs",
        )
        return result.fun if result.status == 0 else None

    def highest(self, gradient: Tensor, budget: float, box: bool) -> float:
        """The largest gradient·image: what the oracle is after."""
        ceiling = np.ones(self.pixels) if box else None
        weights = -gradient.double().flatten().numpy()[self.end]
        return -float(self.solve(weights, budget=budget, ceiling=ceiling))

    def distance_to(self, image: Tensor, slack: float = 2e-6) -> float | None:
        """The least cost of making ``image`` out of x; None if no plan does."""
        there = image.double().flatten().numpy()
        cost = self.solve(self.distance, ceiling=there + slack, floor=there - slack)
        return None if cost is None else float(cost)


def problem(channels: int, kind: str, eps: float, k: int = 5, size: int = 6) -> tuple[Tensor, Ball]:
    """Two images in float64, one of them with black and white pixels, and gradients of magnitude 1."""
    x = images(2, channels, size, seed=3).double()
    x[1] = (2.0 * x[1] - 0.5).clamp(0.0, 1.0)
    gradient = images(2, channels, size, seed=4).double() - 0.5
    if kind == "smooth":
        gradient = torch.nn.functional.avg_pool2d(gradient, 3, 1, 1)
    gradient /= gradient.abs().amax((1, 2, 3), keepdim=True)
    return gradient, Ball.around(x, eps, k)


def assert_feasible(plan: Tensor, ball: Ball, slack: float = 1e-6) -> None:
    n, channels, height, width = ball.x.shape
    assert plan.shape == (n, channels, ball.window.k**2, height * width)
    assert plan.min() >= 0
    assert torch.allclose(plan.sum(2), ball.mass, atol=slack, rtol=0)
    for row in range(n):
        program = Program(ball.x[row], ball.window.k)
        entries = program.entries(plan[row])
        # What the entries that stay inside the image hold is everything: nothing crosses its border.
        assert entries.sum() == pytest.approx(plan[row].double().sum().item(), rel=1e-7)
        assert entries @ program.distance <= ball.budget[row].item() * (1 + slack) + 1e-12


def gains(plan: Tensor, gradient: Tensor, ball: Ball) -> Tensor:
    return (transport.arrivals(plan, ball.window) * gradient).flatten(1).sum(1)


CASES = [
    (channels, kind, eps) for channels in (1, 2) for kind in ("random", "smooth") for eps in (0.02, 0.3, 1.0)
]


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_gather_and_arrivals_are_adjoint_and_keep_inside(k: int) -> None:
    image = images(2, 3, 6).double()[:, :, :, :5]
    window = Window(k, 6, 5)
    plan = images(2, 3 * k * k, 30, seed=9).double()[:, :, 0].unflatten(1, (3, k * k))
    gathered = transport.gather(image, window)
    assert gathered.shape == plan.shape
    left, right = (gathered * plan).sum(), (image * transport.arrivals(plan, window)).sum()
    assert left.item() == pytest.approx(right.item(), rel=1e-12)
    row = Program(image[0], k)
    assert np.array_equal(row.entries(gathered[0]), image[0].flatten().numpy()[row.end])


def test_a_window_reaches_further_down_and_right_when_even() -> None:
    window = Window(4, 6, 6)
    assert window.before == 1
    assert window.distances[window.home] == 0
    assert window.distances[0] == pytest.approx(math.sqrt(2))
    assert window.distances[-1] == pytest.approx(math.sqrt(8))
    assert [radius for radius, _ in window.rings] == sorted(set(window.distances))


def test_two_pixels_by_hand() -> None:
    """0.5 of mass on the left, the gradient points right, the budget moves 0.1 by one pixel."""
    x = torch.tensor([[[[0.5, 0.25]]]], dtype=torch.float64)
    ball = Ball(x, torch.tensor([0.1], dtype=torch.float64), Window(3, 1, 2))
    gradient = torch.tensor([[[[-1.0, 1.0]]]], dtype=torch.float64)
    expected = torch.tensor([[[[0.4, 0.35]]]], dtype=torch.float64)
    best = transport.best_plan(gradient, ball, gamma=1e-3, bisections=20)
    assert torch.allclose(transport.arrivals(best, ball.window), expected)
    assert best[0, 0, 5, 0].item() == pytest.approx(0.1)
    # By projection: entries (stay, go) of the left pixel are (0.5, 1), of which the budget lets 0.1 go.
    target = transport.staying(ball) + transport.gather(gradient, ball.window)
    nearest = transport.nearest_plan(target, ball, bisections=20)
    assert torch.allclose(transport.arrivals(nearest, ball.window), expected)


@pytest.mark.parametrize(("gamma", "worst", "median"), [(1e-3, 3e-5, 1e-6), (1e-4, 3e-6, 1e-12)])
def test_best_plan_reaches_the_linear_program(gamma: float, worst: float, median: float) -> None:
    """Relative to the optimum; where two destinations are worth nearly the same, smoothing shows."""
    gaps = []
    for channels, kind, eps in CASES:
        gradient, ball = problem(channels, kind, eps)
        plan = transport.best_plan(gradient, ball, gamma=gamma, bisections=25)
        assert_feasible(plan, ball)
        for row, gain in enumerate(gains(plan, gradient, ball).tolist()):
            best = Program(ball.x[row], 5).highest(gradient[row], ball.budget[row].item(), box=False)
            gaps.append((best - gain) / best)
    assert min(gaps) >= -1e-9
    assert max(gaps) <= worst
    assert np.median(gaps) <= median


@pytest.mark.parametrize("k", [2, 4])
def test_best_plan_in_an_even_window(k: int) -> None:
    gradient, ball = problem(1, "random", 0.2, k)
    plan = transport.best_plan(gradient, ball, gamma=1e-4, bisections=30)
    assert_feasible(plan, ball)
    for row, gain in enumerate(gains(plan, gradient, ball).tolist()):
        best = Program(ball.x[row], k).highest(gradient[row], ball.budget[row].item(), box=False)
        assert gain == pytest.approx(best, rel=1e-5)


def test_few_bisections_suffice() -> None:
    """The mixture of the bracket's ends loses far less than the bracket's width."""
    gradient, ball = problem(2, "random", 0.3)
    fine = gains(transport.best_plan(gradient, ball, gamma=1e-3, bisections=40), gradient, ball)
    coarse = gains(transport.best_plan(gradient, ball, gamma=1e-3, bisections=12), gradient, ball)
    assert torch.allclose(coarse, fine, rtol=1e-3)


def test_a_budget_that_does_not_bind_leaves_distance_free() -> None:
    gradient, ball = problem(1, "random", 10.0)
    plan = transport.best_plan(gradient, ball, gamma=1e-4, bisections=8)
    highest = transport.gather(gradient, ball.window, outside=-torch.inf).amax(2)
    assert torch.allclose(gains(plan, gradient, ball), (highest * ball.mass).sum((1, 2)), rtol=1e-6)
    target = transport.staying(ball) + transport.gather(gradient, ball.window)
    free = transport.nearest_plan(target, ball, bisections=8)
    wider = transport.nearest_plan(target, Ball(ball.x, 2 * ball.budget, ball.window), bisections=3)
    assert torch.allclose(free, wider, atol=1e-12)


@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.1, 1.0])
def test_float32_never_exceeds_the_budget(eps: float) -> None:
    x, gradient = images(8, 3, 12), images(8, 3, 12, seed=8) - 0.5
    ball = Ball.around(x, eps, 5)
    target = transport.staying(ball) + transport.gather(gradient, ball.window)
    exact = eps * x.double().sum((1, 2, 3))
    for bisections in (1, 4, 15):
        for plan in (
            transport.best_plan(2 * gradient, ball, gamma=1e-3, bisections=bisections),
            transport.nearest_plan(target, ball, bisections=bisections),
        ):
            assert (transport.cost(plan.double(), ball.window) <= exact * (1 + 1e-6)).all()
            assert torch.allclose(plan.sum(2), ball.mass, atol=1e-6, rtol=0)
            assert plan.min() >= 0


@pytest.mark.parametrize("eps", [0.02, 0.3])
@pytest.mark.parametrize("step", [0.01, 0.3])
@pytest.mark.parametrize("k", [4, 5])
def test_nearest_plan_is_the_projection(eps: float, step: float, k: int) -> None:
    """p is the projection of v exactly if no plan q of the ball has (v - p)·(q - p) > 0: a linear program."""
    gradient, ball = problem(2, "random", eps, k, size=5)
    target = transport.staying(ball) + step * transport.gather(gradient, ball.window)
    plan = transport.nearest_plan(target, ball, bisections=20)
    assert_feasible(plan, ball)
    for row in range(2):
        assert squared_error(target[row], plan[row], ball[row : row + 1], box=False) <= 1e-10


def squared_error(target: Tensor, plan: Tensor, ball: Ball, box: bool) -> float:
    """max over plans q of (v - p)·(q - p), at least the squared distance of p from the projection of v."""
    program = Program(ball.x[0], ball.window.k)
    entries = program.entries(plan)
    residual = program.entries(target) - entries
    ceiling = np.ones(program.pixels) * (1 + 2e-6) if box else None
    best = program.solve(-residual, budget=ball.budget.item(), ceiling=ceiling)
    return float(-best - residual @ entries)


@pytest.mark.parametrize("eps", [0.05, 0.5])
def test_nearest_plan_in_box(eps: float) -> None:
    gradient, ball = problem(1, "random", eps, 3, size=4)
    target = transport.staying(ball) + 0.1 * transport.gather(gradient, ball.window)
    plan = transport.nearest_plan_in_box(target.clone(), ball, bisections=10, rounds=50)
    assert_feasible(plan, ball)
    assert transport.arrivals(plan, ball.window).max() <= 1 + 2e-6
    without = transport.nearest_plan(target, ball, bisections=20)
    assert transport.arrivals(without, ball.window).max() > 1.01  # the box matters here
    for row in range(2):
        assert squared_error(target[row], plan[row], ball[row : row + 1], box=True) <= 1e-5


@pytest.mark.parametrize(("rounds", "share"), [(40, 0.97), (100, 0.98)])
@pytest.mark.parametrize(("kind", "eps"), [("random", 0.1), ("random", 1.0), ("smooth", 0.3)])
def test_best_plan_in_box_nears_the_linear_program(rounds: int, share: float, kind: str, eps: float) -> None:
    """The gain over the natural image, which needs all the repairs to be few."""
    gradient, ball = problem(1, kind, eps)
    plan = transport.best_plan_in_box(gradient, ball, gamma=1e-3, bisections=12, rounds=rounds)
    assert_feasible(plan, ball)
    assert transport.arrivals(plan, ball.window).max() <= 1 + 2e-6
    natural = (ball.x * gradient).sum((1, 2, 3))
    for row, gain in enumerate((gains(plan, gradient, ball) - natural).tolist()):
        best = Program(ball.x[row], 5).highest(gradient[row], ball.budget[row].item(), box=True)
        best -= natural[row].item()
        assert best * share <= gain <= best + 1e-4


def test_repair_returns_mass_until_every_pixel_fits() -> None:
    """Everything may be sent anywhere: the repair alone makes the plan feasible and never dearer."""
    ball = Ball.around(images(3, 2, 8), 100.0, 5)
    ball.x[2] = 1.0  # nothing fits anywhere but where it is
    plan = transport.best_plan(images(3, 2, 8, seed=2), ball, gamma=1e-3, bisections=5)
    before = transport.cost(plan, ball.window)
    assert transport.arrivals(plan, ball.window).max() > 2
    plan = transport.repair(plan, ball)
    assert transport.arrivals(plan, ball.window).max() <= 1 + 2e-6
    assert torch.allclose(plan.sum(2), ball.mass, atol=1e-6)
    assert plan.min() >= 0
    assert (transport.cost(plan, ball.window) <= before).all()


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_black_images_black_pixels_and_zero_gradients_give_numbers(eps: float) -> None:
    x = images(3, 1, 6)
    x[0], x[1, :, :3] = 0.0, 0.0
    ball, flat = Ball.around(x, eps, 5), torch.zeros_like(x)
    for gradient in (flat, images(3, 1, 6, seed=6)):
        target = transport.staying(ball) + transport.gather(gradient, ball.window)
        for plan in (
            transport.best_plan(gradient, ball, gamma=1e-3, bisections=5),
            transport.best_plan_in_box(gradient, ball, gamma=1e-3, bisections=5, rounds=3),
            transport.nearest_plan(target.clone(), ball, bisections=5),
            transport.nearest_plan_in_box(target.clone(), ball, bisections=5, rounds=3),
        ):
            assert torch.isfinite(plan).all()
            assert (plan[0] == 0).all()
            assert_feasible(plan, ball)
            if eps == 0:
                assert torch.allclose(plan, transport.staying(ball), atol=1e-6)


def test_a_plan_does_not_depend_on_the_batch() -> None:
    x, gradient = images(5, 2, 7), images(5, 2, 7, seed=2) - 0.5
    ball = Ball.around(x, 0.2, 4)
    target = transport.staying(ball) + 0.1 * transport.gather(gradient, ball.window)
    whole = (
        transport.best_plan(gradient, ball, gamma=1e-2, bisections=10),
        transport.nearest_plan(target, ball, bisections=10),
    )
    for row in range(5):
        one = slice(row, row + 1)
        alone = (
            transport.best_plan(gradient[one], ball[one], gamma=1e-2, bisections=10),
            transport.nearest_plan(target[one], ball[one], bisections=10),
        )
        for together, single in zip(whole, alone, strict=True):
            assert torch.allclose(together[one], single, atol=1e-5)
