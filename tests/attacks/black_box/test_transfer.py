"""BSR and MEF: their pieces by hand, MI-FGSM as their plain case, and what they are for."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import BudgetAttack, predict
from robustness_bench.attacks.black_box.bsr import BSR, _places, _sources, shuffled
from robustness_bench.attacks.black_box.mef import MEF
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.attacks.registry import attack_presets
from robustness_bench.attacks.ti_dim import TIDIM, mean_normalised
from tests.attacks.test_ti_dim import digits, trained_on_digits
from tests.support import images, small_model

both_norms = pytest.mark.parametrize("norm", ["linf", "l2"])
EPS: dict[Norm, float] = {"linf": 0.05, "l2": 0.5}


def noise(n: int, seed: int = 0) -> Noise:
    return Noise.for_samples(torch.arange(n), seed, "test")


def mi_fgsm(norm: Norm, steps: int, momentum: float) -> TIDIM:
    return TIDIM(
        norm=norm,
        eps=EPS[norm],
        kernel_size=1,
        diversity=0.0,
        steps=steps,
        momentum=momentum,
        early_stop=False,
    )


# The loop


@both_norms
def test_mef_of_one_neighbour_at_the_image_is_mi_fgsm(norm: Norm) -> None:
    model, x = small_model().eval(), images(6)
    y = predict(model, x)
    mef = MEF(norm=norm, eps=EPS[norm], steps=7, neighbours=1, radius=0.0, shift=0.0, early_stop=False)
    found, expected = (each(model, x, y, goal="transfer") for each in (mef, mi_fgsm(norm, 7, 0.5)))
    assert torch.equal(found.x_adv, expected.x_adv)


@both_norms
def test_bsr_of_one_block_that_is_not_turned_is_mi_fgsm(norm: Norm) -> None:
    model, x = small_model().eval(), images(6)
    y = predict(model, x)
    bsr = BSR(norm=norm, eps=EPS[norm], steps=7, copies=2, blocks=1, angle=0.0, early_stop=False)
    found, expected = (each(model, x, y, goal="transfer") for each in (bsr, mi_fgsm(norm, 7, 1.0)))
    # Where a gradient is next to nothing its sign is left to rounding.
    assert ((found.x_adv - expected.x_adv).abs() < 1e-4).float().mean() > 0.98


@pytest.mark.parametrize("name", ["bsr", "mef"])
def test_a_fooled_sample_is_left_unless_the_image_is_for_another_model(name: str) -> None:
    model, x = small_model().eval(), images(6)
    attack = attack_presets("strict")[name].build("linf", 0.3)
    assert isinstance(attack, BSR | MEF)
    y = predict(model, x)
    early, late = attack(model, x, y), attack.for_transfer()(model, x, y, goal="transfer")
    assert (early.prediction != y).all()
    assert early.backwards < late.backwards == attack.steps * 20
    assert late.forwards == attack.steps * 20 + 2
    assert attack.passes(5) == (attack.steps * 21, attack.steps * 20)


# Shuffling and turning


@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(3, 7, 9), (1, 8, 8), (2, 3, 2)])
def test_shuffling_moves_every_pixel_somewhere_and_all_channels_alike(
    blocks: int, shape: tuple[int, int, int]
) -> None:
    channels, height, width = shape
    plane = torch.arange(height * width).float().reshape(1, 1, height, width)
    x = torch.cat([plane + 1000 * channel for channel in range(channels)], 1).expand(40, -1, -1, -1)
    found = shuffled(x, noise(40), blocks, 0.0, draw=3).round()
    for channel in range(channels):
        assert torch.equal(found[:, channel] - 1000 * channel, found[:, 0])
    assert torch.equal(found[:, 0].flatten(1).sort(1).values, plane.flatten(1).expand(40, -1))
    moved = (found != x).flatten(1).any(1)
    assert moved.any() == (blocks > 1)


def test_blocks_lie_side_by_side_in_a_new_order() -> None:
    """Lengths in proportion to 1 + u, here 1.9 : 1 : 1.1 of 12 pixels, and the last part comes first."""
    lengths, order = torch.tensor([[0.9, 0.0, 0.1]]), torch.tensor([[0.5, 0.8, 0.1]])
    part, begin, end, offset = _places(12, lengths, order)
    assert part[0].tolist() == [2, 2, 2, 0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert begin[0].tolist() == [9, 9, 9, 0, 0, 0, 0, 0, 0, 6, 6, 6]
    assert end[0].tolist() == [12, 12, 12, 6, 6, 6, 6, 6, 6, 9, 9, 9]
    assert offset[0].tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 0, 1, 2]


def test_a_block_turns_about_its_middle_by_up_to_the_angle() -> None:
    """A bright pixel right of the middle goes round it, and by as much to either side."""
    x = torch.zeros(2000, 1, 41, 41)
    x[:, 0, 20, 32] = 1.0
    found = shuffled(x, noise(2000), 1, 30.0, draw=0)[:, 0]
    pixel = torch.arange(41.0) - 20
    total = found.sum((1, 2))
    down = (found * pixel[:, None]).sum((1, 2)) / total
    right = (found * pixel[None]).sum((1, 2)) / total
    assert torch.allclose(torch.hypot(down, right), torch.tensor(12.0), atol=0.35)
    angle = torch.rad2deg(torch.atan2(down, right))
    assert angle.abs().max() < 32
    assert abs(float(angle.mean())) < 1.5
    assert 16 < angle.std() < 18.6  # uniform in ±30: 17.3


def test_an_angle_is_as_drawn() -> None:
    """Uniform numbers 0, ½ and 1 are -τ, 0 and τ: from where the middle of the right edge comes."""
    first, second = torch.full((3, 2, 1), 0.5), torch.full((3, 3, 1, 1), 0.5)
    second[:, 2, 0, 0] = torch.tensor([0.0, 0.5, 1.0])
    rows, columns = _sources(21, 21, first, second, 20.0)
    sine, cosine = 8 * math.sin(math.radians(20)), 8 * math.cos(math.radians(20))
    torch.testing.assert_close(rows[:, 10, 18], torch.tensor([10 + sine, 10.0, 10 - sine]))
    torch.testing.assert_close(columns[:, 10, 18], torch.tensor([10 + cosine, 18.0, 10 + cosine]))


def test_nothing_turns_into_a_block_from_another() -> None:
    """Of two strips one is bright: after any turn a pixel is bright, dark, or of the strips' seam."""
    x = torch.zeros(200, 1, 20, 20)
    x[:, :, 10:] = 1.0
    first = torch.full((200, 2, 2), 0.5)  # two strips of 10 rows
    second = noise(200).uniform((3, 2, 2))
    rows, columns = _sources(20, 20, first, second, 24.0)
    strip = (torch.arange(20) >= 10)[None, :, None].expand(200, -1, 20)
    known = rows >= -1
    assert 0.7 < known.float().mean() < 1
    assert ((rows[known] >= 9.5) == strip[known]).all()
    assert (columns[known] > -1).all()
    assert (columns[known] < 20).all()


def test_half_of_the_copies_are_cut_along_the_other_axis_first() -> None:
    """Cut into strips of rows first, all pixels of a row come from one row."""
    plane = torch.arange(12).repeat_interleave(12).reshape(1, 1, 12, 12).float()
    found = shuffled(plane.expand(400, -1, -1, -1), noise(400), 3, 0.0, draw=0).round()
    by_rows = (found == found[..., :1]).flatten(1).all(1)
    assert 0.43 < by_rows.float().mean() < 0.62  # a few cut by columns look alike


def test_what_turns_into_a_block_is_black() -> None:
    x = torch.ones(50, 1, 16, 16)
    found = shuffled(x, noise(50), 2, 24.0, draw=0)
    assert found.min() == 0
    assert 0.75 < found.mean() < 0.97
    assert torch.equal(shuffled(x[:3], noise(3), 2, 24.0, draw=0), found[:3])
    assert not torch.equal(shuffled(x, noise(50), 2, 24.0, draw=1), found)


# MEF's neighbours


class Seen(nn.Module):
    """Remembers the images it was shown; its gradient is known."""

    def __init__(self, slopes: Tensor) -> None:
        super().__init__()
        self.slopes, self.images = slopes, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.images.append(x.detach().clone())
        score = (x * self.slopes).flatten(1).sum(1)
        return torch.stack([-score, score], 1)


def test_neighbours_are_where_the_paper_puts_them() -> None:
    """x̃ + U(-γε, γε) + ξε·m, with m = g / mean|g| after one step and that less μ m after two."""
    slopes = torch.linspace(-1, 2, 16).reshape(1, 4, 4)
    model, x, y = Seen(slopes), torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.int64)
    mef = MEF(norm="linf", eps=0.1, steps=3, neighbours=2, shift=0.5, inner_momentum=0.9, early_stop=False)
    still = dataclasses.replace(mef, shift=0.0)
    mef(model, x, y, goal="transfer")
    moved, model.images = model.images[1:7], []  # the first pass judges the natural image
    still(model, x, y, goal="transfer")
    kept = model.images[1:7]
    unit = mean_normalised(slopes[None])
    for step, memory in enumerate((0.0, 1.0, 0.1)):
        for index in (2 * step, 2 * step + 1):
            torch.testing.assert_close(
                moved[index] - kept[index], (0.5 * 0.1 * memory * unit).expand(3, -1, -1, -1)
            )
    away = (kept[0] - 0.5) / 0.1
    assert 1.5 < away.abs().max() < 2


@pytest.mark.parametrize(
    "attack",
    [
        MEF(norm="linf", eps=0.1, steps=3, rel_step_size=1e-6, neighbours=2, shift=0.0),
        BSR(norm="linf", eps=0.1, steps=3, rel_step_size=1e-6, copies=2),
    ],
    ids=repr,
)
def test_every_step_and_copy_has_draws_of_its_own(attack: BudgetAttack) -> None:
    model, x = Seen(torch.ones(1, 8, 8)), images(3)
    attack.for_transfer()(model, x, torch.zeros(3, dtype=torch.int64), goal="transfer")
    shown = torch.stack(model.images[1:7])
    assert torch.pdist(shown.flatten(1)).min() > 0.1


# What they are for


def test_mef_s_images_fool_another_model_more_often_than_mi_fgsm_s() -> None:
    """On images of 8×8. There BSR's fool fewer: a digit whose quarters are shuffled is no digit."""
    surrogate, target = trained_on_digits(0), trained_on_digits(1, channels=12)
    x, y = (each[1400:1600] for each in digits())

    def fooled(attack: BudgetAttack) -> float:
        found = attack.for_transfer()(surrogate, x, y, goal="transfer")
        return float((predict(target, found.x_adv) != y).float().mean())

    mef = attack_presets("strict")["mef"].build("linf", 0.15)
    assert isinstance(mef, MEF)
    assert fooled(mef) > fooled(dataclasses.replace(mi_fgsm("linf", 20, 0.5), eps=0.15)) + 0.02


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        (lambda: BSR(norm="linf", eps=0.1, blocks=0), "blocks must be at least 1"),
        (lambda: BSR(norm="linf", eps=0.1, copies=0), "copies and blocks must be at least 1"),
        (lambda: BSR(norm="linf", eps=0.1, angle=math.nan), "angle must be from 0 to 180"),
        (lambda: MEF(norm="linf", eps=0.1, neighbours=0), "neighbours must be at least 1"),
        (lambda: MEF(norm="linf", eps=0.1, radius=-1.0), "radius must be at least 0"),
        (lambda: MEF(norm="linf", eps=0.1, steps=0), "steps must be positive"),
        (lambda: BSR(norm="linf", eps=0.1, momentum=-1.0), "momentum must be at least 0"),
        (lambda: BSR(norm="linf", eps=0.1, loss="mse"), "loss must be one of"),  # type: ignore[arg-type]
    ],
)
def test_impossible_parameters_are_refused(attack: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        attack()  # type: ignore[operator]
