"""Our attacks against other libraries' on one small trained network.

torchattacks' and adv-lib's figures are recorded (``parity/record.py`` says how); foolbox runs here.
"""

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from robustness_bench.attacks.autoattack import AutoAttack
from robustness_bench.attacks.base import Outcome, predict
from robustness_bench.attacks.cw import CW
from robustness_bench.attacks.foolbox import DDN
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.losses import margin
from robustness_bench.attacks.pgd import PGD
from tests.attacks.parity.problem import RECORDED, Problem, fingerprint, problem

BUDGET: dict[Norm, float] = {"linf": 0.1, "l2": 0.53}
SAMPLES = 2  # robust accuracies may differ by so many of the 100
both_norms = pytest.mark.parametrize("norm", ["linf", "l2"])


@pytest.fixture(scope="module")
def digits() -> Problem:
    return problem()


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return loaded


def fooled(outcome: Outcome, on: Problem) -> Tensor:
    return outcome.prediction != on.y


def broken(entry: dict[str, Any]) -> Tensor:
    """Which samples the library broke, as re-evaluated."""
    return torch.tensor(entry["fooled"], dtype=torch.bool)


def assert_as_near(ours: Tensor, theirs: Tensor, worst: float, mean: float) -> None:
    """No sample of ours is farther than ``worst`` times theirs, and the means differ by ``mean`` at most."""
    assert (ours / theirs).max() <= worst
    assert ours.mean().item() == pytest.approx(theirs.mean().item(), rel=mean)


def pgd(norm: Norm, random_start: bool = False) -> PGD:
    return PGD(norm=norm, eps=BUDGET[norm], steps=40, rel_step_size=0.1, random_start=random_start)


def broken_from_random_starts(norm: Norm, on: Problem) -> float:
    """The mean of five seeds: one start decides about up to four images."""
    attack = pgd(norm, random_start=True)
    return sum(int(fooled(attack(*on, seed=seed), on).sum()) for seed in range(5)) / 5


def test_the_record_belongs_to_the_problem(digits: Problem, recorded: dict[str, Any]) -> None:
    assert recorded["problem_sha256"] == fingerprint()
    assert torch.equal(predict(digits.model, digits.x), digits.y)
    assert len(digits.y) == 100


@both_norms
def test_pgd_breaks_what_torchattacks_breaks(norm: Norm, digits: Problem, recorded: dict[str, Any]) -> None:
    entry, attack = recorded[f"pgd-{norm}"], pgd(norm)
    step_size = attack.rel_step_size * attack.eps
    settings = {"steps": attack.steps, "random_start": False, "eps": attack.eps, "alpha": step_size}
    assert entry["settings"] == pytest.approx(settings)
    theirs = broken(entry)
    assert 40 <= int(theirs.sum()) <= 60
    assert int((fooled(attack(*digits), digits) ^ theirs).sum()) <= SAMPLES
    started = entry["broken_from_random_starts"]
    assert broken_from_random_starts(norm, digits) == pytest.approx(sum(started) / len(started), abs=SAMPLES)


def foolbox_images(attack: Any, on: Problem, eps: float | None, seed: int = 0) -> Tensor:
    """What foolbox makes."""
    import foolbox

    wrapped = foolbox.PyTorchModel(on.model, bounds=(0.0, 1.0), device="cpu")
    criterion = foolbox.criteria.Misclassification(on.y)
    budget = {} if eps is None else {"epsilon": eps}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found: Tensor = attack.run(wrapped, on.x, criterion, **budget)
    return found.detach()


@both_norms
def test_pgd_breaks_what_foolbox_breaks(norm: Norm, digits: Problem) -> None:
    import foolbox

    attack = pgd(norm)
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]

    def run(random_start: bool, seed: int) -> Tensor:
        library = kind(rel_stepsize=attack.rel_step_size, steps=attack.steps, random_start=random_start)
        found = foolbox_images(library, digits, attack.eps, seed)
        return predict(digits.model, found) != digits.y

    theirs = run(False, 0)
    assert 40 <= int(theirs.sum()) <= 60
    assert int((fooled(attack(*digits), digits) ^ theirs).sum()) <= SAMPLES
    started = sum(int(run(True, seed).sum()) for seed in range(5)) / 5
    assert broken_from_random_starts(norm, digits) == pytest.approx(started, abs=SAMPLES)


@pytest.mark.parametrize("name", ["cw", "cw-confident"])
def test_cw_comes_as_near_as_adv_lib(name: str, digits: Problem, recorded: dict[str, Any]) -> None:
    entry = recorded[name]
    settings = entry["settings"]
    assert not settings["abort_early"]
    attack = CW(
        search_steps=settings["binary_search_steps"],
        steps=settings["max_iterations"],
        step_size=settings["learning_rate"],
        initial_const=settings["initial_const"],
        confidence=settings["confidence"],
        abort_early=False,
    )
    outcome = attack(*digits)
    assert fooled(outcome, digits).all()
    assert broken(entry).all()
    assert margin(digits.model(outcome.x_adv), digits.y).min() > settings["confidence"] - 1e-4
    assert min(entry["margin"]) > settings["confidence"] - 1e-4
    assert_as_near(outcome.distance, torch.tensor(entry["distance"]), worst=1.03, mean=0.01)


@pytest.fixture(scope="module")
def ddn(digits: Problem) -> Outcome:
    return DDN(steps=100, gamma=0.05, initial_norm=1.0)(*digits)


def test_ddn_comes_as_near_as_adv_lib(ddn: Outcome, digits: Problem, recorded: dict[str, Any]) -> None:
    entry = recorded["ddn"]
    assert entry["settings"] == {"steps": 100, "γ": 0.05, "init_norm": 1.0, "levels": None}
    assert fooled(ddn, digits).all()
    assert broken(entry).all()
    plain = DDN(steps=100, loss="ce")(*digits)
    assert_as_near(plain.distance, torch.tensor(entry["distance"]), worst=1.03, mean=0.01)
    # On every third image the cross-entropy has lost the true class; there the log-odds come nearer.
    logits, true = digits.model(digits.x), digits.y[:, None]
    lead = logits.gather(1, true)[:, 0] - logits.scatter(1, true, -torch.inf).logsumexp(1)
    assert 20 <= int((lead > 24 * math.log(2)).sum()) <= 50
    assert (ddn.distance / torch.tensor(entry["distance"])).max() <= 1.03
    assert ddn.distance.mean() < 0.99 * torch.tensor(entry["distance"]).mean()


def test_ddn_is_that_of_foolbox_called_directly(digits: Problem) -> None:
    """The adapter loses nothing: the images that we keep are foolbox's own, at every ε."""
    import foolbox

    ddn = DDN(steps=100, gamma=0.05, initial_norm=1.0, loss="ce")(*digits)

    found = foolbox_images(foolbox.attacks.DDNAttack(init_epsilon=1.0, steps=100, gamma=0.05), digits, None)
    assert (predict(digits.model, found) != digits.y).all()
    assert torch.allclose(ddn.x_adv, found, atol=1e-6)
    within = int((ddn.distance <= BUDGET["l2"]).sum())
    assert 40 <= within <= 70
    theirs = (found - digits.x).flatten(1).norm(dim=1)
    assert abs(within - int((theirs <= BUDGET["l2"]).sum())) <= SAMPLES


@both_norms
def test_autoattack_breaks_what_torchattacks_apgd_and_adv_lib_fab_break(
    norm: Norm, digits: Problem, recorded: dict[str, Any]
) -> None:
    """A short AutoAttack, of whose members those are two, misses one sample of theirs at most."""
    eps = BUDGET[norm]
    apgd, fab = recorded[f"apgd-{norm}"], recorded[f"fab-{norm}"]
    assert apgd["eps"] == eps
    theirs = broken(apgd) | (broken(fab) & (torch.tensor(fab["distance"]) <= eps))
    assert 40 <= int(theirs.sum()) <= 70
    ours = fooled(AutoAttack(norm=norm, eps=eps, steps=10, square_queries=1)(*digits), digits)
    assert int((theirs & ~ours).sum()) <= 1


@both_norms
def test_the_comparison_notices_a_weaker_attack(
    norm: Norm, digits: Problem, recorded: dict[str, Any]
) -> None:
    """A fifth less of the budget leaves the tolerance."""
    weaker = dataclasses.replace(pgd(norm), eps=0.8 * BUDGET[norm])
    lost = int(broken(recorded[f"pgd-{norm}"]).sum()) - int(fooled(weaker(*digits), digits).sum())
    assert lost > SAMPLES
