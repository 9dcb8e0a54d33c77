"""What the estimators learn, and their objectives against values computed by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from robustness_bench.defenses.mutual_information.bounds import (
    Bound,
    donsker_varadhan,
    info_nce,
    jensen_shannon,
    lower_bound,
)
from robustness_bench.defenses.mutual_information.estimator import (
    Apply,
    Estimator,
    MIEstimators,
    Objective,
    Scores,
    StandardMI,
    _adversarial_term,
    _natural_term,
    build_estimators,
    directly,
    select,
    unit,
)
from tests.support import images

BOUNDS: tuple[Bound, ...] = ("dv", "jsd", "infonce")
TEMPERATURE = 0.25


def _build(
    objective: Objective,
    bound: Bound = "dv",
    scores: Scores = "dot",
    classes: int = 2,
    units: int = 8,
    floor: bool = False,
) -> MIEstimators | StandardMI:
    """The same weights every time, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = build_estimators(
            1,
            classes,
            units=units,
            scores=scores,
            temperature=TEMPERATURE,
            bound=bound,
            objective=objective,
            floor=floor,
        )
    return built.eval()


BY_SCORES = {"dv": donsker_varadhan, "jsd": jensen_shannon, "infonce": info_nce}


def _outputs(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# ---- the networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("scores", ["dot", "cosine"])
def test_estimates_are_the_bound_of_the_two_networks(bound: Bound, scores: Scores) -> None:
    module = _build("standard", bound, scores, classes=3)
    assert isinstance(module, StandardMI)
    x, (h, h_adv) = images(5), _outputs(2, 5, 3)
    local = module.standard.local(x)
    assert local.shape == (5, 4, 8)
    for values, output in zip(module.standard(x, h, h_adv), (h, h_adv), strict=True):
        overall = module.standard.overall(output[:, :, None, None])[:, 0]
        if scores == "dot":
            assert torch.equal(values, lower_bound(overall, local, bound))
        else:
            cosines = functional.cosine_similarity(overall[:, None, None], local[None], dim=-1)
            expected = BY_SCORES[bound](cosines / TEMPERATURE)
            assert torch.allclose(values, expected, atol=1e-5)


def test_local_features_are_computed_once_for_several_outputs() -> None:
    module = _build("standard")
    assert isinstance(module, StandardMI)
    calls: list[int] = []
    module.standard.local.register_forward_hook(lambda *_: calls.append(1))
    assert len(module.standard(images(4), *_outputs(3, 4, 2))) == 3
    assert len(calls) == 1


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize(("scores", "error"), [("cosine", 0.02), ("dot", 0.2)])
def test_bfloat16_networks_stay_near_float32(bound: Bound, scores: Scores, error: float) -> None:
    """A score is at most 4 ("cosine") or, of vectors of length 8, 64 ("dot").

    bfloat16 rounds by up to 2⁻⁹ of a number, 0.008 of 4, 0.13 of 64.
    """
    module = _build("standard", bound, scores, classes=10, units=64)
    x, h = images(64), 3 * _outputs(64, 10)
    expected = module.measure(x, x, h, h)["standard_of_x"]
    with torch.autocast("cpu", torch.bfloat16):
        values = module.measure(x, x, h, h)["standard_of_x"]
    assert values.dtype == torch.float32
    assert (values - expected).abs().max() < error
    values.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


WILD: dict[str, Callable[[str, Tensor], Tensor]] = {
    "as drawn": lambda _, w: w,
    "huge": lambda _, w: 1e2 * torch.randn(w.shape),
    "huge gain and bias": lambda name, w: 1e30 * torch.randn(w.shape) if ".norm." in name else w,
    "tiny": lambda _, w: 1e-9 * torch.randn(w.shape),
    "zero": lambda _, w: torch.zeros_like(w),
    "all alike": lambda _, w: torch.full_like(w, 10.0),
}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("weights", WILD)
@pytest.mark.parametrize("training", [False, True])
def test_scores_are_cosines_over_the_temperature_whatever_the_weights(
    weights: str, precision: str, training: bool
) -> None:
    """So a Donsker–Varadhan estimate is at most 2 / τ. Features before LayerNorm are up to 1e18 here."""
    module = _build("standard", scores="cosine", classes=3, units=16).train(training)
    assert isinstance(module, StandardMI)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for name, weight in module.named_parameters():
            weight.copy_(WILD[weights](name, weight))
    x, h = images(9), 1e4 * _outputs(9, 3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        local, overall = module.standard.of_input(x), module.standard.of_output(h)
        (values,) = module.standard(x, h)
    scores = torch.einsum("iu,jlu->ijl", overall.double(), local.double()) / module.standard.divisor
    assert local.dtype == overall.dtype == values.dtype == torch.float32
    assert torch.isfinite(values).all()
    assert scores.abs().max() <= (1 + 1e-6) / TEMPERATURE
    assert values.abs().max() <= 2 * (1 + 1e-6) / TEMPERATURE
    if weights not in ("zero", "tiny"):
        assert (torch.linalg.vector_norm(local, dim=2) - 1).abs().max() < 1e-5


def test_scores_reach_what_bounds_them() -> None:
    """An output's vector against its own input's and against the opposite one."""
    vectors = unit(_outputs(5, 16))
    own = lower_bound(vectors, vectors[:, None], "infonce", divisor=0.1)
    assert (own - math.log(5)).abs().max() < 0.05
    assert torch.allclose((vectors @ -vectors.T).diagonal(), torch.tensor(-1.0))


def test_unit_vectors_of_any_length() -> None:
    directions = _outputs(4, 7).double()
    expected = directions / directions.norm(dim=1, keepdim=True)
    for length in (1e-3, 1.0, 1e10, 1e38):
        vectors = unit((length / 8 * directions).float())
        assert (vectors - expected).abs().max() < 1e-6
    assert torch.equal(unit(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert unit(torch.ones(1, 4, dtype=torch.bfloat16)).tolist() == [[0.5] * 4]
    assert torch.autograd.gradcheck(unit, (3 * directions).requires_grad_())
    assert torch.autograd.gradcheck(unit, (1e-2 * directions).requires_grad_(), eps=1e-9, atol=1e-3)


@pytest.mark.parametrize("scores", ["dot", "cosine"])
@pytest.mark.parametrize("objective", ["eq-5", "standard"])
@pytest.mark.parametrize("size", [1, 2, 5, 9, 20])
def test_measures_do_not_depend_on_how_many_go_through_a_network_at_once(
    objective: Objective, scores: Scores, size: int
) -> None:
    module = _build(objective, scores=scores, classes=3)
    x, x_adv, (h, h_adv) = images(9), images(9, seed=2), _outputs(2, 9, 3)
    largest = 0

    def split(network: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        nonlocal largest
        pieces = inputs.split(size)
        largest = max(largest, *map(len, pieces))
        return torch.cat([network(piece) for piece in pieces])

    with torch.no_grad():
        whole = module.measure(x, x_adv, h, h_adv)
        parts = module.measure(x, x_adv, h, h_adv, split)
    assert largest == min(size, 9)
    assert list(parts) == list(whole)
    for name, values in whole.items():
        assert torch.allclose(parts[name], values, atol=1e-4), name


def test_gradients_reach_every_weight_and_the_outputs() -> None:
    module = _build("author", classes=3)
    h = _outputs(6, 3).requires_grad_()
    torch.stack(list(module.measure(images(6), images(6, seed=2), h, h + 1).values())).sum().backward()
    assert h.grad is not None
    assert all(weight.grad is not None for weight in module.parameters())


# ---- what they learn -------------------------------------------------------------------------------


def _learned(bound: Bound, scores: Scores, dependent: bool) -> float:
    """The mean estimate of balanced, fresh images of 4 classes, which show their class or do not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Estimator(1, 4, 16, scores, bound, temperature=TEMPERATURE)
    generator = torch.Generator().manual_seed(0)

    def draw() -> tuple[Tensor, Tensor]:
        y = torch.arange(128) % 4
        x = 0.1 * torch.randn(128, 1, 8, 8, generator=generator)
        return x + dependent * y[:, None, None, None], 4 * functional.one_hot(y, 4).float()

    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        (values,) = module(*draw())
        (-values.mean()).backward()
        optimizer.step()
    with torch.no_grad():
        return float(module.eval()(*draw())[0].mean())


SAME = 31 / 127
"""How many of the others are of the same class."""
LARGEST = {
    "dv": -math.log(SAME),
    "infonce": math.log(4),
    "jsd": 2 * math.log(2) - math.log(1 + SAME) + SAME * math.log(SAME / (1 + SAME)),
}


@pytest.mark.parametrize("bound", BOUNDS)
def test_learns_dependence_up_to_what_there_is(bound: Bound) -> None:
    largest = LARGEST[bound]
    assert 0.9 * largest < _learned(bound, "dot", dependent=True) < largest + 0.01


@pytest.mark.parametrize("bound", BOUNDS)
def test_finds_none_in_noise(bound: Bound) -> None:
    assert abs(_learned(bound, "cosine", dependent=False)) < 0.05


# ---- objectives ------------------------------------------------------------------------------------

# Samples 0 and 1 are fooled, 2 is wrong on the natural image, 3 and 4 survive. The third logit, never the
# largest, tells the output: -(sample + 10) of h, -(sample + 20) of h̃.
Y = torch.tensor([0, 1, 0, 1, 0])
H = torch.tensor([[2.0, 0, -10], [0, 3, -11], [0, 1, -12], [0, 1, -13], [2, 1, -14]])
H_ADV = torch.tensor([[0.0, 2, -20], [1, 0, -21], [1, 0, -22], [0, 4, -23], [3, 1, -24]])
X = torch.arange(5.0)[:, None, None, None].expand(5, 1, 2, 2) / 10
X_ADV = X * 1.5 + 0.01
NOBODY_RIGHT = 1 - H.argmax(1)

ESTIMATES = {
    ("natural", "x", "h"): [1.0, 2.0, 9.0, 3.0, 4.0],
    ("natural", "x", "h_adv"): [2.0, 0.5, 7.0, 2.0, 1.0],
    ("adversarial", "x_adv - x", "h"): [0.5, 1.5, 8.0, 2.5, 3.0],
    ("adversarial", "x_adv - x", "h_adv"): [4.0, 3.0, 6.0, 1.0, 2.0],
    ("standard", "x", "h"): [1.0, 3.0, 5.0, 7.0, 9.0],
    ("standard", "x", "h_adv"): [0.0, 1.0, 0.0, 1.0, 0.0],
    ("standard", "x_adv", "h_adv"): [2.0, 2.0, 3.0, 4.0, 4.0],
}
INPUTS = {"x": X, "x_adv": X_ADV, "x_adv - x": X_ADV - X}


class Prepared:
    """Stands for an estimator's forward: looks the estimates up and keeps which samples it was given."""

    def __init__(self, name: str, estimates: dict[tuple[str, str, str], list[float]]) -> None:
        self.name, self.estimates = name, estimates
        self.samples: list[int] = []

    def __call__(self, inputs: Tensor, *logits: Tensor, apply: Apply = directly) -> tuple[Tensor, ...]:
        return tuple(self._look_up(inputs, -output[:, 2].long()) for output in logits)

    def _look_up(self, inputs: Tensor, tags: Tensor) -> Tensor:
        samples = tags % 10
        (kind,) = (kind for kind, images in INPUTS.items() if torch.equal(inputs, images[samples]))
        (output,) = {("h", "h_adv")[tag // 10 - 1] for tag in tags.tolist()}
        self.samples = samples.tolist()
        return torch.tensor(self.estimates[self.name, kind, output])[samples]


def _prepared(
    objective: Objective,
    estimates: dict[tuple[str, str, str], list[float]] | None = None,
    *,
    floor: bool = False,
) -> MIEstimators | StandardMI:
    """Estimators that give ESTIMATES, or the given ones."""
    module = _build(objective, classes=3, floor=floor)
    for name, child in module.named_children():
        child.forward = Prepared(name, estimates or ESTIMATES)
    return module


def _terms(
    objective: Objective, y: Tensor = Y, estimates: dict[tuple[str, str, str], list[float]] | None = None
) -> dict[str, float]:
    terms = _prepared(objective, estimates).terms(X, X_ADV, y, H, H_ADV)
    assert all(term.shape == () for term in terms.values())
    return {name: term.item() for name, term in terms.items()}


def _cosine(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (a[0] * b[0] + a[1] * b[1]) / (math.hypot(*a) * math.hypot(*b))


def test_equation_5_by_hand() -> None:
    expected = {"natural": ((2 - 1) + (0.5 - 2)) / 2, "adversarial": ((0.5 - 4) + (1.5 - 3)) / 2}
    assert _terms("eq-5") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("lift", "expected"), [(0.0, (2.5 / 2, 2.0 / 2)), (-1.25, (0.0, 0.0)), (-3.0, (0.0, 0.0))]
)
def test_the_floor_of_equation_5_by_hand(lift: float, expected: tuple[float, float]) -> None:
    """The subtracted means, 1.25 and 1 as given, count as 0 below 0; a single estimate below 0 does not."""
    lifted = {
        key: [v + lift if key[1:] in (("x", "h_adv"), ("x_adv - x", "h")) else v for v in values]
        for key, values in ESTIMATES.items()
    }
    terms = _prepared("eq-5", lifted, floor=True).terms(X, X_ADV, Y, H, H_ADV)
    assert terms["natural"].item() == pytest.approx(expected[0] - (1 + 2) / 2)
    assert terms["adversarial"].item() == pytest.approx(expected[1] - (4 + 3) / 2)
    plain = _prepared("eq-5", lifted).terms(X, X_ADV, Y, H, H_ADV)
    assert plain["natural"].item() == pytest.approx(1.25 + lift - (1 + 2) / 2)


def test_a_held_out_loss_is_that_of_the_batch_and_always_there() -> None:
    """Of measured estimates; where equation 6 selects nobody, "eq-5" takes all."""
    for objective in ("eq-5", "eq-4", "author", "standard"):
        module = _prepared(objective)
        measured = module.measure(X, X_ADV, H, H_ADV)
        assert module.loss(measured, Y, H, H_ADV) == module.terms(X, X_ADV, Y, H, H_ADV)
        assert module.loss(measured, NOBODY_RIGHT, H, H_ADV)
    module = _prepared("eq-5")
    terms = module.loss(module.measure(X, X_ADV, H, H_ADV), NOBODY_RIGHT, H, H_ADV)
    assert terms["natural"].item() == pytest.approx((12.5 - 19) / 5)
    assert terms["adversarial"].item() == pytest.approx((15.5 - 16) / 5, abs=1e-6)


def test_equation_4_by_hand() -> None:
    expected = {"natural": -(1 + 2 + 9 + 3 + 4) / 5, "adversarial": -(4 + 3 + 6 + 1 + 2) / 5}
    assert _terms("eq-4") == pytest.approx(expected, abs=1e-6)


def test_standard_by_hand() -> None:
    assert _terms("standard") == pytest.approx({"standard": -(2 + 2 + 3 + 4 + 4) / 5}, abs=1e-6)


def test_author_by_hand() -> None:
    """W = samples 0 and 1, S = 3 and 4, R all four of them."""
    natural_w = 5.0 * abs(_cosine((1, 2), (2, 0.5))) - (1 + 2) / 4
    natural_s = 5.0 * abs(1 - _cosine((3, 4), (2, 1))) - (3 + 4) / 4
    adversarial_w = 5.0 * abs(_cosine((4, 3), (0.5, 1.5))) - (4 + 3) / 2
    adversarial_s = 8.0 * abs(1 - _cosine((2.5, 3), (1, 2))) + 0.1 * (1 + 2) / 2
    expected = {
        "natural": natural_w + 0.5 * natural_s,
        "adversarial": adversarial_w + 0.5 * adversarial_s,
    }
    assert _terms("author") == pytest.approx(expected, abs=1e-5)


def test_author_takes_the_absolute_value_of_the_cosine() -> None:
    flipped = {key: [-v if key[2] == "h" else v for v in values] for key, values in ESTIMATES.items()}
    natural_w = 5.0 * abs(_cosine((1, 2), (2, 0.5))) + (1 + 2) / 4
    natural_s = 5.0 * (1 + _cosine((3, 4), (2, 1))) + (3 + 4) / 4
    terms = _terms("author", estimates=flipped)
    assert terms["natural"] == pytest.approx(natural_w + 0.5 * natural_s, abs=1e-5)


def test_author_with_an_empty_subset() -> None:
    fooled = torch.tensor([0, 1, 0, 0, 1])  # labels with which 3 and 4 are never right
    assert _terms("author", fooled) == pytest.approx(
        {
            "natural": 5.0 * _cosine((1, 2), (2, 0.5)) - (1 + 2) / 2,
            "adversarial": 5.0 * _cosine((4, 3), (0.5, 1.5)) - (4 + 3) / 2,
        },
        abs=1e-5,
    )
    survived = torch.tensor([1, 0, 0, 1, 0])  # labels with which 0 and 1 are never right
    assert _terms("author", survived) == pytest.approx(
        {
            "natural": 0.5 * (5.0 * (1 - _cosine((3, 4), (2, 1))) - (3 + 4) / 2),
            "adversarial": 0.5 * (8.0 * (1 - _cosine((2.5, 3), (1, 2))) + 0.1 * (1 + 2) / 2),
        },
        abs=1e-5,
    )


def test_author_without_a_natural_image_that_is_right() -> None:
    expected = {"natural": -(1 + 2 + 9 + 3 + 4) / 5, "adversarial": -(4 + 3 + 6 + 1 + 2) / 5}
    assert _terms("author", NOBODY_RIGHT) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("objective", ["eq-5", "eq-4", "author", "standard"])
def test_the_marginal_is_the_whole_batch(objective: Objective) -> None:
    module = _prepared(objective)
    module.terms(X, X_ADV, Y, H, H_ADV)
    for child in module.children():
        assert isinstance(child.forward, Prepared)
        assert child.forward.samples == list(range(5))


def test_equation_5_without_two_samples_has_no_terms() -> None:
    assert _terms("eq-5", NOBODY_RIGHT) == {}
    assert _terms("eq-5", torch.tensor([0, 0, 0, 1, 0])) == {}


@pytest.mark.parametrize("objective", ["eq-5", "eq-4", "author", "standard"])
def test_a_batch_of_one_has_no_terms(objective: Objective) -> None:
    assert _prepared(objective).terms(X[:1], X_ADV[:1], Y[:1], H[:1], H_ADV[:1]) == {}


@pytest.mark.parametrize("objective", ["eq-5", "eq-4", "author"])
def test_measures_of_both_patterns(objective: Objective) -> None:
    measured = _prepared(objective).measure(X, X_ADV, H, H_ADV)
    assert {name: values.tolist() for name, values in measured.items()} == {
        "natural_of_x": ESTIMATES["natural", "x", "h"],
        "natural_of_x_adv": ESTIMATES["natural", "x", "h_adv"],
        "adversarial_of_x": ESTIMATES["adversarial", "x_adv - x", "h"],
        "adversarial_of_x_adv": ESTIMATES["adversarial", "x_adv - x", "h_adv"],
    }


def test_measures_of_the_standard_information() -> None:
    measured = _prepared("standard").measure(X, X_ADV, H, H_ADV)
    assert {name: values.tolist() for name, values in measured.items()} == {
        "standard_of_x": ESTIMATES["standard", "x", "h"],
        "standard_of_x_adv": ESTIMATES["standard", "x_adv", "h_adv"],
        "standard_across": ESTIMATES["standard", "x", "h_adv"],
    }


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_author_is_finite_for_constant_estimates(value: float) -> None:
    fooled, survived = select(H, H_ADV, Y), (H.argmax(1) == Y) & (H_ADV.argmax(1) == Y)
    for term in (_natural_term, _adversarial_term):
        estimates = torch.full((2, 5), value, requires_grad=True)
        loss = term(estimates[0], estimates[1], fooled, survived)
        (gradient,) = torch.autograd.grad(loss, estimates)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("objective", ["eq-5", "eq-4", "author", "standard"])
def test_training_on_constant_images_is_finite(objective: Objective) -> None:
    module = _build(objective, classes=3).train()
    x = torch.full((5, 1, 8, 8), 0.5)
    terms = module.terms(x, x, Y, H, H_ADV)
    torch.stack(list(terms.values())).sum().backward()
    for weight in module.parameters():
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()


def test_build_gives_what_was_asked_for() -> None:
    for objective in ("eq-5", "eq-4", "author"):
        module = _build(objective, "jsd", "cosine")
        assert isinstance(module, MIEstimators)
        assert module.objective == objective
        for child in (module.natural, module.adversarial):
            assert (child.bound, child.scores, child.divisor) == ("jsd", "cosine", TEMPERATURE)
    standard = _build("standard", "infonce", "dot")
    assert isinstance(standard, StandardMI)
    assert (standard.standard.bound, standard.standard.scores) == ("infonce", "dot")
    assert standard.standard.divisor == 1
