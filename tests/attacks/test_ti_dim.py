"""TI-DIM against closed forms and against the papers' loop written out for one sample."""

import dataclasses
import math
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.attacks.ti_dim import (
    TIDIM,
    diversify,
    gaussian_kernel,
    mean_normalised,
    shrink_matrix,
    smooth,
)
from tests.support import Constant, Linear, images, small_model

both_norms = pytest.mark.parametrize("norm", ["linf", "l2"])


def mi_fgsm(**changes: Any) -> TIDIM:
    return dataclasses.replace(TIDIM(norm="linf", eps=0.1, kernel_size=1, diversity=0.0), **changes)


def trained_on_digits(seed: int, channels: int = 8) -> nn.Module:
    """A small network with more than 90 % accuracy; the global generator is left as it was."""
    x, y = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 16, 10),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(4):
            for rows in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
    return model.eval()


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1797 digits; the first 1400 train the models here."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.from_numpy(data.images).float()[:, None] / 16.0, torch.from_numpy(data.target).long()


@pytest.fixture(scope="module")
def models() -> tuple[nn.Module, nn.Module]:
    """A surrogate and another network to carry its images to."""
    return trained_on_digits(0), trained_on_digits(1, channels=12)


# The oracle: a linear model.


@both_norms
def test_mi_fgsm_finds_the_boundary_of_a_linear_model(norm: Norm) -> None:
    """With two classes the gradient has one direction, so nothing but the budget decides."""
    model = Linear(classes=2)
    x = 0.5 + 0.1 * (images(12, size=6) - 0.5)
    y = model(x).argmax(1)
    for row, distance in enumerate(model.boundary(x, norm).tolist()):
        one, label = x[row : row + 1], y[row : row + 1]
        above = mi_fgsm(norm=norm, eps=1.002 * distance)(model, one, label)
        below = mi_fgsm(norm=norm, eps=0.998 * distance)(model, one, label)
        assert above.prediction != label
        assert below.prediction == label


def test_smoothing_costs_nothing_where_each_channel_has_one_sign() -> None:
    """A positive kernel keeps the sign of a channel that is constant in space, and mixes no channels."""
    model = Linear((3, 6, 6), classes=2)
    by_channel = torch.tensor([[1.0, -2.0, 0.5], [-0.5, 1.0, 3.0]])
    model.weight.data = by_channel[:, :, None].expand(2, 3, 36).reshape(2, -1).clone()
    model.bias.data = -model.weight.data @ torch.full((108,), 0.5)
    x = 0.5 + 0.1 * (images(8, channels=3, size=6) - 0.5)
    y = model(x).argmax(1)
    for row, distance in enumerate(model.boundary(x, "linf").tolist()):
        one, label = x[row : row + 1], y[row : row + 1]
        attack = TIDIM(norm="linf", eps=1.01 * distance, diversity=0.0)
        assert attack(model, one, label).prediction != label
        assert dataclasses.replace(attack, eps=0.99 * distance)(model, one, label).prediction == label


def test_two_steps_by_hand() -> None:
    """f(x) = x₀x₁ from (0.3, 0.4): gradients (8/7, 6/7) and (23/21, 19/21), μ = 2, steps of 0.1 in L2."""

    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            product = x.flatten(1).prod(1)
            return torch.stack([0.0 * product + 1.0, product], 1)

    x = torch.tensor([[[[0.3, 0.4]]]])
    attack = mi_fgsm(norm="l2", eps=1.0, steps=2, momentum=2.0).for_transfer()
    found = attack(Product(), x, torch.tensor([0]), goal="transfer").x_adv.flatten()
    first = torch.tensor([0.3 + 0.08, 0.4 + 0.06])
    velocity = torch.tensor([2 * 8 / 7 + 23 / 21, 2 * 6 / 7 + 19 / 21])
    assert torch.allclose(found, first + 0.1 * velocity / velocity.norm(), atol=1e-6)


# The three ideas, each alone.


@pytest.mark.parametrize(("size", "sigma"), [(15, 3.0), (3, 1.0), (1, 3.0)])
def test_the_kernel_is_the_normal_density_of_the_authors_code(size: int, sigma: float) -> None:
    density = [statistics.NormalDist().pdf(t) for t in np.linspace(-sigma, sigma, size)]
    expected = torch.tensor(density) / sum(density)
    assert torch.allclose(gaussian_kernel(size, sigma), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("channels", "height", "width", "size"), [(1, 8, 8, 15), (3, 8, 5, 15), (3, 28, 28, 7)]
)
def test_smoothing_is_a_dense_convolution_of_each_channel(
    channels: int, height: int, width: int, size: int
) -> None:
    gradient = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    kernel = gaussian_kernel(size, 3.0)
    half, weights = size // 2, np.outer(kernel, kernel)
    padded = np.pad(gradient.numpy(), ((0, 0), (0, 0), (half, half), (half, half)))
    expected = np.zeros_like(gradient.numpy())
    for i in range(size):
        for j in range(size):
            expected += weights[i, j] * padded[:, :, i : i + height, j : j + width]
    assert np.allclose(smooth(gradient, kernel).numpy(), expected, atol=1e-6)


def test_normalisation_is_per_sample_and_survives_a_zero_gradient() -> None:
    gradient = torch.tensor([[1.0, -3.0], [0.0, 0.0], [1e-30, 1e-30]]).reshape(3, 1, 1, 2)
    expected = torch.tensor([[0.5, -1.5], [0.0, 0.0], [1.0, 1.0]]).reshape(3, 1, 1, 2)
    assert torch.allclose(mean_normalised(gradient), expected)


@pytest.mark.parametrize("size", [5, 8, 28, 32])
def test_shrinking_is_interpolate_and_pad(size: int) -> None:
    sides = torch.arange(1, size + 1).repeat_interleave(2)
    offsets = torch.where(torch.arange(len(sides)) % 2 == 0, size - sides, (size - sides) // 2)
    x = images(len(sides), channels=2, size=size)
    matrix = shrink_matrix(size, sides, offsets)[:, None]
    found = matrix @ x @ matrix.transpose(2, 3)
    for row, (side, offset) in enumerate(zip(sides.tolist(), offsets.tolist(), strict=True)):
        small = functional.interpolate(x[row : row + 1], (side, side), mode="bilinear", align_corners=False)
        after = size - side - offset
        expected = functional.pad(small, (offset, after, offset, after))
        assert torch.allclose(found[row : row + 1], expected, atol=1e-5)
    assert torch.equal(found[-1], x[-1])


def shrunk_one(x: Tensor, noise: Noise, attack: TIDIM, draw: int) -> Tensor:
    """Xie et al.'s transformation of one image (1, C, H, W), spelled out."""
    chosen, share, *places = noise.uniform((4,), draw=draw)[0].tolist()
    if chosen >= attack.diversity:
        return x
    sides, pads = [], []
    for size, place in zip(x.shape[2:], places, strict=True):
        smallest = math.ceil(attack.resize * size)
        side = smallest + int(share * (size - smallest + 1))
        before = int(place * (size - side + 1))
        sides.append(side)
        pads.append((before, size - side - before))
    small = functional.interpolate(x, sides, mode="bilinear", align_corners=False)
    return functional.pad(small, (*pads[1], *pads[0]))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (12, 7)])
def test_diversity_is_that_of_each_sample_alone(height: int, width: int) -> None:
    x = images(40, channels=3, size=12)[:, :, :height, :width]
    noise = Noise.for_samples(torch.arange(40), 0)
    attack = TIDIM(norm="linf", eps=0.1, diversity=0.6, resize=0.5)
    found = diversify(x, noise, 0.6, 0.5, draw=3)
    rows = torch.arange(40)
    expected = torch.cat([shrunk_one(x[rows == row], noise[rows == row], attack, 3) for row in range(40)])
    assert torch.allclose(found, expected, atol=1e-6)


def test_diversity_covers_every_side_and_place_evenly() -> None:
    """On white images the frame of zeros shows the choice: 6 sides of 10 pixels, 60 % of the images."""
    n, white = 6000, torch.ones(1, 1, 10, 10)
    found = diversify(white.expand(n, -1, -1, -1), Noise.for_samples(torch.arange(n), 0), 0.6, 0.5, draw=0)
    side = (found[:, 0].sum(2) > 0).sum(1)
    counts = torch.bincount(side, minlength=11)
    assert counts[:5].tolist() == [0] * 5
    assert torch.allclose(counts[5:10] / n, torch.full((5,), 0.1), atol=0.02)
    assert abs(counts[10].item() / n - 0.5) < 0.03
    top = (found[side == 5][:, 0].sum(2) > 0).float().argmax(1)
    left = (found[side == 5][:, 0].sum(1) > 0).float().argmax(1)
    assert torch.bincount(top * 6 + left, minlength=36).min() > 0
    assert torch.allclose(torch.bincount(top, minlength=6) / len(top), torch.full((6,), 1 / 6), atol=0.06)


def test_diversity_differs_by_sample_and_step_but_not_for_equal_ids() -> None:
    seen: list[Tensor] = []

    class Witness(Constant):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach().clone())
            return super().forward(x)

    x = torch.ones(4, 1, 10, 10)
    attack = TIDIM(norm="linf", eps=0.0, steps=6, diversity=1.0, resize=0.3).for_transfer()
    attack(Witness(), x, torch.zeros(4, dtype=torch.int64), ids=torch.tensor([7, 8, 9, 7]), goal="transfer")
    steps = seen[1:-1]  # the first and last judge the images themselves
    assert len(steps) == 6
    for step in steps:
        assert torch.equal(step[0], step[3])
    for row in range(3):
        assert len({step[row].numpy().tobytes() for step in steps}) > 3
    assert any(not torch.equal(step[0], step[1]) for step in steps)
    assert any(not torch.equal(step[1], step[2]) for step in steps)


# The whole attack.


def reference(attack: TIDIM, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
    """The papers' loop for one image, with a dense kernel and torch's own resizing."""
    points = torch.linspace(-attack.kernel_sigma, attack.kernel_sigma, attack.kernel_size)
    density = (-(points**2) / 2).exp()
    kernel = torch.outer(density, density) / torch.outer(density, density).sum()
    channels = x.shape[1]
    stack = kernel.expand(channels, 1, -1, -1)
    x_adv, velocity = x.clone(), torch.zeros_like(x)
    for step in range(attack.steps):
        x_adv = x_adv.detach().requires_grad_()
        loss = functional.cross_entropy(model(shrunk_one(x_adv, noise, attack, 2 + step)), y)
        (gradient,) = torch.autograd.grad(loss, x_adv)
        gradient = functional.conv2d(gradient, stack, padding="same", groups=channels)
        velocity = attack.momentum * velocity + gradient / gradient.abs().mean()
        length = attack.rel_step_size * attack.eps
        if attack.norm == "linf":
            delta = (x_adv - x + length * velocity.sign()).clamp(-attack.eps, attack.eps)
        else:
            delta = x_adv - x + length * velocity / velocity.norm()
            delta = delta * min(1.0, attack.eps / delta.norm().item())
        x_adv = (x + delta).clamp(0, 1)
    return x_adv.detach()


@both_norms
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_equals_the_loop_written_for_one_sample(norm: Norm, channels: int, momentum: float) -> None:
    model, x = small_model(channels).eval(), images(6, channels)
    y, ids = model(x).argmax(1), torch.arange(50, 56)
    attack = TIDIM(
        norm=norm, eps=0.1, rel_step_size=0.3, steps=6, momentum=momentum, kernel_size=5, resize=0.6
    ).for_transfer()
    found = attack(model, x, y, ids=ids, seed=3, goal="transfer").x_adv
    noise = Noise.for_samples(ids, 3, "TIDIM")
    for row in range(6):
        one = torch.arange(6) == row
        expected = reference(attack, model, x[one], y[one], noise[one])
        assert torch.allclose(found[one], expected, atol=1e-5)


@both_norms
def test_a_sample_does_not_depend_on_its_batch(norm: Norm) -> None:
    model, x, ids = small_model().eval(), images(12), torch.arange(100, 112)
    y = model(x).argmax(1)
    attack = TIDIM(
        norm=norm,
        eps={"linf": 0.1, "l2": 0.6}[norm],
        kernel_size=3,
        diversity=1.0,
        resize=0.4,
        random_start=True,
    )
    for one in (attack, attack.for_transfer()):
        whole = one(model, x, y, ids=ids, seed=4)
        for row in range(12):
            part = slice(row, row + 1)
            alone = one(model, x[part], y[part], ids=ids[part], seed=4)
            assert torch.allclose(whole.x_adv[part], alone.x_adv, atol=1e-4)


@both_norms
def test_many_long_steps_stay_in_ball_and_box(norm: Norm) -> None:
    model, x = small_model().eval(), images(4).round()
    attack = TIDIM(norm=norm, eps=0.3, rel_step_size=0.7, random_start=True).for_transfer()
    outcome = attack(model, x, model(x).argmax(1), goal="transfer")
    assert outcome.distance.max() <= 0.3 + 1e-5
    assert outcome.distance.min() > 0.1


@pytest.mark.parametrize(
    ("channels", "height", "width"), [(1, 8, 8), (3, 28, 28), (3, 32, 32), (1, 1, 1), (2, 5, 9)]
)
def test_any_channels_sizes_and_200_classes(channels: int, height: int, width: int) -> None:
    model = Linear((channels, height, width), classes=200)
    x = images(3, channels, max(height, width))[:, :, :height, :width]
    outcome = TIDIM(norm="linf", eps=0.1, resize=0.5)(model, x, model(x).argmax(1))
    assert outcome.x_adv.shape == x.shape


@pytest.mark.parametrize("changes", [{}, {"diversity": 0.0}, {"resize": 1.0}, {"early_stop": False}])
def test_passes_are_what_a_sample_costs_that_never_falls(changes: dict[str, Any]) -> None:
    attack = dataclasses.replace(TIDIM(norm="linf", eps=0.1), **changes)
    outcome = attack(Constant(), images(3), torch.zeros(3, dtype=torch.int64))
    forwards, backwards = attack.passes(5)
    assert (outcome.forwards, outcome.backwards) == (forwards + 2, backwards)  # two by the base class
    assert forwards == (20 if not changes else 10)


class Framed(Linear):
    """Prefers class 1 as soon as a pixel is exactly black, which the frame of a shrunk image is."""

    def forward(self, x: Tensor) -> Tensor:
        black = (x == 0).flatten(1).any(1)
        return super().forward(x) + torch.stack([-3.0 * black, 3.0 * black], 1)


def test_the_image_itself_is_judged_and_not_the_shrunk_one() -> None:
    model = Framed(classes=2)
    model.weight.data[1] = -model.weight.data[0].abs()
    model.weight.data[0] = model.weight.data[0].abs()
    model.bias.data = torch.tensor([-model.weight.data[0].sum().item() + 2.0, 0.0])
    x = 0.5 + 0.1 * (images(6, size=6) - 0.5)
    y = model(x).argmax(1)
    assert (y == 0).all()
    assert (model(functional.pad(x, (0, 1))[..., 1:]).argmax(1) == 1).all()
    eps = 1.2 * model.boundary(x, "linf").max().item()
    attack = TIDIM(norm="linf", eps=eps, diversity=1.0, resize=0.5, random_start=False)
    assert (attack(model, x, y).prediction == 1).all()


@pytest.mark.parametrize("diversity", [0.0, 0.7])
def test_nothing_is_spent_on_fallen_samples(diversity: float) -> None:
    model, x = small_model().eval(), images(16)
    attack = TIDIM(norm="linf", eps=0.5, steps=200, rel_step_size=0.02, diversity=diversity, resize=0.6)
    outcome = attack(model, x, model(x).argmax(1))
    assert (outcome.prediction != outcome.clean_prediction).all()
    assert outcome.backwards < 40
    assert outcome.distance.median() < 0.2, "a fallen sample keeps the image at which it fell"


def test_for_transfer_takes_every_step_and_returns_the_last() -> None:
    """Where the gradient never turns, each step adds its length until the ball ends."""
    model = Linear(classes=2)
    x = torch.full((2, 1, 6, 6), 0.5)
    y = model(x).argmax(1)
    for steps, expected in enumerate([0.025, 0.05, 0.075, 0.1, 0.1], start=1):
        attack = mi_fgsm(steps=steps, rel_step_size=0.25).for_transfer()
        distance = attack(model, x, y, goal="transfer").distance
        assert torch.allclose(distance, torch.tensor(expected), atol=1e-6)


def test_random_start_is_the_only_use_of_noise_without_diversity() -> None:
    model, x = small_model().eval(), images(3)
    y = model(x).argmax(1)

    def found(attack: TIDIM, seed: int) -> Tensor:
        return attack.for_transfer()(model, x, y, seed=seed, goal="transfer").x_adv

    plain = TIDIM(norm="linf", eps=0.1, steps=2, diversity=0.0)
    assert torch.equal(found(plain, 0), found(plain, 1))
    started = dataclasses.replace(plain, random_start=True)
    assert not torch.equal(found(started, 0), found(started, 1))
    diverse = dataclasses.replace(plain, diversity=1.0, resize=0.5)
    assert not torch.equal(found(diverse, 0), found(diverse, 1))


def test_images_for_transfer_raise_the_loss_of_both_models(models: tuple[nn.Module, nn.Module]) -> None:
    surrogate, other = models
    x, y = (part[1400:1600] for part in digits())
    attack = TIDIM(norm="linf", eps=0.15, kernel_size=3, kernel_sigma=1.0, resize=0.7).for_transfer()
    outcome = attack(surrogate, x, y, goal="transfer")
    for model in (surrogate, other):
        with torch.no_grad():
            natural, attacked = model(x), model(outcome.x_adv)
        assert (natural.argmax(1) == y).float().mean() > 0.9
        before = functional.cross_entropy(natural, y, reduction="none")
        after = functional.cross_entropy(attacked, y, reduction="none")
        assert (after > before).float().mean() > 0.9
        assert (attacked.argmax(1) == y).float().mean() < 0.75


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be positive and finite, got 0"),
        ({"rel_step_size": 0.0}, "rel_step_size must be positive and finite, got 0.0"),
        ({"momentum": -0.5}, "-0.5"),
        ({"momentum": math.nan}, "nan"),
        ({"kernel_size": 4}, "odd and positive, got 4"),
        ({"kernel_size": -1}, "got -1"),
        ({"kernel_sigma": 0.0}, "got 0.0"),
        ({"diversity": 1.5}, "a probability, got 1.5"),
        ({"resize": 0.0}, r"\(0, 1\], got 0.0"),
        ({"resize": 1.1}, "got 1.1"),
        ({"eps": -1.0}, "got -1.0"),
    ],
)
def test_wrong_fields_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TIDIM(**{"norm": "linf", "eps": 0.1, **changes})
