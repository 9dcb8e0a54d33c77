"""Square against the library's on the same random numbers."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.noise import Noise, key_of
from robustness_bench.attacks.searches.square import square
from tests.support import images

QUERIES = 120
SAMPLES = 4


class SameNumbers(TorchFunctionMode):
    """Inside, the library's draws are ours: windows from one stream, signs from the samples' noise.

    In L∞ the library gives all samples the same signs.
    """

    def __init__(self, noise: Noise, norm: Norm, tiles: int) -> None:
        super().__init__()
        self.noise, self.norm, self.tiles = noise, norm, tiles if norm == "l2" else 1
        self.windows, self.count = random.Random(key_of("square")), 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.draw(tuple(args[0])) if func is torch.rand else func(*args, **(kwargs or {}))

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        if shape == (1,):
            return torch.tensor([self.windows.random()])
        number, self.count = self.count, self.count + 1
        if self.norm == "l2" and number < self.tiles:
            return self.noise.uniform((self.tiles, *shape[1:]), draw=0)[:, number]
        draw = number - self.tiles + 1
        if self.norm == "linf" and len(shape) == 3:
            return self.noise.uniform(shape, draw=draw)[0]
        return self.noise.uniform(shape[1:], draw=draw)


def network(channels: int, size: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(channels * size * size, 20), nn.ReLU(), nn.Linear(20, 5)]
        return nn.Sequential(*layers).eval().requires_grad_(False)


def by_library(model: nn.Module, x: Tensor, y: Tensor, noise: Noise, norm: Norm, eps: float) -> Tensor:
    from pyautoattack.square import SquareAttack

    library = SquareAttack(
        model, norm={"linf": "Linf", "l2": "L2"}[norm], n_queries=QUERIES, eps=eps, resc_schedule=False
    )
    library.init_hyperparam(x)
    size = x.shape[-1]
    with SameNumbers(noise, norm, (size // (size // 5)) ** 2), torch.no_grad():
        found: Tensor = library.attack_single_run(x.clone(), y)[1]
    return found


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 10, 28])
@pytest.mark.parametrize(("norm", "factor"), [("linf", 1.0), ("linf", 0.02), ("l2", 1.0), ("l2", 0.002)])
def test_the_library_s_images_on_the_same_numbers(
    norm: Norm, factor: float, size: int, channels: int
) -> None:
    """Sample by sample, and a batch in which nobody falls."""
    model, x = network(channels, size), images(SAMPLES, channels, size)
    y, eps = model(x).argmax(1), factor * {"linf": 0.12, "l2": 0.2 * size}[norm]
    keys = torch.arange(SAMPLES) if norm == "l2" else torch.full((SAMPLES,), 7)
    batches = [torch.arange(SAMPLES)] if factor < 1 else list(torch.arange(SAMPLES).split(1))
    fallen = []
    for rows in batches:
        noise = Noise(keys[rows])
        theirs = by_library(model, x[rows], y[rows], noise, norm, eps)
        ours = square(model, x[rows], y[rows], noise, norm=norm, eps=eps, queries=QUERIES).images
        assert torch.allclose(ours, theirs, atol=1e-5)
        assert geometry.size(ours - x[rows], norm).max() <= eps * (1 + 1e-5) + 1e-6
        fallen.append(model(ours).argmax(1) != y[rows])
    assert not torch.cat(fallen).all() or factor == 1
    assert torch.cat(fallen).any() == (factor == 1)


def test_a_sample_leaves_the_moment_it_falls() -> None:
    model, x = network(1, 8), images(32)
    y, eps = model(x).argmax(1), 0.1
    fell = torch.zeros(32, dtype=torch.bool)

    def look(module: nn.Module, args: tuple[Tensor], logits: Tensor) -> None:
        distance = (args[0][:, None] - x[None]).flatten(2).abs().amax(2)
        sample = distance.argmin(1)
        assert distance.min(1).values.max() <= eps + 1e-6
        assert not fell[sample].any()
        fell[sample[logits.argmax(1) != y[sample]]] = True

    handle = model.register_forward_hook(look)
    found = square(model, x, y, Noise(torch.arange(32)), norm="linf", eps=eps, queries=QUERIES)
    handle.remove()
    assert torch.equal(found.fooled, fell)
    assert torch.equal(model(found.images).argmax(1) != y, fell)
    assert 0 < int(fell.sum()) < 32


@pytest.mark.parametrize(("height", "width"), [(12, 12), (3, 4), (8, 17), (1, 1)])
def test_any_size(height: int, width: int) -> None:
    """The library raises for the first, the second and the fourth."""
    x = 0.5 + 0.2 * (torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) - 0.5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * height * width, 4)).requires_grad_(False)
    y = model(x).argmax(1)
    for norm, eps in (("linf", 1e-3), ("l2", 1e-2)):
        found = square(model, x, y, Noise(torch.arange(2)), norm=norm, eps=eps, queries=40).images  # type: ignore[arg-type]
        assert geometry.size(found - x, norm).max() <= eps * (1 + 1e-4)  # type: ignore[arg-type]
        assert (found != x).any()


class Counting(nn.Module):
    """Counts images; with ``restless`` no two passes answer the same."""

    def __init__(self, inner: nn.Module, restless: bool = False) -> None:
        super().__init__()
        self.inner, self.restless, self.seen, self.passes = inner, restless, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen, self.passes = self.seen + len(x), self.passes + 1
        logits: Tensor = self.inner(x)
        return logits + 1e-7 * (-1) ** self.passes if self.restless else logits


def test_what_was_turned_down_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images for a fraction of the passes, and for all of them if the model may answer otherwise."""
    inner, x = network(1, 8), images(SAMPLES)
    y, queries = inner(x).argmax(1), 1500

    def run(model: Counting) -> Tensor:
        return square(
            model, x, y, Noise(torch.arange(SAMPLES)), norm="linf", eps=2e-3, queries=queries
        ).images

    remembers, forgets, restless = Counting(inner), Counting(inner), Counting(inner, restless=True)
    found = run(remembers)
    run(restless)
    monkeypatch.setattr("robustness_bench.attacks.searches.square._MEMORY", 0)
    assert torch.equal(run(forgets), found)
    assert (inner(found).argmax(1) == y).all()
    assert remembers.seen < 0.4 * queries * SAMPLES
    assert forgets.seen >= (queries + 1) * SAMPLES
    assert restless.seen >= (queries + 1) * SAMPLES


def test_room_changes_nothing_but_how_many_are_tried_ahead() -> None:
    model, x = network(1, 8), images(SAMPLES)
    y, noise = model(x).argmax(1), Noise(torch.arange(SAMPLES))
    for norm, eps in (("linf", 0.03), ("l2", 0.3)):
        found = [
            square(model, x, y, noise, norm=norm, eps=eps, queries=QUERIES, room=room)  # type: ignore[arg-type]
            for room in (1, SAMPLES, 10 * SAMPLES)
        ]
        for other in found[1:]:
            assert torch.equal(other.fooled, found[0].fooled)
            assert torch.allclose(other.images, found[0].images, atol=1e-5)
