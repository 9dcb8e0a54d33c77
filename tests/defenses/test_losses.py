"""Losses against hand-computed values, and gradients where they belong and nowhere else."""

import math

import pytest
import torch
from torch import Tensor, nn

from attacks.noise import Noise
from defenses.base import Batch, InnerAttack, craft
from defenses.mutual_information.estimator import Estimator, MIEstimators, select
from defenses.namid import NAMID
from defenses.registry import build_defense, defense_presets
from defenses.standard import Standard
from defenses.undefended import Undefended
from tests.support import Linear, images, small_model


class Table(nn.Module):
    """Returns prepared logits for natural and adversarial images, told apart by their mean."""

    def __init__(self, natural: Tensor, adversarial: Tensor) -> None:
        super().__init__()
        self.natural, self.adversarial = nn.Parameter(natural), nn.Parameter(adversarial)

    def forward(self, x: Tensor) -> Tensor:
        return self.adversarial if x.mean() > 0.5 else self.natural


class FixedEstimators(MIEstimators):
    """Per-sample estimates chosen by hand; each is a known multiple of the first logit."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.calls: list[Tensor] = []

    def natural(self, inputs: Tensor, h: Tensor, h_adv: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        self.calls.append(inputs)
        return 1.0 * h[:, 0], 2.0 * h_adv[:, 0]

    def adversarial(self, inputs: Tensor, h: Tensor, h_adv: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        self.calls.append(inputs)
        return 3.0 * h[:, 0], 4.0 * h_adv[:, 1]


NATURAL = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
ADVERSARIAL = torch.tensor([[0.0, 1.0], [1.0, 2.0], [0.0, 1.0], [2.0, 0.0]])
Y = torch.tensor([0, 0, 0, 0])  # sample 2 is wrong on the natural image, sample 3 survives


def _batch(estimators: MIEstimators | None = None, natural: Tensor = NATURAL) -> Batch:
    x = torch.full((4, 1, 2, 2), 0.25)
    return Batch(Table(natural, ADVERSARIAL), x, Y, x + 0.5, estimators)


def test_selection_is_right_on_natural_and_wrong_on_adversarial() -> None:
    assert select(NATURAL, ADVERSARIAL, Y).tolist() == [True, True, False, False]


def test_standard_is_the_adversarial_cross_entropy() -> None:
    expected = sum(math.log(1 + math.exp(b - a)) for a, b in ADVERSARIAL.tolist()) / 4
    assert Standard().terms(_batch())["adversarial"].item() == pytest.approx(expected, abs=1e-6)


def test_undefended_is_the_natural_cross_entropy() -> None:
    expected = sum(math.log(1 + math.exp(b - a)) for a, b in NATURAL.tolist()) / 4
    assert Undefended().terms(_batch())["natural"].item() == pytest.approx(expected, abs=1e-6)


def test_namid_equals_equations_8_and_9_by_hand() -> None:
    """Selected samples 0 and 1. E_n(x) = (2, 3), E_n(x̃) = (0, 2), E_a(x) = (6, 9), E_a(x̃) = (4, 8)."""
    estimators = FixedEstimators()
    terms = NAMID(alpha=5.0, lam=0.1).terms(_batch(estimators))

    def cosine(a: tuple[float, float], b: tuple[float, float]) -> float:
        return (a[0] * b[0] + a[1] * b[1]) / (math.hypot(*a) * math.hypot(*b))

    natural = abs(1 - cosine((0, 2), (2, 3)))
    adversarial = abs(1 - cosine((4, 8), (6, 9)))
    gap = ((4 - 0) + (8 - 2)) / 2
    assert terms["mi"].item() == pytest.approx(5.0 * (natural + adversarial + 0.1 * gap), abs=1e-5)
    assert terms["adversarial"].item() == pytest.approx(Standard().terms(_batch())["adversarial"].item())
    natural_input, noise_input = estimators.calls
    assert natural_input.shape[0] == noise_input.shape[0] == 2
    assert (natural_input == 0.25).all()  # E_n is fed with x
    assert (noise_input == 0.5).all()  # E_a is fed with x̃ - x


def test_namid_without_enough_selected_samples_is_its_base() -> None:
    natural = NATURAL.clone()
    natural[1] = torch.tensor([0.0, 1.0])  # one sample left
    terms = NAMID().terms(_batch(FixedEstimators(), natural))
    assert terms["mi"].item() == 0
    torch.stack(list(terms.values())).sum().backward()


def test_namid_gradients_reach_the_model_and_not_the_estimators() -> None:
    model = Linear((1, 8, 8), classes=3).train()
    x = images(32)
    y = model(x).argmax(1)
    x_adv = (x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert int(select(model(x), model(x_adv), y).sum()) >= 2
    with torch.random.fork_rng(devices=[]):
        estimators = MIEstimators(1, 3, 16, "cosine").eval().requires_grad_(False)
    before = {name: value.clone() for name, value in estimators.state_dict().items()}
    NAMID().terms(Batch(model, x, y, x_adv, estimators))["mi"].backward()
    assert model.weight.grad is not None
    assert model.weight.grad.abs().sum() > 0
    for name, value in estimators.state_dict().items():
        assert torch.equal(value, before[name])


def test_estimator_objectives_by_their_definition() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = MIEstimators(1, 2, 8, "dot").eval()
    x, x_adv = images(4, seed=1), images(4, seed=2)
    h, h_adv = NATURAL, ADVERSARIAL
    (natural,) = module.natural(x[:2], h[:2])
    (natural_adv,) = module.natural(x[:2], h_adv[:2])
    (adversarial,) = module.adversarial((x_adv - x)[:2], h[:2])
    (adversarial_adv,) = module.adversarial((x_adv - x)[:2], h_adv[:2])
    terms = module.terms(x, x_adv, Y, h, h_adv, "eq-5")
    assert terms["natural"].item() == pytest.approx((natural_adv - natural).mean().item(), abs=1e-5)
    assert terms["adversarial"].item() == pytest.approx(
        (adversarial - adversarial_adv).mean().item(), abs=1e-5
    )
    assert module.terms(x, x_adv, Y, h, h, "eq-5") == {}  # nothing selected, nothing to divide by
    whole = module.terms(x, x_adv, Y, h, h_adv, "eq-4")
    assert whole["natural"].item() == pytest.approx(-module.natural(x, h)[0].mean().item(), abs=1e-5)


def test_estimator_learns_dependence_and_finds_none_in_noise() -> None:
    """Trained on images that show their class, against images that do not."""

    def estimate(dependent: bool) -> float:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = Estimator(1, 4, 16, "cosine")
        generator = torch.Generator().manual_seed(0)
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        for step in range(61):
            y = torch.randint(4, (128,), generator=generator)
            x = 0.1 * torch.randn(128, 1, 8, 8, generator=generator)
            if dependent:
                x += y[:, None, None, None].float()
            (bound,) = module(x, 4 * nn.functional.one_hot(y, 4).float())
            if step == 60:
                return float(bound.detach().mean())
            optimizer.zero_grad()
            (-bound.mean()).backward()
            optimizer.step()
        raise AssertionError

    assert estimate(True) > 0.7
    assert abs(estimate(False)) < 0.1


def test_inner_attack_raises_the_loss_inside_the_ball_and_leaves_the_model_alone() -> None:
    model, x = small_model().train(), images(8)
    y = torch.zeros(8, dtype=torch.int64)
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def loss(logits: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, y, reduction="none")

    attack = InnerAttack(norm="linf", eps=0.1)
    x_adv = craft(attack, model, x, Noise.for_samples(torch.arange(8), 0), loss)
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert (x_adv - x).abs().max() <= 0.1 + 1e-6
    with torch.no_grad():
        model.eval()
        assert (loss(model(x_adv)) > loss(model(x))).all()


@pytest.mark.parametrize("name", defense_presets())
def test_presets_build(name: str) -> None:
    preset = defense_presets()[name]
    defense = build_defense(preset.identity())
    assert defense.adversarial == preset.adversarial
    parameters = {key: value for key, value in preset.parameters.items() if key != "base"}
    assert all(getattr(defense, key) == value for key, value in parameters.items())
