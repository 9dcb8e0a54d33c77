"""The loops of Carlini and Wagner and EAD, against closed forms, by hand and against foolbox."""

import copy
import dataclasses
import math
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustness_bench.attacks.base import Counted, Outcome, frozen
from robustness_bench.attacks.constant_search import ConstantSearch, ConstantSearchAttack, Nearest
from robustness_bench.attacks.cw import CW
from robustness_bench.attacks.ead import EAD, shrink
from robustness_bench.attacks.foolbox import DDN
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.losses import margin
from robustness_bench.attacks.numerics.noise import Noise
from tests.support import Constant, Linear, images, small_model

QUICK: dict[str, Any] = {"search_steps": 5, "steps": 60, "initial_const": 0.1}
QUICK_CW, QUICK_EAD = CW(**QUICK, step_size=0.03), EAD(**QUICK)
both_attacks = pytest.mark.parametrize("attack", [QUICK_CW, QUICK_EAD], ids=["cw", "ead"])


class Problem(NamedTuple):
    model: nn.Module
    x: Tensor
    y: Tensor


@pytest.fixture(scope="module")
def digits() -> Problem:
    """A small trained network and 16 test digits that it classifies correctly, in grey levels 0.1 to 0.9:
    in few steps CW cannot leave exactly 0 or 1, where tanh is flat."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    x = 0.1 + 0.8 * torch.tensor(loaded.images / 16.0, dtype=torch.float32)[:, None]
    y = torch.tensor(loaded.target, dtype=torch.int64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(200):
            rows = torch.randint(0, 1500, (64,))
            optimizer.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    model.eval().requires_grad_(False)
    x, y = x[1500:], y[1500:]
    right = model(x).argmax(1) == y
    assert right.float().mean() > 0.85
    return Problem(model, x[right][:16], y[right][:16])


def margins(problem: Problem, x_adv: Tensor) -> Tensor:
    return margin(problem.model(x_adv), problem.y).detach()


def l1(delta: Tensor) -> Tensor:
    return delta.flatten(1).abs().sum(1)


def elastic(delta: Tensor, beta: float = 0.1) -> Tensor:
    return delta.flatten(1).square().sum(1) + beta * l1(delta)


def measured(attack: ConstantSearchAttack, delta: Tensor) -> Tensor:
    """What the attack makes small."""
    if isinstance(attack, EAD):
        return l1(delta) if attack.rule == "l1" else elastic(delta, attack.beta)
    return geometry.size(delta, "l2")


def counted(attack: ConstantSearchAttack, problem: Problem) -> tuple[Tensor, int, int]:
    """What ``perturb`` returns, and the forward and backward passes of single samples it takes."""
    model = Counted(problem.model)
    with frozen(model):
        x_adv = attack.perturb(model, problem.x, problem.y, Noise(problem.y))
    return x_adv, model.forwards, model.backwards


# The parts, by hand.


def test_margin_is_the_lead_of_the_best_other_class() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [5.0, 5.0, 0.0]])
    y = torch.tensor([0, 2, 1])
    assert margin(logits, y).tolist() == [-1.0, 1.0, 0.0]


def test_margin_has_the_gradient_of_one_difference() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(margin(logits, torch.tensor([0])).sum(), logits)
    assert gradient[0, 0] == -1
    assert gradient[0, 1] == 0
    assert sorted(gradient[0, 2:].tolist()) == [0.0, 1.0]


def test_constant_grows_tenfold_until_a_success_and_is_bisected_from_then_on() -> None:
    """Two samples side by side: what happens to one does not move the other."""
    search = ConstantSearch.start(1.0, torch.zeros(2, 3))
    tried = [search.c.tolist()]
    for success in ([False, True], [True, True], [False, False], [True, False]):
        search = search.after(torch.tensor(success))
        tried.append(search.c.tolist())
    assert [c for c, _ in tried] == [1.0, 10.0, 5.5, 7.75, 6.625]
    assert [c for _, c in tried] == [1.0, 0.5, 0.25, 0.375, 0.4375]


def test_constant_stays_finite() -> None:
    search = ConstantSearch.start(1e-3, torch.zeros(1))
    for _ in range(60):
        search = search.after(torch.tensor([False]))
    assert search.c == 1e10


def test_shrinkage_moves_towards_x_by_beta_and_stays_in_the_box() -> None:
    x = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.9, 0.1, 0.0])
    moved = torch.tensor([0.9, 0.58, 0.42, 0.1, 1.7, -0.7, -0.05])
    wanted = torch.tensor([0.8, 0.5, 0.5, 0.2, 1.0, 0.0, 0.0])
    assert torch.allclose(shrink(moved, x, 0.1), wanted)


def test_nearest_keeps_the_nearest_success_and_nothing_else() -> None:
    x = torch.zeros(3, 1, 1, 1)
    nearest = Nearest(x)
    rows, yes = torch.tensor([0, 2]), torch.tensor([True, True])
    nearest.offer(rows, torch.full((2, 1, 1, 1), 0.5), torch.tensor([5.0, 5.0]), torch.tensor([True, False]))
    nearest.offer(rows, torch.full((2, 1, 1, 1), 0.7), torch.tensor([7.0, 7.0]), yes)
    nearest.offer(rows, torch.full((2, 1, 1, 1), 0.1), torch.tensor([1.0, 1.0]), ~yes)
    assert nearest.images.flatten().tolist() == pytest.approx([0.5, 0.0, 0.7])
    assert nearest.distance.tolist() == [5.0, math.inf, 7.0]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"search_steps": 0}, "search_steps must be at least 1, got 0"),
        ({"step_size": 0.0}, "step_size must be positive and finite, got 0.0"),
        ({"initial_const": math.inf}, "initial_const must be positive and finite, got inf"),
        ({"confidence": -1.0}, "confidence must be at least 0 and finite, got -1.0"),
        ({"confidence": math.nan}, "confidence must be at least 0 and finite, got nan"),
        ({"norm": "linf"}, "works in"),
    ],
)
@pytest.mark.parametrize("kind", [CW, EAD])
def test_a_wrong_value_is_named(kind: type[ConstantSearchAttack], wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        kind(**wrong)


@pytest.mark.parametrize(
    ("wrong", "named"), [({"beta": -0.1}, "beta .* -0.1"), ({"rule": "l2"}, "rule .* 'l2'")]
)
def test_a_wrong_value_of_ead_is_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        EAD(**wrong)


# What is kept.


@both_attacks
@pytest.mark.parametrize("confidence", [0.0, 5.0])
def test_every_success_exceeds_the_confidence_and_every_failure_is_the_natural_image(
    attack: ConstantSearchAttack, confidence: float, digits: Problem
) -> None:
    attack = dataclasses.replace(attack, confidence=confidence)
    outcome = attack(*digits)
    fooled = outcome.prediction != digits.y
    assert fooled.sum() >= 12
    assert margins(digits, outcome.x_adv)[fooled].min() > confidence
    assert torch.equal(outcome.x_adv[~fooled], digits.x[~fooled])
    assert outcome.x_adv.min() >= 0
    assert outcome.x_adv.max() <= 1


@both_attacks
def test_too_few_steps_fail_on_some_samples_and_keep_those_natural(
    attack: ConstantSearchAttack, digits: Problem
) -> None:
    """``perturb`` itself, before any judge: what does not exceed κ is the input, bit by bit."""
    short = dataclasses.replace(attack, search_steps=3, steps=20, confidence=8.0)
    x_adv = short.perturb(*digits, Noise(digits.y))
    reached = margins(digits, x_adv) > 8
    assert reached.any()
    assert not reached.all()
    assert torch.equal(x_adv[~reached], digits.x[~reached])


@both_attacks
def test_a_model_that_misclassifies_only_black_is_not_fooled(attack: ConstantSearchAttack) -> None:
    class OnlyBlackFalls(Linear):
        def forward(self, x: Tensor) -> Tensor:
            dark = (x.flatten(1).sum(1) < 1e-3).float()
            return torch.stack([1 - dark, dark, 0 * dark, 0 * dark], 1) + 0.0 * super().forward(x)[:, :4]

    x, y = images(3), torch.zeros(3, dtype=torch.int64)
    for model in (OnlyBlackFalls((1, 8, 8)), Constant()):
        outcome = attack(model, x, y, goal="transfer")
        assert torch.equal(outcome.x_adv, x)
        assert outcome.distance.tolist() == [0, 0, 0]


@both_attacks
def test_a_tie_is_no_success(attack: ConstantSearchAttack) -> None:
    """The other class catches up and never overtakes: no margin exceeds κ = 0."""

    class CatchesUp(Linear):
        def forward(self, x: Tensor) -> Tensor:
            lead = super().forward(x)[:, :1].clamp_max(0.0)
            return torch.cat([torch.zeros_like(lead), lead], 1)

    model, x = CatchesUp().requires_grad_(False), images(3, size=6)
    model.bias.sub_(Linear.forward(model, x).max() + 0.5)
    y, leads = torch.zeros(3, dtype=torch.int64), []
    model.register_forward_hook(lambda _, __, logits: leads.append(logits[:, 1].max().item()))
    assert torch.equal(attack.perturb(model, x, y, Noise(y)), x)
    assert max(leads) == 0


class Witness(nn.Module):
    """Remembers the nearest images with margin above κ among those shown without asking for a gradient
    (``judged_only``) or among all, by every measure."""

    def __init__(self, problem: Problem, confidence: float, judged_only: bool) -> None:
        super().__init__()
        self.problem, self.confidence, self.judged_only = problem, confidence, judged_only
        self.nearest = {"l2": math.inf, "l1": math.inf, "en": math.inf}

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.problem.model(x)
        if not (self.judged_only and x.requires_grad) and (margin(logits, self.problem.y) > self.confidence):
            delta = x.detach() - self.problem.x
            for name, value in (("l2", delta.norm()), ("l1", l1(delta)), ("en", elastic(delta))):
                self.nearest[name] = min(self.nearest[name], value.item())
        return logits


@pytest.mark.parametrize("row", [0, 7, 15])
@pytest.mark.parametrize("confidence", [0.0, 2.0])
def test_nothing_nearer_was_ever_shown_to_the_model(row: int, confidence: float, digits: Problem) -> None:
    """Every iterate of every search step counts, and the image kept is the very one judged."""
    one = Problem(digits.model, digits.x[row : row + 1], digits.y[row : row + 1])
    witness = Witness(one, confidence, judged_only=False)
    cw = dataclasses.replace(QUICK_CW, confidence=confidence).perturb(witness, one.x, one.y, Noise(one.y))
    assert (cw - one.x).norm().item() == pytest.approx(witness.nearest["l2"], rel=1e-5)

    witness = Witness(one, confidence, judged_only=True)
    ead = dataclasses.replace(QUICK_EAD, confidence=confidence).perturb_all(
        witness, one.x, one.y, Noise(one.y)
    )
    assert elastic(ead["en"] - one.x).item() == pytest.approx(witness.nearest["en"], rel=1e-5)
    assert l1(ead["l1"] - one.x).item() == pytest.approx(witness.nearest["l1"], rel=1e-5)
    for x_adv in (cw, *ead.values()):
        assert margins(one, x_adv) > confidence


@pytest.mark.parametrize("abort_early", [False, True])
@both_attacks
def test_a_batch_gives_what_its_samples_give_alone(
    attack: ConstantSearchAttack, abort_early: bool, digits: Problem
) -> None:
    """Images and work: nothing a sample does may depend on its neighbours."""
    attack = dataclasses.replace(attack, abort_early=abort_early, confidence=1.0)
    model = copy.deepcopy(digits.model).double()  # where a batch rounds as its samples alone do
    x, y = digits.x[:4].double(), digits.y[:4]
    whole, forwards, backwards = counted(attack, Problem(model, x, y))
    alone = [counted(attack, Problem(model, x[i : i + 1], y[i : i + 1])) for i in range(4)]
    assert torch.allclose(whole, torch.cat([x_adv for x_adv, _, _ in alone]), atol=1e-6)
    assert forwards == sum(n for _, n, _ in alone)
    assert backwards == sum(n for _, _, n in alone)
    if abort_early:
        assert len({n for _, _, n in alone}) > 1, "samples must differ in when they stall"


def test_one_run_of_ead_serves_both_rules(digits: Problem) -> None:
    attack = QUICK_EAD
    found = attack.perturb_all(*digits, Noise(digits.y))
    assert tuple(found) == EAD.rules
    for rule in ("en", "l1"):
        alone = dataclasses.replace(attack, rule=rule).perturb(*digits, Noise(digits.y))
        assert torch.equal(found[rule], alone)
    en, least = found["en"] - digits.x, found["l1"] - digits.x
    assert (l1(least) <= l1(en)).all()
    assert (elastic(en) <= elastic(least)).all()
    assert l1(least).sum() < 0.99 * l1(en).sum()
    assert elastic(en).sum() < 0.99 * elastic(least).sum()


@both_attacks
def test_transfer_keeps_a_sample_the_surrogate_misses_anyway(
    attack: ConstantSearchAttack, digits: Problem
) -> None:
    """Nothing to do at κ = 0; above it the margin is reached all the same."""
    y = digits.model(digits.x).argsort(1)[:, -2]  # the runner-up, so that every image is misclassified
    outcome = attack(digits.model, digits.x, y, goal="transfer")
    assert outcome.distance.max() < 1e-4
    sure = dataclasses.replace(attack, confidence=9.0)
    x_adv = sure(digits.model, digits.x, y, goal="transfer").x_adv
    reached = margin(digits.model(x_adv), y) > 9
    assert reached.float().mean() > 0.8
    assert torch.equal(x_adv[~reached], digits.x[~reached])


# How near it comes.


@pytest.fixture(scope="module")
def linear() -> Problem:
    """Near mid-grey, and near enough to the boundary that one pixel can reach it inside the box."""
    model = Linear(classes=5).requires_grad_(False)
    model.bias[1] -= 2.4  # all samples are of class 1
    x = 0.5 + 0.1 * (images(8, size=6) - 0.5)
    return Problem(model, x, model(x).argmax(1))


def l1_boundary(model: Linear, x: Tensor) -> Tensor:
    """L1 distance to the nearest other class, the dual norm being L∞: (N,)."""
    logits = model(x)
    y, rows = logits.argmax(1), torch.arange(len(x))
    lengths = (model.weight[y][:, None] - model.weight[None]).abs().amax(2)
    ratios = (logits[rows, y][:, None] - logits) / lengths
    ratios[rows, y] = torch.inf
    nearest: Tensor = ratios.min(1).values.detach()
    return nearest


def test_cw_comes_within_a_hundredth_of_the_boundary_of_a_linear_model(linear: Problem) -> None:
    assert isinstance(linear.model, Linear)
    outcome = CW(steps=150, initial_const=0.1)(*linear)
    assert (outcome.prediction != linear.y).all()
    ratio = outcome.distance / linear.model.boundary(linear.x, "l2")
    assert ratio.min() >= 1 - 1e-4
    assert ratio.max() <= 1.01


def test_ead_comes_within_a_tenth_of_the_l1_boundary_of_a_linear_model(linear: Problem) -> None:
    """The L1 rule at the usual β; in the mean within a twentieth."""
    assert isinstance(linear.model, Linear)
    outcome = EAD(steps=200, initial_const=0.1, rule="l1")(*linear)
    assert (outcome.prediction != linear.y).all()
    distance = l1_boundary(linear.model, linear.x)
    assert distance.max() < 0.45, "the box must not bind"
    ratio = l1(outcome.x_adv - linear.x) / distance
    assert ratio.min() >= 1 - 1e-4
    assert ratio.max() <= 1.10
    assert ratio.mean() <= 1.05


def test_ead_without_l1_is_near_cw(digits: Problem) -> None:
    """The same objective by another optimiser: mean L2 within 3 %."""
    cw = dataclasses.replace(QUICK_CW, steps=150)(*digits)
    ead = dataclasses.replace(QUICK_EAD, steps=150, beta=0.0)(*digits)
    assert (cw.prediction != digits.y).all()
    assert (ead.prediction != digits.y).all()
    assert ead.distance.mean().item() == pytest.approx(cw.distance.mean().item(), rel=0.03)


@both_attacks
def test_distance_grows_with_the_confidence(attack: ConstantSearchAttack, digits: Problem) -> None:
    easy = Problem(digits.model, digits.x[:8], digits.y[:8])
    distances = []
    for confidence in (0.0, 1.0, 2.0, 4.0):
        outcome = dataclasses.replace(attack, confidence=confidence)(*easy)
        assert (outcome.prediction != easy.y).all()
        distances.append(outcome.distance)
    for less, more in pairwise(distances):
        assert more.mean() > 1.02 * less.mean()


def foolbox_images(attack: ConstantSearchAttack, problem: Problem) -> Tensor:
    """What foolbox makes with the same settings."""
    import foolbox

    same: dict[str, Any] = {
        "binary_search_steps": attack.search_steps,
        "steps": attack.steps,
        "confidence": attack.confidence,
        "initial_const": attack.initial_const,
        "abort_early": False,
    }
    library: Any = foolbox.attacks.L2CarliniWagnerAttack(**same, stepsize=attack.step_size)
    if isinstance(attack, EAD):
        same |= {"regularization": attack.beta, "decision_rule": attack.rule.upper()}
        library = foolbox.attacks.EADAttack(**same, initial_stepsize=attack.step_size)
    wrapped = foolbox.PyTorchModel(problem.model, bounds=(0.0, 1.0), device="cpu")
    found: Tensor = library.run(wrapped, problem.x, foolbox.criteria.Misclassification(problem.y))
    return found.detach()


@pytest.mark.parametrize("confidence", [0.0, 5.0])
@pytest.mark.parametrize(
    "attack", [QUICK_CW, QUICK_EAD, dataclasses.replace(QUICK_EAD, rule="l1")], ids=["cw", "ead-en", "ead-l1"]
)
def test_agrees_with_foolbox(attack: ConstantSearchAttack, confidence: float, digits: Problem) -> None:
    """Same samples broken and the same size of each to 1 %, where foolbox did not just return black."""
    attack = dataclasses.replace(attack, confidence=confidence, abort_early=False)
    theirs = foolbox_images(attack, digits)
    black = (theirs == 0).flatten(1).all(1)
    succeeded = (margins(digits, theirs) > confidence) & ~black
    ours = attack(*digits).x_adv
    assert torch.equal(margins(digits, ours) > confidence, succeeded)
    assert succeeded.sum() >= 10
    ratio = (measured(attack, ours - digits.x) / measured(attack, theirs - digits.x))[succeeded]
    assert ratio.mean().item() == pytest.approx(1.0, abs=0.002)
    assert ratio.min() > 0.99
    assert ratio.max() < 1.01


# What it costs.


@both_attacks
def test_aborting_early_saves_passes_and_loses_little(attack: ConstantSearchAttack, digits: Problem) -> None:
    def run(abort_early: bool) -> Outcome:
        return dataclasses.replace(attack, steps=150, abort_early=abort_early)(*digits)

    full, aborted = run(False), run(True)
    assert (aborted.prediction != digits.y).all()
    assert aborted.forwards < 0.8 * full.forwards
    assert aborted.backwards < 0.8 * full.backwards
    assert aborted.distance.mean() < 1.03 * full.distance.mean()
    assert l1(aborted.x_adv - digits.x).mean() < 1.03 * l1(full.x_adv - digits.x).mean()


@both_attacks
def test_passes_bounds_the_work(attack: ConstantSearchAttack) -> None:
    """Reached by CW on a sample that never stalls; EAD leaves out what cannot matter."""
    attack = dataclasses.replace(attack, abort_early=False, steps=7, initial_const=1e4, confidence=1e6)
    model, x = small_model().eval(), images(4)
    x_adv, forwards, backwards = counted(attack, Problem(model, x, model(x).argmax(1)))
    most = tuple(4 * passes for passes in attack.passes(5))
    assert torch.equal(x_adv, x)
    assert (forwards, backwards) == most


def test_ead_spends_one_step_on_a_constant_too_small_to_leave_x(linear: Problem) -> None:
    """At c = 1e-3 no gradient step is longer than β: the sample cannot move, however many steps follow."""
    x_adv, forwards, backwards = counted(EAD(search_steps=1, steps=500), linear)
    assert torch.equal(x_adv, linear.x)
    assert (forwards, backwards) == (2 * len(x_adv), len(x_adv))


def test_ead_judges_what_comes_no_nearer_only_until_the_first_success(digits: Problem) -> None:
    _, forwards, backwards = counted(QUICK_EAD, digits)
    assert forwards < 2 * backwards


# The warm start, and leaving once settled.

WARM: dict[str, Any] = {"warm_steps": 40, "settled": 0.005}
WARM_CW = CW(steps=100, **WARM)
WARM_EAD = EAD(steps=100, **WARM)
both_warm = pytest.mark.parametrize("attack", [WARM_CW, WARM_EAD], ids=["cw", "ead"])


def as_published(attack: ConstantSearchAttack, **changes: Any) -> ConstantSearchAttack:
    return dataclasses.replace(attack, warm_steps=0, settled=0.0, **changes)


@both_warm
def test_a_warm_start_finds_as_near_images_for_an_eighth(
    attack: ConstantSearchAttack, digits: Problem
) -> None:
    """Than nine searches of 400 steps as published, of which foolbox's are no other."""
    long = as_published(attack, steps=400)
    for rule, published in long.run(*digits).items():
        by_rule = attack
        if isinstance(attack, EAD):
            by_rule = dataclasses.replace(attack, rule="l1" if rule == "l1" else "en")
        warm = by_rule(*digits)
        assert (warm.prediction != digits.y).all()
        theirs, ours = (measured(by_rule, each.x_adv - digits.x).median() for each in (published, warm))
        assert ours <= 1.01 * theirs
        assert warm.forwards + warm.backwards <= sum(long.passes(10)) / 8


@pytest.mark.parametrize("attack", [WARM_CW, dataclasses.replace(WARM_EAD, rule="l1")], ids=["cw", "ead-l1"])
def test_nothing_is_farther_than_the_quick_member_s_image(
    attack: ConstantSearchAttack, digits: Problem
) -> None:
    """In what the attack makes small; nearer for most."""
    with frozen(digits.model):
        quick = DDN(steps=40).perturb(digits.model, digits.x, digits.y, noise_of(digits, attack))
    assert (margins(digits, quick) > 0).all()
    before, after = measured(attack, quick - digits.x), measured(attack, attack(*digits).x_adv - digits.x)
    assert (after <= before * (1 + 1e-6)).all()
    assert (after < 0.99 * before).sum() >= len(after) / 2


def noise_of(problem: Problem, attack: ConstantSearchAttack) -> Noise:
    return Noise.for_samples(torch.arange(len(problem.y)), 0, attack.stream)


@both_warm
def test_where_the_quick_member_finds_nothing_the_search_is_the_published_one(
    attack: ConstantSearchAttack,
) -> None:
    model, x = Rounded(), images(6, size=6)
    y = model(x).argmax(1)
    attack = dataclasses.replace(attack, search_steps=3, steps=15, initial_const=5.0)
    warm, forwards, backwards = counted(attack, Problem(model, x, y))
    plain, least, fewest = counted(as_published(attack), Problem(model, x, y))
    assert torch.equal(warm, plain)
    assert (forwards - least, backwards - fewest) == (6 * 41, 6 * 41)


class Rounded(nn.Module):
    """No gradient at all."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = (4.0 * x.detach()).round().flatten(1)[:, :5]
        return logits


@both_attacks
def test_a_sample_leaves_once_its_search_has_settled(attack: ConstantSearchAttack, digits: Problem) -> None:
    """And each on its own: together they take the passes that they take one by one."""
    settling = dataclasses.replace(attack, search_steps=8, settled=0.02, abort_early=False)
    never = dataclasses.replace(settling, settled=0.0)
    digits = Problem(digits.model, digits.x[:6], digits.y[:6])
    alone = [
        counted(settling, Problem(digits.model, digits.x[i : i + 1], digits.y[i : i + 1]))[2]
        for i in range(len(digits.y))
    ]
    x_adv, _, together = counted(settling, digits)
    assert sum(alone) == pytest.approx(together, rel=0.02)
    assert len(set(alone)) > 1
    whole, _, backwards = counted(never, digits)
    assert together < 0.9 * backwards
    assert (margins(digits, x_adv) > 0).sum() == (margins(digits, whole) > 0).sum()
    assert measured(attack, x_adv - digits.x).median() <= 1.05 * measured(attack, whole - digits.x).median()


def test_a_value_of_c_gains_where_it_brings_an_image_nearer_by_enough() -> None:
    attack = CW(settled=0.1)
    before = torch.tensor([1.0, 1.0, math.inf, math.inf])
    after = torch.tensor([0.95, 0.85, 2.0, math.inf])
    assert attack.gains(before, after).tolist() == [False, True, True, False]


def test_a_warm_search_starts_short_of_the_image_with_twice_its_constant(linear: Problem) -> None:
    """On the boundary of a linear model 2 δ = c w, w its normal."""
    attack = CW(warm_steps=200)
    with frozen(linear.model):
        start, found, lead, search = attack.begun(linear.model, *linear[1:], noise_of(linear, attack))
    delta = found - linear.x
    assert (lead > 0).all()
    assert torch.allclose(start, linear.x + 0.9 * delta)
    logits = linear.model(found)
    order = logits.detach().argsort(1, descending=True)
    assert isinstance(linear.model, Linear)
    normals = linear.model.weight[order[:, 0]] - linear.model.weight[linear.y]
    assert torch.allclose(search.c, 4 * delta.flatten(1).norm(dim=1) / normals.norm(dim=1), rtol=1e-3)


@pytest.mark.parametrize("wrong", [{"warm_steps": -1}, {"settled": 1.0}, {"settled": -0.1}])
def test_a_wrong_warm_start_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="warm_steps must be at least 0 and settled in"):
        CW(**wrong)


# Awkward input.


@both_attacks
def test_pixels_of_exactly_0_and_1_move(attack: ConstantSearchAttack) -> None:
    """Where tanh is flat: no NaN, nothing outside the box, and a success all the same."""
    x = torch.stack([torch.zeros(1, 6, 6), torch.ones(1, 6, 6), images(1, size=6)[0].round()])
    model = Linear(classes=5)
    y = model(x).argmax(1)
    outcome = dataclasses.replace(attack, step_size=0.05, steps=200, abort_early=False)(model, x, y)
    assert torch.isfinite(outcome.x_adv).all()
    assert (outcome.prediction != y).all()


@both_attacks
def test_an_empty_batch_gives_an_empty_batch(attack: ConstantSearchAttack, digits: Problem) -> None:
    with frozen(digits.model):
        x_adv = attack.perturb(digits.model, digits.x[:0], digits.y[:0], Noise(digits.y[:0]))
    assert x_adv.shape == digits.x[:0].shape
