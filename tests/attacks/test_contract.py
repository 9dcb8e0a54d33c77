"""What no attack may forget, over the whole registry."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import Attack, AttackError, predict
from robustness_bench.attacks.class_names import load
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.pgd import PGD
from robustness_bench.attacks.registry import SETS, attack_presets
from tests.support import Cheats, Constant, Linear, NaNWhereBright, Scribbles, Small, images, small_model

EPS = {"linf": 0.05, "l2": 0.5}
PRESETS = attack_presets("paper") | attack_presets("strict")
CASES = [(name, norm) for name, preset in PRESETS.items() for norm in preset.norms]
every_attack = pytest.mark.parametrize(("name", "norm"), CASES, ids=[f"{n}-{m}" for n, m in CASES])
ROUNDING = 1e-3  # sign steps and line searches amplify float32 rounding; sharing noise moves pixels by ε
MOST = {
    "square_queries": 15,
    "queries": 150,
    "search_steps": 2,
    "steps": 6,
    "full_steps": 6,
    "bisections": 10,
    "restarts": 2,
    "copies": 2,
    "neighbours": 2,
}


def build(name: str, norm: str, eps: float | None = None) -> Attack:
    """The preset with as many steps as the contract needs: their number is not at stake here."""
    attack = PRESETS[name].build(norm, EPS[norm] if eps is None else eps)
    shorter = {
        field: min(most, getattr(attack, field)) for field, most in MOST.items() if hasattr(attack, field)
    }
    if name in ("cw", "ead-en", "ead-l1"):
        shorter["step_size"] = 0.1
    return dataclasses.replace(attack, **shorter)


class Broken(nn.Module):
    """Finite logits, and a gradient that is not, for some images."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(NaNWhereBright.apply(x))
        return logits


@every_attack
def test_a_broken_gradient_moves_its_own_sample_only(name: str, norm: str) -> None:
    """The attack ends, its images are images, and the other samples are what they are without it."""
    model, x = small_model().eval(), 0.3 * images(6)
    x[3:] = x[3:] + 0.7
    y = labels(model, x)
    found, alone = build(name, norm)(Broken(model), x, y), build(name, norm)(model, x[:3], y[:3])
    assert torch.isfinite(found.x_adv).all()
    assert torch.equal(found.prediction[:3], alone.prediction)
    assert torch.allclose(found.x_adv[:3], alone.x_adv, atol=ROUNDING)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_has_no_gradient_stays_where_it_is(norm: geometry.Norm) -> None:
    model, x = small_model().eval(), 0.7 + 0.3 * images(6)
    y = labels(model, x)
    attack = PGD(norm=norm, eps=EPS[norm], steps=3, random_start=False)
    assert torch.equal(attack(Broken(model), x, y, goal="transfer").x_adv, x)
    assert not torch.equal(attack(model, x, y, goal="transfer").x_adv, x)


def labels(model: nn.Module, x: Tensor) -> Tensor:
    """The model's own classes in evaluation mode, so that every sample is attacked; mode as before."""
    training = model.training
    y = predict(model.eval(), x)
    model.train(training)
    return y


@every_attack
def test_leaves_the_model_and_the_global_generator_as_they_were(name: str, norm: str) -> None:
    model, x = small_model().train(), images(3)
    y = labels(model, x)
    model.layers[1].eval()  # a module in another mode than the rest
    model.layers[0].weight.requires_grad_(False)
    model(x).sum().backward()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    gradients = [None if w.grad is None else w.grad.clone() for w in model.parameters()]
    modes = [module.training for module in model.modules()]
    wanted = [w.requires_grad for w in model.parameters()]
    generator = torch.get_rng_state()

    build(name, norm)(model, x, y)

    assert torch.equal(generator, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert wanted == [w.requires_grad for w in model.parameters()]
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    for before, weight in zip(gradients, model.parameters(), strict=True):
        assert (before is None and weight.grad is None) or torch.equal(before, weight.grad)  # type: ignore[arg-type]


@every_attack
def test_success_is_what_the_kept_image_does(name: str, norm: str) -> None:
    model, x = small_model().eval(), images(6)
    y = labels(model, x)
    y[0] = (y[0] + 1) % 5  # a misclassified natural image is not attacked
    outcome = build(name, norm)(model, x, y)
    assert torch.equal(outcome.prediction, predict(model, outcome.x_adv))
    assert torch.equal(outcome.clean_prediction, predict(model, x))
    assert torch.allclose(outcome.distance, geometry.size(outcome.x_adv - x, build(name, norm).norm))
    assert outcome.distance[0] == 0
    survived = outcome.prediction == y
    assert torch.equal(outcome.x_adv[survived], x[survived])
    assert outcome.x_adv.min() >= 0
    assert outcome.x_adv.max() <= 1
    if name != "none":
        assert not survived.all(), "an undefended model must fall somewhere at this budget"


@every_attack
def test_nothing_found_is_the_natural_image(name: str, norm: str) -> None:
    x, y = images(3), torch.zeros(3, dtype=torch.int64)
    outcome = build(name, norm)(Constant(), x, y)
    assert torch.equal(outcome.x_adv, x)
    assert outcome.distance.tolist() == [0, 0, 0]


@every_attack
def test_nan_logits_are_an_error(name: str, norm: str) -> None:
    class Broken(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / 0.0 * 0.0

    with pytest.raises(AttackError, match="not finite"):
        build(name, norm)(Broken((1, 8, 8)), images(2), torch.zeros(2, dtype=torch.int64))


@every_attack
def test_a_model_without_a_gradient_is_no_crash(name: str, norm: str) -> None:
    """It cuts the graph: gradient attacks see zero, and what they make of it is judged like anything else."""

    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_model().eval()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner.forward(x.detach())

    model, x = Cut().eval(), images(2)
    outcome = build(name, norm)(model, x, labels(model, x))
    assert torch.equal(outcome.prediction, predict(model, outcome.x_adv))


class Cached(nn.Module):
    """Hands out the same tensor for the same images, as caching wrappers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_model().eval()
        self.kept: dict[bytes, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            return self.inner.forward(x)
        key = x.detach().numpy().tobytes()
        if key not in self.kept:
            self.kept[key] = self.inner(x)
        return self.kept[key]

    def intact(self) -> bool:
        """Whether every kept tensor is still what the model says."""
        for key, kept in self.kept.items():
            again = torch.frombuffer(bytearray(key), dtype=torch.float32).reshape(-1, 1, 8, 8)
            if not torch.allclose(kept, self.inner(again), atol=1e-5):
                return False
        return len(self.kept) > 0


@every_attack
def test_a_cached_output_is_not_written_into(name: str, norm: str) -> None:
    cached, x = Cached(), images(2)
    little = 0.01 * EPS[norm]  # so that nothing falls and every member of an ensemble runs
    build(name, norm, little)(cached, x, labels(cached.inner, x))
    assert cached.intact()


def test_nor_by_an_attack_that_writes_into_the_logits_it_is_given() -> None:
    cached, x = Cached(), images(2)
    Scribbles(norm="linf", eps=0.1)(cached, x, labels(cached.inner, x))
    assert cached.intact()


@every_attack
@pytest.mark.parametrize(("channels", "classes"), [(3, 200), (1, 3), (1, 2)])
def test_any_channels_and_classes_in_any_memory_layout(
    name: str, norm: str, channels: int, classes: int
) -> None:
    model = Small(channels, classes).eval().to(memory_format=torch.channels_last)
    x = images(2, channels).contiguous(memory_format=torch.channels_last)
    outcome = build(name, norm)(model, x, labels(model, x))
    assert outcome.x_adv.shape == x.shape


LATER = {"warm_steps", "settled"}
"""Parameters that came after records: presets without them mean the published search, and keep their ids."""
ENTRIES = [(name, each) for each in SETS for name in attack_presets(each)]


@pytest.mark.parametrize(("name", "attack_set"), ENTRIES)
def test_presets_write_out_every_hyperparameter(name: str, attack_set: str) -> None:
    preset = attack_presets(attack_set)[name]
    fields = {field.name for field in dataclasses.fields(load(preset.attack))} - {"norm", "eps"}
    if not LATER & preset.parameters.keys():
        fields -= LATER
    assert set(preset.parameters) == fields - {"precision"}  # which is the protocol's
    assert preset.bf16 == ("precision" in fields)
    assert preset.source


def test_an_attack_that_leaves_its_budget_is_an_error() -> None:
    model, x = small_model().eval(), images(2)
    with pytest.raises(AttackError, match="left its budget"):
        Cheats(norm="linf", eps=0.1)(model, x, labels(model, x))


def test_wrong_input_is_named() -> None:
    attack, model, y = build("pgd-40", "linf"), small_model(), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        attack(model, images(2) * 255, y)
    with pytest.raises(ValueError, match="float32"):
        attack(model, images(2).double(), y)
    with pytest.raises(ValueError, match="int64 labels"):
        attack(model, images(2), y.float())
    with pytest.raises(ValueError, match="at least 0"):
        build("pgd-40", "linf", -0.1)
    with pytest.raises(ValueError, match="works in"):
        build("cw", "linf")
