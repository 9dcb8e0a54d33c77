"""Losses against hand-computed values, and gradients where they belong and nowhere else."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.defenses.base import Batch, Defense, InnerAttack, craft
from robustness_bench.defenses.mart import MART, log_complement
from robustness_bench.defenses.mutual_information.estimator import MIEstimators, StandardMI, select
from robustness_bench.defenses.namid import NAMID
from robustness_bench.defenses.standard import Standard
from robustness_bench.defenses.trades import TRADES, kl_divergence
from robustness_bench.defenses.undefended import Undefended
from robustness_bench.defenses.wmim import WMIM
from tests.support import images, small_model

Rows = list[list[float]]


class Table(nn.Module):
    """Returns prepared logits for natural and adversarial images, told apart by their mean."""

    def __init__(self, natural: Tensor, adversarial: Tensor) -> None:
        super().__init__()
        self.natural, self.adversarial = nn.Parameter(natural), nn.Parameter(adversarial)

    def forward(self, x: Tensor) -> Tensor:
        return self.adversarial if x.mean() > 0.5 else self.natural


class FixedEstimators(MIEstimators):
    """Per-sample estimates chosen by hand; each is a known multiple of a logit."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.calls: list[tuple[str, Tensor]] = []

    def natural(self, inputs: Tensor, h: Tensor, h_adv: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        self.calls.append(("natural", inputs))
        return 1.0 * h[:, 0], 2.0 * h_adv[:, 0]

    def adversarial(self, inputs: Tensor, h: Tensor, h_adv: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        self.calls.append(("adversarial", inputs))
        return 3.0 * h[:, 0], 4.0 * h_adv[:, 1]


class FixedStandard(StandardMI):
    """Likewise for the estimator of WMIM."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.calls: list[tuple[Tensor, Tensor]] = []

    def standard(self, inputs: Tensor, h: Tensor) -> tuple[Tensor]:  # type: ignore[override]
        self.calls.append((inputs, h))
        return (3.0 * h[:, 0] + h[:, 1],)


NATURAL = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
ADVERSARIAL = torch.tensor([[0.0, 1.0], [1.0, 2.0], [0.0, 1.0], [2.0, 0.0]])
Y = torch.tensor([0, 0, 0, 0])  # sample 2 is wrong on the natural image, sample 3 survives

# Probabilities p(x), p(x̃) of three samples. Wrong on x̃; wrong on x̃ and on its rival; right on both.
P = [[1 / 2, 1 / 4, 1 / 4], [1 / 8, 5 / 8, 2 / 8], [1 / 4, 1 / 4, 1 / 2]]
Q = [[1 / 4, 1 / 2, 1 / 4], [1 / 8, 1 / 8, 6 / 8], [1 / 8, 2 / 8, 5 / 8]]
CLASSES = [0, 1, 2]
KL = [math.log(2) / 4, 5 / 8 * math.log(5) - 1 / 4 * math.log(3), math.log(2) / 4 + math.log(4 / 5) / 2]


def _batch(estimators: MIEstimators | StandardMI | None = None, natural: Tensor = NATURAL) -> Batch:
    x = torch.full((4, 1, 2, 2), 0.25)
    return Batch(Table(natural, ADVERSARIAL), x, Y, x + 0.5, estimators)


def _given(
    natural: Tensor, adversarial: Tensor, y: Tensor, estimators: MIEstimators | StandardMI | None = None
) -> Batch:
    """A batch whose images are the logits: the model is the identity."""
    return Batch(nn.Identity(), natural, y, adversarial, estimators)


def _probabilities() -> Batch:
    # A shift per sample must not matter.
    shift = torch.tensor([[0.0], [7.0], [-3.0]], dtype=torch.float64)
    natural, adversarial = torch.tensor(P, dtype=torch.float64), torch.tensor(Q, dtype=torch.float64)
    return _given(natural.log() + shift, adversarial.log() - shift, torch.tensor(CLASSES))


def _random(classes: int, scale: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    natural = scale * torch.randn(16, classes, generator=generator, dtype=torch.float64)
    adversarial = natural + scale * torch.randn(16, classes, generator=generator, dtype=torch.float64)
    return natural, adversarial, torch.randint(classes, (16,), generator=generator)


def _softmax(rows: Rows) -> Rows:
    exponentials = [[math.exp(value) for value in row] for row in rows]
    return [[value / math.fsum(row) for value in row] for row in exponentials]


def _cross_entropy(q: Rows, y: list[int]) -> float:
    return math.fsum(-math.log(row[k]) for row, k in zip(q, y, strict=True)) / len(y)


def _divergence(p: list[float], q: list[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def _mart(p: Rows, q: Rows, y: list[int]) -> tuple[float, float]:
    """Boosted cross-entropy and weighted divergence (without β) from probabilities."""
    boosted, weighted = 0.0, 0.0
    for natural, adversarial, k in zip(p, q, y, strict=True):
        rival = max(value for j, value in enumerate(adversarial) if j != k)
        boosted += -math.log(adversarial[k]) - math.log(1 - rival)
        weighted += _divergence(natural, adversarial) * (1 - natural[k])
    return boosted / len(y), weighted / len(y)


def _sum(defense: Defense, y: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The whole loss as a function of natural and adversarial logits."""

    def loss(natural: Tensor, adversarial: Tensor) -> Tensor:
        estimators = FixedEstimators() if isinstance(defense, NAMID) else FixedStandard()
        return torch.stack(list(defense.terms(_given(natural, adversarial, y, estimators)).values())).sum()

    return loss


def test_selection_is_right_on_natural_and_wrong_on_adversarial() -> None:
    assert select(NATURAL, ADVERSARIAL, Y).tolist() == [True, True, False, False]


def test_standard_is_the_adversarial_cross_entropy() -> None:
    expected = sum(math.log(1 + math.exp(b - a)) for a, b in ADVERSARIAL.tolist()) / 4
    assert Standard().terms(_batch())["adversarial"].item() == pytest.approx(expected, abs=1e-6)


def test_undefended_is_the_natural_cross_entropy() -> None:
    expected = sum(math.log(1 + math.exp(b - a)) for a, b in NATURAL.tolist()) / 4
    assert Undefended().terms(_batch())["natural"].item() == pytest.approx(expected, abs=1e-6)


SOFT = [[0.8, 0.1, 0.1], [0.1, 0.6, 0.3], [0.0, 0.25, 0.75]]
SOFTENED = {
    "standard": (Standard(), Q),
    "undefended": (Undefended(), P),
    "trades": (TRADES(), P),
    "mart": (MART(), Q),
}


@pytest.mark.parametrize("name", SOFTENED)
def test_soft_labels_change_the_cross_entropy_and_nothing_else(name: str) -> None:
    """-Σ_k t_k log p_k, averaged over the batch (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567)."""
    defense, outputs = SOFTENED[name]
    hard = _probabilities()
    soft = dataclasses.replace(hard, soft=torch.tensor(SOFT, dtype=torch.float64))
    before, after = defense.terms(hard), defense.terms(soft)
    first, *others = after
    expected = [
        -sum(t * math.log(p) for t, p in zip(*rows, strict=True)) for rows in zip(SOFT, outputs, strict=True)
    ]
    change = math.fsum(expected) / 3 - _cross_entropy(outputs, CLASSES)
    assert (after[first] - before[first]).item() == pytest.approx(change, rel=1e-10)
    assert all(torch.equal(after[name], before[name]) for name in others)


@pytest.mark.parametrize("beta", [6.0, 2.5])
def test_trades_by_hand(beta: float) -> None:
    terms = TRADES(beta=beta).terms(_probabilities())
    assert terms["natural"].item() == pytest.approx(-math.log(1 / 2 * 5 / 8 * 1 / 2) / 3, abs=1e-14)
    assert terms["kl"].item() == pytest.approx(beta * sum(KL) / 3, abs=1e-14)
    assert set(terms) == {"natural", "kl"}


@pytest.mark.parametrize("beta", [6.0, 2.5])
def test_mart_by_hand(beta: float) -> None:
    """Rivals 1/2, 3/4 and 1/4; weights 1 - p_y(x) of 1/2, 3/8 and 1/2."""
    terms = MART(beta=beta).terms(_probabilities())
    boosted = -math.log(1 / 4 * 1 / 8 * 5 / 8) - math.log(1 / 2 * 1 / 4 * 3 / 4)
    assert terms["boosted"].item() == pytest.approx(boosted / 3, abs=1e-14)
    weighted = KL[0] / 2 + KL[1] * 3 / 8 + KL[2] / 2
    assert terms["kl"].item() == pytest.approx(beta * weighted / 3, abs=1e-14)
    assert set(terms) == {"boosted", "kl"}


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("wrong", [False, True])
def test_trades_and_mart_equal_their_formulas(classes: int, wrong: bool) -> None:
    """Plain loops over probabilities in double precision; with ``wrong`` no sample is classified right."""
    natural, adversarial, y = _random(classes, 2.0)
    if wrong:
        y = (natural + adversarial).argmin(1)
    batch = _given(natural, adversarial, y)
    p, q, labels = _softmax(natural.tolist()), _softmax(adversarial.tolist()), y.tolist()
    divergence = math.fsum(_divergence(a, b) for a, b in zip(p, q, strict=True)) / 16
    boosted, weighted = _mart(p, q, labels)
    terms = TRADES(beta=6.0).terms(batch)
    assert terms["natural"].item() == pytest.approx(_cross_entropy(p, labels), rel=1e-12)
    assert terms["kl"].item() == pytest.approx(6.0 * divergence, rel=1e-12)
    terms = MART(beta=6.0).terms(batch)
    assert terms["boosted"].item() == pytest.approx(boosted, rel=1e-12)
    assert terms["kl"].item() == pytest.approx(6.0 * weighted, rel=1e-12)


DEFENSES = [
    Undefended(),
    Standard(),
    TRADES(),
    MART(),
    WMIM(alpha=2.0),
    NAMID(),
    NAMID(base=TRADES()),
    NAMID(base=MART(), adversarial_mi=False),
    NAMID(natural_mi=False, lam=0.5),
]


@pytest.mark.parametrize("defense", DEFENSES, ids=repr)
def test_gradients_run_through_both_outputs(defense: Defense) -> None:
    """Difference quotients see the whole function, autograd only what is not detached."""
    natural, adversarial, y = _random(3, 1.0, seed=4)
    assert int(select(natural, adversarial, y).sum()) >= 2
    inputs = (natural.requires_grad_(), adversarial.requires_grad_())
    assert torch.autograd.gradcheck(_sum(defense, y), inputs, atol=1e-7)


def test_trades_gradient_in_closed_form() -> None:
    natural, adversarial, y = _random(4, 1.0)
    natural.requires_grad_()
    adversarial.requires_grad_()
    _sum(TRADES(beta=6.0), y)(natural, adversarial).backward()
    p, q = natural.detach().softmax(1), adversarial.detach().softmax(1)
    ratio = (p / q).log()
    divergence = (p * ratio).sum(1, keepdim=True)
    expected = p - nn.functional.one_hot(y, 4) + 6.0 * p * (ratio - divergence)
    assert natural.grad is not None
    assert adversarial.grad is not None
    torch.testing.assert_close(natural.grad, expected / 16, rtol=0, atol=1e-14)
    torch.testing.assert_close(adversarial.grad, 6.0 * (q - p) / 16, rtol=0, atol=1e-14)


# Two huge logits: right on x, wrong on x̃; the reverse; right on both; wrong on both; nothing known of x.
HUGE = [
    ([1e4, -1e4], [-1e4, 1e4], 0, {"trades": 6 * 2e4, "mart": 4e4}),
    ([-1e4, 1e4], [1e4, -1e4], 0, {"trades": 2e4 + 6 * 2e4, "mart": 6 * 2e4}),
    ([1e4, -1e4], [1e4, -1e4], 0, {"trades": 0.0, "mart": 0.0}),
    ([-1e4, 1e4], [-1e4, 1e4], 0, {"trades": 2e4, "mart": 4e4}),
    (
        [1e4, 1e4],
        [-1e4, 1e4],
        0,
        {"trades": math.log(2) + 6 * (1e4 - math.log(2)), "mart": 4e4 + 3 * (1e4 - math.log(2))},
    ),
]


@pytest.mark.parametrize(("h", "h_adv", "y", "expected"), HUGE)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("defense", [TRADES(), MART()], ids=repr)
def test_huge_logits(
    h: list[float], h_adv: list[float], y: int, expected: dict[str, float], classes: int, defense: Defense
) -> None:
    """In float32; a third class, 2e4 below the lower of the two, changes nothing."""
    natural, adversarial = (torch.tensor([row + [-4e4] * (classes - 2)]) for row in (h, h_adv))
    natural.requires_grad_()
    adversarial.requires_grad_()
    loss = _sum(defense, torch.tensor([y]))(natural, adversarial)
    assert loss.item() == pytest.approx(expected[type(defense).__name__.lower()], rel=1e-6, abs=1e-6)
    loss.backward()
    for logits in (natural, adversarial):
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


def test_small_probabilities_do_not_cancel() -> None:
    """1 - p_0 is 1/(1 + e^20), which 1 minus a float32 softmax rounds to 0."""
    logits = torch.tensor([[20.0, 0.0], [0.0, 20.0], [0.0, 0.0]])
    log_p = log_complement(logits, torch.tensor([0, 0, 1])).tolist()
    assert log_p[0] == pytest.approx(-20.0, rel=1e-6)
    assert log_p[1] == pytest.approx(0.0, abs=1e-8)
    assert log_p[2] == pytest.approx(-math.log(2), rel=1e-6)


def test_divergence_has_a_direction_and_is_zero_between_equals() -> None:
    batch = _probabilities()
    assert kl_divergence(batch.x, batch.x_adv).tolist() == pytest.approx(KL, abs=1e-14)
    reverse = [_divergence(q, p) for p, q in zip(P, Q, strict=True)]
    assert kl_divergence(batch.x_adv, batch.x).tolist() == pytest.approx(reverse, abs=1e-14)
    logits = 30 * torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    assert (kl_divergence(logits, logits) == 0).all()


@pytest.mark.parametrize("defense", [TRADES(), NAMID(base=TRADES())], ids=repr)
def test_trades_climbs_the_divergence_from_fixed_natural_logits(defense: Defense) -> None:
    """Zero at x̃ = x, its slope in the logits p(x̃) - p(x), whatever the labels are."""
    model, x = small_model().eval(), images(6)
    natural, calls = model(x).detach(), 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    model.register_forward_hook(count)
    loss = defense.inner_loss(model, x, torch.zeros(6, dtype=torch.int64))
    assert (loss(natural) == 0).all()
    adversarial = 2 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    values = loss(adversarial.requires_grad_())
    p, q = _softmax(natural.tolist()), _softmax(adversarial.tolist())
    assert values.tolist() == pytest.approx([_divergence(a, b) for a, b in zip(p, q, strict=True)], rel=1e-5)
    values.sum().backward()
    assert adversarial.grad is not None
    slope = adversarial.detach().softmax(1) - natural.softmax(1)
    torch.testing.assert_close(adversarial.grad, slope, rtol=0, atol=1e-6)
    assert all(weight.grad is None for weight in model.parameters())
    assert calls == 1


@pytest.mark.parametrize("defense", [Standard(), MART(), WMIM(), NAMID(), NAMID(base=MART())], ids=repr)
def test_the_others_climb_the_log_odds(defense: Defense) -> None:
    """Of the true class 0 of two: its slope is the same at any scale of the logits."""
    loss = defense.inner_loss(nn.Identity(), NATURAL, Y)
    expected = [b - a for a, b in ADVERSARIAL.tolist()]
    assert loss(ADVERSARIAL).tolist() == pytest.approx(expected, abs=1e-6)
    wide = (1000 * ADVERSARIAL).requires_grad_()
    (slope,) = torch.autograd.grad(loss(wide).sum(), wide)
    assert slope.tolist() == [[-1.0, 1.0]] * len(wide)


def test_wmim_by_hand() -> None:
    """Estimates 3a + b of the adversarial logits (a, b): 1, 5, 1 and 6."""
    estimators = FixedStandard()
    batch = _batch(estimators)
    terms = WMIM(alpha=2.0).terms(batch)
    assert terms["mi"].item() == pytest.approx(-2.0 * 13 / 4, abs=1e-6)
    assert terms["adversarial"].item() == Standard().terms(batch)["adversarial"].item()
    ((inputs, h),) = estimators.calls
    assert inputs is batch.x_adv
    assert h is batch.adversarial_logits


def test_wmim_of_one_sample_is_standard() -> None:
    estimators = FixedStandard()
    batch = _given(NATURAL[:1], ADVERSARIAL[:1], Y[:1], estimators)
    terms = WMIM().terms(batch)
    assert terms["mi"].item() == 0
    assert terms["adversarial"].item() == Standard().terms(batch)["adversarial"].item()
    assert estimators.calls == []


def _cosine(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (a[0] * b[0] + a[1] * b[1]) / (math.hypot(*a) * math.hypot(*b))


# Selected samples 0 and 1. E_n(x) = (2, 3), E_n(x̃) = (0, 2), E_a(x) = (6, 9), E_a(x̃) = (4, 8).
COS_NATURAL = abs(1 - _cosine((0, 2), (2, 3)))
COS_ADVERSARIAL = abs(1 - _cosine((4, 8), (6, 9)))


def test_namid_equals_equations_8_and_9_by_hand() -> None:
    estimators = FixedEstimators()
    terms = NAMID(alpha=5.0, lam=0.1).terms(_batch(estimators))
    gap = ((4 - 0) + (8 - 2)) / 2
    expected = 5.0 * (COS_NATURAL + COS_ADVERSARIAL + 0.1 * gap)
    assert terms["mi"].item() == pytest.approx(expected, abs=1e-5)
    assert terms["adversarial"].item() == Standard().terms(_batch())["adversarial"].item()
    (_, natural_input), (_, noise_input) = estimators.calls
    assert natural_input.shape[0] == noise_input.shape[0] == 4  # the marginal is the whole batch
    assert (natural_input == 0.25).all()  # E_n is fed with x
    assert (noise_input == 0.5).all()  # E_a is fed with x̃ - x


@pytest.mark.parametrize(
    ("defense", "expected", "called"),
    [
        (NAMID(adversarial_mi=False), COS_NATURAL - 0.1 * (0 + 2) / 2, ["natural"]),
        (NAMID(natural_mi=False), COS_ADVERSARIAL + 0.1 * (4 + 8) / 2, ["adversarial"]),
        (NAMID(lam=0.0), COS_NATURAL + COS_ADVERSARIAL, ["natural", "adversarial"]),
    ],
    ids=["no adversarial MI", "no natural MI", "no lambda"],
)
def test_ablations_of_figure_5(defense: NAMID, expected: float, called: list[str]) -> None:
    """What is switched off vanishes from every part of equation 8 and is not computed."""
    estimators = FixedEstimators()
    terms = defense.terms(_batch(estimators))
    assert terms["mi"].item() == pytest.approx(5.0 * expected, abs=1e-5)
    assert [name for name, _ in estimators.calls] == called


def test_namid_without_any_mutual_information_is_refused() -> None:
    with pytest.raises(ValueError, match="without adversarial_mi and without natural_mi"):
        NAMID(adversarial_mi=False, natural_mi=False)


@pytest.mark.parametrize("base", [Standard(), TRADES(), MART(beta=2.0)], ids=repr)
def test_namid_adds_one_term_to_its_base(base: Defense) -> None:
    terms = NAMID(base=base).terms(_batch(FixedEstimators()))
    mi = terms.pop("mi")
    assert mi.item() == NAMID().terms(_batch(FixedEstimators()))["mi"].item()
    expected = {name: term.item() for name, term in base.terms(_batch()).items()}
    assert {name: term.item() for name, term in terms.items()} == expected


def test_namid_without_enough_selected_samples_is_its_base() -> None:
    natural = NATURAL.clone()
    natural[1] = torch.tensor([0.0, 1.0])  # one sample left
    estimators = FixedEstimators()
    terms = NAMID().terms(_batch(estimators, natural))
    assert terms["mi"].item() == 0
    assert estimators.calls == []
    torch.stack(list(terms.values())).sum().backward()


@pytest.mark.parametrize(("defense", "wrong"), [(NAMID(), FixedStandard), (WMIM(), FixedEstimators)])
def test_estimators_of_the_other_kind_are_refused(
    defense: Defense, wrong: Callable[[], MIEstimators | StandardMI]
) -> None:
    with pytest.raises(ValueError, match=rf"^{type(defense).__name__} needs the estimators"):
        defense.terms(_batch(wrong()))


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
