"""What holds for every named defense, whatever its loss is."""

import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import frozen
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.defenses.base import Batch, Defense, InnerAttack, craft
from robustness_bench.defenses.mart import MART
from robustness_bench.defenses.mutual_information.estimator import (
    MIEstimators,
    StandardMI,
    build_estimators,
    select,
)
from robustness_bench.defenses.namid import NAMID
from robustness_bench.defenses.registry import DefensePreset, build_defense, defense_presets
from robustness_bench.defenses.trades import TRADES
from tests.support import images

N, CLASSES = 24, 3
EPS: dict[Norm, float] = {"linf": 0.2, "l2": 1.5}
WITH_ESTIMATORS = [name for name, preset in defense_presets().items() if "estimators" in preset.requires]


class Untouchable:
    """Stands for estimators that nobody may ask for."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(f"{name} of estimators that the preset does not require")


@pytest.fixture(params=defense_presets())
def preset(request: pytest.FixtureRequest) -> DefensePreset:
    return defense_presets()[request.param]


@pytest.fixture
def defense(preset: DefensePreset) -> Defense:
    return build_defense(preset.identity())


@pytest.fixture
def model() -> nn.Module:
    """Batch norm, so that modes matter, and no dropout, so that a loss is a function of its batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(6 * 64, CLASSES),
        )
    return layers.train()


@pytest.fixture
def batch(preset: DefensePreset, defense: Defense, model: nn.Module) -> Batch:
    """Half of the labels are the model's own: equation 6 selects some samples and not others."""
    x = images(N)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[: N // 2] = (y[: N // 2] + 1) % CLASSES
    x_adv = x
    if preset.adversarial:
        x_adv = _craft(defense, model, x, y, "linf")
        with torch.no_grad():
            assert 2 <= int(select(model(x), model(x_adv), y).sum()) < N
    return Batch(model, x, y, x_adv, _estimators(preset))


def _estimators(preset: DefensePreset) -> MIEstimators | StandardMI | None:
    """As the trainer hands them over: frozen, evaluating."""
    if "estimators" not in preset.requires:
        return None
    objective = preset.estimators.get("objective", "eq-5")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        built = build_estimators(
            1,
            CLASSES,
            units=8,
            scores="cosine",
            temperature=0.2,
            bound="dv",
            objective=objective,
            floor=True,
        )
    return built.eval().requires_grad_(False)


def _craft(defense: Defense, model: nn.Module, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
    attack = InnerAttack(norm=norm, eps=EPS[norm])
    with frozen(model):
        loss = defense.inner_loss(model, x, y)
    return craft(attack, model, x, Noise.for_samples(torch.arange(len(x)), 0), loss)


def _again(batch: Batch, rows: Tensor | slice = slice(None), **changes: object) -> Batch:
    """A batch that has not computed its logits yet, of some of the samples."""
    part = Batch(batch.model, batch.x[rows], batch.y[rows], batch.x_adv[rows], batch.estimators)
    return dataclasses.replace(part, **changes)  # type: ignore[arg-type]


def _sum(defense: Defense, batch: Batch) -> Tensor:
    return torch.stack(list(defense.terms(batch).values())).sum()


def _gradients(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        yield name, weight.grad


def test_terms_are_named_finite_scalars(defense: Defense, batch: Batch) -> None:
    terms = defense.terms(batch)
    assert terms
    for name, term in terms.items():
        assert name.isidentifier()
        assert term.shape == ()
        assert term.dtype == torch.float32
        assert torch.isfinite(term)


def test_every_parameter_has_a_gradient(defense: Defense, batch: Batch) -> None:
    _sum(defense, batch).backward()
    for name, gradient in _gradients(batch.model):
        assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize("preset", WITH_ESTIMATORS, indirect=True)
def test_the_mutual_information_term_reaches_the_model(defense: Defense, batch: Batch) -> None:
    term = defense.terms(batch)["mi"]
    assert term.item() != 0
    term.backward()
    for name, gradient in _gradients(batch.model):
        assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize("preset", WITH_ESTIMATORS, indirect=True)
def test_estimators_stay_as_they_are(preset: DefensePreset, defense: Defense, batch: Batch) -> None:
    _sum(defense, batch).backward()
    estimators, expected = batch.estimators, _estimators(preset)
    assert estimators is not None
    assert expected is not None
    assert not any(module.training for module in estimators.modules())
    assert all(weight.grad is None and not weight.requires_grad for weight in estimators.parameters())
    for name, value in estimators.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name


def test_terms_draw_no_global_random_numbers(defense: Defense, batch: Batch) -> None:
    state = torch.random.get_rng_state()
    first = _sum(defense, batch)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert _sum(defense, _again(batch)).item() == first.item()


def test_natural_images_go_first_where_both_are_used(
    preset: DefensePreset, defense: Defense, batch: Batch
) -> None:
    """Batch norm's statistics are then those of a natural pass and an adversarial one after it."""
    expected, seen = copy.deepcopy(batch.model), []
    fresh = _again(batch)
    handle = fresh.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    defense.terms(fresh)
    handle.remove()
    names = ["natural" if x is fresh.x else "adversarial" for x in seen]
    if isinstance(defense, TRADES | MART | NAMID):
        assert names == ["natural", "adversarial"]
    assert names in (["natural"], ["adversarial"], ["natural", "adversarial"])
    with torch.no_grad():
        for name in names:
            expected(fresh.x if name == "natural" else fresh.x_adv)
    statistics = dict(fresh.model.named_buffers())
    for name, value in expected.named_buffers():
        assert torch.equal(statistics[name], value), name


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_inner_attack_climbs_inside_the_ball(
    defense: Defense, model: nn.Module, batch: Batch, norm: Norm
) -> None:
    x, y = batch.x, batch.y
    x_adv = _craft(defense, model, x, y, norm)
    assert geometry.size(x_adv - x, norm).max() <= EPS[norm] + 1e-5
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    with frozen(model), torch.no_grad():
        loss = defense.inner_loss(model, x, y)
        before, after = loss(model(x)), loss(model(x_adv))
    assert before.shape == after.shape == (N,)
    assert torch.isfinite(before).all()
    assert torch.isfinite(after).all()
    assert (after > before).all()


@pytest.mark.parametrize("n", [1, 2])
def test_smallest_batches(defense: Defense, batch: Batch, n: int) -> None:
    loss = _sum(defense, _again(batch, slice(n)))
    assert torch.isfinite(loss)
    loss.backward()
    assert len(list(_gradients(batch.model))) > 0


@pytest.mark.parametrize("same", [False, True])
def test_nothing_selected(defense: Defense, batch: Batch, same: bool) -> None:
    """All samples wrong, or none fooled: no sample for equation 6."""
    y = batch.logits.detach().argmax(1)
    changes = {"x_adv": batch.x, "y": y} if same else {"y": (y + 1) % CLASSES}
    part = _again(batch, **changes)
    assert not select(part.logits, part.adversarial_logits, part.y).any()
    loss = _sum(defense, part)
    assert torch.isfinite(loss)
    loss.backward()
    assert len(list(_gradients(batch.model))) > 0


def test_order_of_samples_does_not_matter(defense: Defense, batch: Batch) -> None:
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    expected = _sum(defense, batch).item()
    assert _sum(defense, _again(batch, order)).item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_preset_says_whether_it_is_adversarial(preset: DefensePreset, defense: Defense, batch: Batch) -> None:
    """Other adversarial images, another loss, or none at all."""
    assert defense.adversarial == preset.adversarial
    other = _again(batch, x_adv=(batch.x_adv + 0.3).clamp(0, 1))
    same = _sum(defense, other).item() == _sum(defense, batch).item()
    assert same != preset.adversarial


def test_preset_says_whether_it_needs_estimators(
    preset: DefensePreset, defense: Defense, batch: Batch
) -> None:
    if "estimators" in preset.requires:
        with pytest.raises(ValueError, match=rf"^{type(defense).__name__} needs the estimators"):
            defense.terms(_again(batch, estimators=None))
    else:
        assert preset.estimators == {}
        assert torch.isfinite(_sum(defense, _again(batch, estimators=Untouchable())))


def test_preset_writes_out_every_hyperparameter(preset: DefensePreset, defense: Defense) -> None:
    fields = {each.name: getattr(defense, each.name) for each in dataclasses.fields(defense)}
    assert set(preset.parameters) == set(fields)
    for name, value in preset.identity().items():
        if name not in ("defense", "code", "revision"):
            built = fields[name]
            assert built == (build_defense(value) if isinstance(built, Defense) else value)


def test_rows_stand_as_in_the_paper() -> None:
    """Table 1's rows and rules, the floor before and the ablations behind."""
    groups: dict[str, list[str]] = {}
    for name, preset in defense_presets().items():
        groups.setdefault(preset.group, []).append(name)
    assert list(groups)[:5] == ["floor", "standard", "trades", "mart", "ablations"]
    assert groups["standard"] == ["standard", "wmim", "namid"]
    assert groups["trades"] == ["trades", "namid-t"]
    assert groups["mart"] == ["mart", "namid-m"]


def test_labels_are_distinct() -> None:
    labels = [preset.label for preset in defense_presets().values()]
    assert len(set(labels)) == len(labels)
    assert all(preset.source for preset in defense_presets().values())


def test_published_hyperparameters() -> None:
    presets = defense_presets()
    assert presets["trades"].parameters == presets["mart"].parameters == {"beta": 6.0}
    assert presets["namid"].parameters["base"] == "standard"
    assert presets["namid"].parameters["alpha"] == 5.0
    assert presets["namid"].parameters["lam"] == 0.1


@pytest.mark.parametrize(
    ("name", "change", "estimators"),
    [
        ("namid-t", {"base": "trades"}, {}),
        ("namid-m", {"base": "mart"}, {}),
        ("namid-no-adversarial-mi", {"adversarial_mi": False}, {}),
        ("namid-no-natural-mi", {"natural_mi": False}, {}),
        ("namid-no-lambda", {"lam": 0.0}, {}),
        ("namid-eq-4", {}, {"objective": "eq-4"}),
        ("namid-author", {}, {"objective": "author"}),
    ],
)
def test_variants_differ_from_namid_in_one_thing(
    name: str, change: dict[str, object], estimators: dict[str, object]
) -> None:
    namid, variant = defense_presets()["namid"], defense_presets()[name]
    assert variant.parameters == {**namid.parameters, **change}
    assert variant.estimators == {**namid.estimators, **estimators}
