"""Each attack against an oracle: on a linear model the nearest other class is known in closed form."""

import dataclasses
from typing import get_args

import pytest
import torch
from torch import Tensor

from robustness_bench.attacks.autoattack import _MEMBERS, AutoAttack, ranked
from robustness_bench.attacks.base import Attack
from robustness_bench.attacks.ead import EAD, Rule
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.attacks.pgd import PGD
from robustness_bench.attacks.registry import attack_presets
from robustness_bench.attacks.searches.fab import FAB
from robustness_bench.attacks.searches.pool import Samples, searched
from tests.support import Constant, Linear, images, small_model


@pytest.fixture(scope="module")
def problem() -> tuple[Linear, Tensor, Tensor]:
    """Images near mid-grey, so that the box binds nowhere near the boundary."""
    model = Linear(classes=5)
    x = 0.5 + 0.1 * (images(24, size=6) - 0.5)
    return model, x, model(x).argmax(1)


def full(name: str, norm: Norm, eps: float, attack_set: str = "strict") -> Attack:
    """The preset as it is, but for Square's queries."""
    attack = attack_presets(attack_set)[name].build(norm, eps)
    return dataclasses.replace(attack, square_queries=30) if isinstance(attack, AutoAttack) else attack


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    ("name", "attack_set"),
    [
        ("pgd-10", "paper"),
        ("pgd-40", "paper"),
        ("pgd-40", "strict"),
        ("pgd-margin", "strict"),
        ("pgd-dlr", "strict"),
        ("aa", "strict"),
        ("aa-fast", "strict"),
    ],
)
def test_budget_attacks_succeed_just_above_and_fail_just_below(
    name: str, attack_set: str, norm: Norm, problem: tuple[Linear, Tensor, Tensor]
) -> None:
    model, x, y = problem
    distances = model.boundary(x, norm)
    chosen = distances.argsort()[[0, 23]]  # near and far margins
    for row in chosen.tolist():
        eps = distances[row].item()
        one, label = x[row : row + 1], y[row : row + 1]
        above = full(name, norm, 1.03 * eps, attack_set)(model, one, label)
        below = full(name, norm, 0.98 * eps, attack_set)(model, one, label)
        assert above.prediction != label
        assert below.prediction == label


def test_ddn_comes_near_the_boundary(problem: tuple[Linear, Tensor, Tensor]) -> None:
    model, x, y = problem
    outcome = attack_presets("strict")["ddn"].build("l2", 0.0)(model, x, y)
    assert (outcome.prediction != y).all()
    ratio = outcome.distance / model.boundary(x, "l2")
    assert ratio.min() >= 1 - 1e-4
    assert ratio.max() <= 1.02


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab_comes_near_the_boundary(norm: Norm, problem: tuple[Linear, Tensor, Tensor]) -> None:
    """The minimum-norm member of AutoAttack on its own, set up as ours sets it up."""
    model, x, y = problem
    nearest, samples = torch.full((len(x),), torch.inf), Samples(x, y, Noise(torch.arange(len(x))))
    for targets in ranked(model(x)).split(1, dim=1):
        fab = FAB(model, samples, [0], norm=norm, eps=1.0, limit=torch.inf, targets=targets)
        found = searched(fab, room=len(x), leave=False).images
        assert (model(found).argmax(1) != y).all()
        nearest = torch.minimum(nearest, geometry.size(found - x, norm))
    ratio = nearest / model.boundary(x, norm)
    assert ratio.min() >= 1 - 1e-3
    assert ratio.max() <= 1.06


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_without_early_stop_reaches_the_highest_loss(
    norm: Norm, problem: tuple[Linear, Tensor, Tensor]
) -> None:
    """With two classes the loss rises with (z_k - z_y) alone, whose maximum in the ball is closed-form."""
    model = Linear(classes=2)
    _, x, _ = problem
    y, eps = model(x).argmax(1), 0.05
    attack = PGD(norm=norm, eps=eps).for_transfer()
    assert not attack.early_stop
    outcome = attack(model, x, y, goal="transfer")
    difference = model.weight[1 - y] - model.weight[y]
    lift = torch.linalg.vector_norm(difference, ord=1 if norm == "linf" else 2, dim=1)
    rows = torch.arange(len(x))
    natural, attacked = model(x), model(outcome.x_adv)
    gained = (attacked[rows, 1 - y] - attacked[rows, y]) - (natural[rows, 1 - y] - natural[rows, y])
    assert torch.allclose(gained, eps * lift, rtol=0.01)


def test_pgd_keeps_the_best_of_its_restarts() -> None:
    """What one start finds, several starts cannot lose."""
    model = small_model().eval()
    x = images(64, seed=5)
    y = model(x).argmax(1)
    one = PGD(norm="linf", eps=0.03, steps=1, rel_step_size=0.05)
    fooled = one(model, x, y).prediction != y
    more = dataclasses.replace(one, restarts=8)(model, x, y).prediction != y
    assert fooled.any()
    assert not fooled.all()
    assert (more | ~fooled).all()
    assert more.sum() > fooled.sum()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_strict_pgd_breaks_whatever_the_paper_s_does(norm: Norm) -> None:
    """Its first start is the paper's only one."""
    model, x = small_model().eval(), images(64, seed=5)
    y = model(x).argmax(1)
    eps = {"linf": 0.01, "l2": 0.06}[norm]
    fooled = _outcomes(full("pgd-40", norm, eps, "paper"), model, x, y)
    assert fooled.any()
    assert not fooled.all()
    assert (_outcomes(full("pgd-40", norm, eps, "strict"), model, x, y) | ~fooled).all()


def test_pgd_for_transfer_returns_the_best_image_it_has_seen() -> None:
    """With steps so large that the loss oscillates, more of them cannot lower the result's loss."""
    model, x = small_model().eval(), images(16)
    y = model(x).argmax(1)
    before = torch.full((16,), -torch.inf)
    for steps in (1, 2, 3, 5, 8):
        attack = PGD(norm="linf", eps=0.1, steps=steps, rel_step_size=2.0).for_transfer()
        logits = model(attack(model, x, y, goal="transfer").x_adv)
        loss = torch.nn.functional.cross_entropy(logits, y, reduction="none").detach()
        assert (loss >= before - 1e-5).all()
        before = loss


def test_pgd_spends_nothing_on_fallen_samples() -> None:
    model, x = small_model().eval(), images(32)
    y = model(x).argmax(1)
    outcome = PGD(norm="linf", eps=0.3)(model, x, y)
    assert (outcome.prediction != y).all()
    assert outcome.backwards < 5


def _outcomes(attack: Attack, model: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return attack(model, x, y).prediction != y


@pytest.mark.parametrize(
    ("version", "norm", "eps"),
    [
        ("standard", "linf", 0.008),
        ("standard", "l2", 0.045),
        ("plus", "linf", 0.008),
        ("rand", "l2", 0.045),
    ],
)
def test_autoattack_equals_the_library_called_directly(version: str, norm: Norm, eps: float) -> None:
    """Same members, same parameters: the library's own loop breaks the same samples."""
    from pyautoattack import AutoAttack as Library

    model = small_model().eval()
    x = images(16, seed=3)
    y = model(x).argmax(1)
    attack = AutoAttack(norm=norm, eps=eps, version=version, square_queries=100)
    library = Library(model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, seed=0, version=version)
    library.apgd_targeted.n_target_classes = library.fab.n_target_classes = 4
    library.square.n_queries = attack.square_queries
    assert tuple(library.attacks_to_run) == _MEMBERS[version]
    if (version, norm) != ("standard", "linf"):  # a hundred steps once; they take long
        attack = dataclasses.replace(attack, steps=25)
        library.apgd.n_iter = library.apgd_targeted.n_iter = library.fab.n_iter = 25
        for apgd in (library.apgd, library.apgd_targeted):
            apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = 5, 1, 1
    with torch.random.fork_rng():
        found, _ = library.run_standard_evaluation(x, y, batch_size=16)
    direct = model(found).argmax(1) != y
    assert direct.any()
    assert not direct.all()
    assert torch.equal(_outcomes(attack, model, x, y), direct)


def test_the_rule_of_an_attack_chooses_its_outcome(problem: tuple[Linear, Tensor, Tensor]) -> None:
    model, x, y = problem
    attacks = {rule: EAD(search_steps=6, steps=60, beta=0.02, rule=rule) for rule in get_args(Rule)}
    runs = {rule: attack.run(model, x, y) for rule, attack in attacks.items()}
    assert not torch.equal(runs["en"]["en"].x_adv, runs["en"]["l1"].x_adv)
    for rule, attack in attacks.items():
        assert torch.equal(attack(model, x, y).x_adv, runs["en"][rule].x_adv)
        assert torch.equal(runs["l1"][rule].x_adv, runs["en"][rule].x_adv)


class Restless(Constant):
    """Always the same class, and never the same logits twice, so that no query of Square is passed over."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = super().forward(x)
        logits[:, 1] = logits[:, 1] + 1e-3 * (-1) ** self.calls
        return logits


@pytest.mark.parametrize("version", ["standard", "plus", "rand", "square"])
def test_autoattack_spends_all_passes_of_its_version_on_what_never_falls(version: str) -> None:
    """Every member with all its restarts, targets and averaged gradients, counted at the model."""
    attack = AutoAttack(norm="linf", eps=0.1, version=version, steps=10, square_queries=40)
    outcome = attack(Restless(), images(2), torch.zeros(2, dtype=torch.int64))
    forwards, backwards = attack.passes(5)
    assert outcome.forwards == pytest.approx(
        forwards, rel=0, abs=6
    )  # the image itself, and looks at the start
    assert outcome.backwards == backwards


def test_gradient_attacks_break_what_a_saturated_cross_entropy_hides() -> None:
    """Logits so large that the softmax is exactly one-hot: the cross-entropy has no gradient."""

    class Saturated(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 1e6 * super().forward(x)

    model = Saturated(classes=5)
    x = 0.5 + 0.1 * (images(6, size=6) - 0.5)
    y = model(x).argmax(1)
    eps = 1.05 * model.boundary(x, "linf").max().item()
    assert (PGD(norm="linf", eps=eps, loss="ce")(model, x, y).prediction == y).any()
    for name in ("pgd-40", "pgd-margin", "pgd-dlr", "aa"):
        assert (full(name, "linf", eps)(model, x, y).prediction != y).all(), name
    samples, attack = Samples(x, y, Noise(torch.arange(6))), AutoAttack(norm="linf", eps=eps)
    assert attack._run("apgd-ce", model, samples, ranked(model(x)), 6).fooled.all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("member", ["apgd-t", "fab-t"])
def test_targeted_members_go_for_the_class_of_their_rank(member: str, norm: Norm) -> None:
    """The second class never wins, and has the slope of the first: only a run at the third fools all."""

    class Shadowed(Linear):
        def forward(self, x: Tensor) -> Tensor:
            first, third, *others = (super().forward(x - 0.5) + self.lead).unbind(1)
            return torch.stack([first, first - 0.01, third, *(0.0 * first - 50.0 for _ in others)], dim=1)

        lead = torch.tensor([1.0, 0.0, 0.0, 0.0])

    model, x = Shadowed(classes=4), 0.5 + 0.1 * (images(8, size=6) - 0.5)
    y, noise = model(x).argmax(1), Noise(torch.arange(8))
    samples = Samples(x, y, noise).pick(y == 0)
    assert len(samples.x) >= 4
    attack = AutoAttack(norm=norm, eps={"linf": 0.3, "l2": 2.0}[norm], steps=20)
    targets = ranked(model(samples.x))
    for rank in (2, 3):
        found = attack._run(member, model, samples, targets[:, rank - 2 : rank - 1], len(samples.x))
        assert found.fooled.all() == (rank == 3)
    assert attack._run(member, model, samples, targets, len(samples.x)).fooled.all()
