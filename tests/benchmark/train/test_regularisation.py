"""Smoothing, CutMix, erasing and weight perturbation, each against its paper's formula on fixed numbers."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.data.augmentation import cutmix, erase
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Planner, Task
from robustness_bench.benchmark.store.cards import read_card
from robustness_bench.benchmark.train import defenses as training
from robustness_bench.benchmark.train.awp import WeightPerturbation
from robustness_bench.benchmark.train.images import TrainingData
from robustness_bench.benchmark.train.loop import TrainingError
from robustness_bench.benchmark.train.prior import Prior
from robustness_bench.defenses.base import Batch, Defense, InnerAttack, craft
from tests.benchmark.train.test_defenses import ignore, where

N, SIZE = 4000, 16


def noise(n: int = N, stream: str = "test") -> Noise:
    return Noise.for_samples(torch.arange(n), 0, stream)


def task_of(defense: str = "standard", **recipe: Any) -> Task:
    training = {
        "epochs": 2,
        "train_limit": 120,
        "batch_size": 30,
        "attack_steps": 2,
        "holdout": 0.1,
        **recipe,
    }
    tree = {"defenses": [defense], "model": {"width": 2}, "training": training}
    (settings,) = load_protocol(None, tree).settings
    return Planner(settings, locate("digits", Path())).train(defense, "linf", 0)


# Erasing


def test_an_erased_rectangle_has_the_paper_s_size_and_lies_anywhere() -> None:
    x = torch.full((N, 3, SIZE, SIZE), 2.0)
    inside = (erase(x, noise(), 1.0) != 2.0).float()
    assert torch.equal(inside[:, 0], inside[:, 1])
    area = inside[:, 0].mean((1, 2))
    assert 0.19 < area.mean() < 0.23  # 2 to 40 %, some of it cut
    assert area.max() < 0.45
    rows, columns = inside[:, 0].amax(2).sum(1), inside[:, 0].amax(1).sum(1)
    assert torch.equal(rows * columns, inside[:, 0].sum((1, 2)))  # each is one rectangle
    assert 0.45 < (rows > columns).float().mean() / (rows != columns).float().mean() < 0.55
    hit = inside[:, 0].mean(0)
    assert torch.allclose(hit, hit.flip(0), atol=0.03)
    assert torch.allclose(hit, hit.flip(1), atol=0.03)


def test_erased_pixels_are_uniform_and_only_the_asked_share_is_erased() -> None:
    x = torch.full((N, 1, SIZE, SIZE), 2.0)
    found = erase(x, noise(), 0.25)
    changed = (found != 2.0).flatten(1).any(1)
    assert 0.22 < changed.float().mean() < 0.28
    pixels = found[found != 2.0]
    assert pixels.min() > 0
    assert pixels.max() < 1
    assert abs(pixels.mean() - 0.5) < 0.01
    assert torch.equal(erase(x[:7], noise(7), 0.25), found[:7])


# CutMix


def test_cutmix_takes_a_rectangle_of_the_next_image_and_says_how_much_is_left() -> None:
    x = torch.arange(N).float()[:, None, None, None].expand(N, 2, SIZE, SIZE)
    mixed = cutmix(x, noise(), 1.0)
    own = (mixed.x == x).float()
    assert torch.equal(own[:, 0].mean((1, 2)), mixed.kept)
    assert torch.equal(mixed.x, torch.where(own.bool(), x, x[mixed.partner]))
    assert mixed.partner.tolist() == [*range(1, N), 0]
    rows, columns = ((1 - own[:, 0]).amax(axis).sum(1) for axis in (2, 1))
    assert torch.equal(rows * columns, (1 - own[:, 0]).sum((1, 2)))


def test_lambda_is_uniform_before_the_rectangle_is_cut_at_the_border() -> None:
    """A square of side √(1 - λ) around a uniform centre takes, cut, E[(s - s²/4)²] of the image."""
    x = torch.rand(N, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    taken = 1 - cutmix(x, noise(), 1.0).kept
    side = torch.linspace(0, 1, 10_001).sqrt()
    assert abs(taken.mean() - (side - side**2 / 4).square().mean()) < 0.01
    assert abs((taken > 0.5).float().mean() - ((side - side**2 / 4).square() > 0.5).float().mean()) < 0.1


def test_only_the_asked_share_is_mixed() -> None:
    x = torch.arange(N).float()[:, None, None, None].expand(N, 1, SIZE, SIZE)
    assert 0.2 < (cutmix(x, noise(), 0.25).kept < 1).float().mean() < 0.28
    assert torch.equal(cutmix(x, noise(), 0.0).x, x)


# Soft labels


def test_labels_are_smoothed_and_mixed() -> None:
    """(1 - s)(λ y + (1 - λ) y') + s / K, rows of probabilities; y is the class with most of it."""
    plain, mixed = (TrainingData(task_of(cutmix=share), torch.device("cpu")) for share in (0.0, 1.0))
    rows = plain.indices[:40]
    hard = plain.regularised(rows, 0)
    assert hard.soft is None
    assert torch.equal(hard.x, plain.batch(rows, 0).x)
    smooth = TrainingData(task_of(label_smoothing=0.3), torch.device("cpu")).regularised(rows, 0)
    expected = torch.full((40, 10), 0.03).scatter(1, hard.y[:, None], 0.73)
    torch.testing.assert_close(smooth.soft, expected)
    found = mixed.regularised(rows, 0)
    assert found.soft is not None
    torch.testing.assert_close(found.soft.sum(1), torch.ones(40))
    own = found.soft.gather(1, hard.y[:, None])[:, 0]
    partner = found.soft.gather(1, hard.y.roll(-1)[:, None])[:, 0]
    other = hard.y != hard.y.roll(-1)
    torch.testing.assert_close((own + partner)[other], torch.ones(int(other.sum())))
    assert torch.equal(found.y, found.soft.argmax(1))
    assert ((own < 0.5) & other).any()
    assert torch.equal(mixed.batch(rows, 0).x, hard.x)  # what estimators see stays whole


def test_each_epoch_erases_and_mixes_otherwise_and_the_same_again() -> None:
    data = TrainingData(task_of(cutmix=1.0, erase=1.0), torch.device("cpu"))
    rows = data.indices[:20]
    first = data.regularised(rows, 0)
    assert torch.equal(first.x, data.regularised(rows, 0).x)
    assert not torch.equal(first.x, data.regularised(rows, 1).x)


class ReadsTheLabels(Defense):
    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return {"natural": nn.functional.cross_entropy(batch.logits, batch.y)}


def test_a_defense_that_would_ignore_soft_labels_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "build_defense", lambda _: ReadsTheLabels())
    says = "label_smoothing would change nothing: ReadsTheLabels reads the labels y"
    with pytest.raises(TrainingError, match=says):
        training.train(task_of(label_smoothing=0.1), where(tmp_path), ignore)
    training.train(task_of(), where(tmp_path), ignore)


# Weight perturbation


def test_a_step_with_awp_is_that_of_the_paper_by_hand() -> None:
    """w ← w - lr ∇L(w + γ ‖w‖ g / ‖g‖) with g = ∇L(w); a bias is a vector and does not move."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    x, y = torch.randn(8, 4).double(), torch.arange(8) % 3
    weight, bias = (each.detach().clone().requires_grad_() for each in (model.weight, model.bias))
    gamma, lr, decay = 0.1, 0.5, 0.01

    def loss(w: Tensor, b: Tensor) -> Tensor:
        return nn.functional.cross_entropy(x @ w.T + b, y)

    (g,) = torch.autograd.grad(loss(weight, bias), weight)
    moved = (weight + gamma * weight.norm() * g / g.norm()).detach().requires_grad_()
    there = torch.autograd.grad(loss(moved, bias), (moved, bias))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=decay)
    awp = WeightPerturbation(model, optimizer, gamma)
    terms = awp(
        lambda: {"half": 0.5 * loss(model.weight, model.bias), "other": 0.5 * loss(model.weight, model.bias)}
    )
    optimizer.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    torch.testing.assert_close(model.weight, moved)
    optimizer.step()
    torch.testing.assert_close(model.weight, weight - lr * (there[0] + decay * weight))
    torch.testing.assert_close(model.bias, bias - lr * (there[1] + decay * bias))


def test_batch_norm_sees_a_batch_once_and_no_terms_are_no_move() -> None:
    linear, norm = nn.Linear(4, 3), nn.BatchNorm1d(3)
    model = nn.Sequential(linear, norm).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    awp, x = WeightPerturbation(model, optimizer, 0.1), torch.randn(8, 4)
    awp(lambda: {"loss": model(x).square().sum()})["loss"].backward()
    optimizer.step()
    assert norm.num_batches_tracked == 1
    before = linear.weight.clone()
    assert awp(dict) == {}
    assert torch.equal(linear.weight, before)


RECIPES: dict[str, dict[str, Any]] = {
    "label_smoothing": {"label_smoothing": 0.3},
    "cutmix": {"cutmix": 1.0},
    "erase": {"erase": 1.0},
    "awp": {"awp": 0.05},
    "awp from the second epoch": {"awp": 0.05, "awp_from": 0.5},
    "a prior": {"prior": 10.0, "attack_steps": 1, "rel_step_size": 1.0},
    "all": {
        "prior": 1.0,
        "label_smoothing": 0.3,
        "cutmix": 0.5,
        "erase": 0.5,
        "awp": 0.01,
        "ema": 0.9,
        "precision": "bf16",
    },
}


def curve(tmp_path: Path, defense: str, **recipe: Any) -> list[dict[str, float]]:
    task, context = task_of(defense, **recipe), where(tmp_path)
    for each in task.lineage():
        (training.train if each.kind == "train" else training.train_estimators)(each, context, ignore)
    history: list[dict[str, float]] = read_card(context.out / task.path)["history"]
    return [{k: v for k, v in each.items() if k not in ("seconds", "images_per_second")} for each in history]


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_changes_the_training_and_its_id(tmp_path: Path, name: str) -> None:
    recipe = RECIPES[name]
    assert task_of(**recipe).id != task_of().id
    plain, changed = curve(tmp_path / "plain", "standard"), curve(tmp_path / "changed", "standard", **recipe)
    assert (plain[0] == changed[0]) == (name == "awp from the second epoch")
    assert plain[1] != changed[1]


def test_a_prior_adds_its_term_and_moves_its_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Tensor] = []

    class Noted(Prior):
        def starts(self, indices: Tensor, epoch: int, noise: Noise) -> Tensor:
            start = super().starts(indices, epoch, noise)
            found.append(start[indices.argsort()])
            return start

    monkeypatch.setattr(training, "Prior", Noted)
    one_batch = {"train_limit": 40, "batch_size": 40, "attack_steps": 1}
    once, twice = (curve(tmp_path / str(lam), "standard", **one_batch, prior=lam) for lam in (10.0, 20.0))
    assert twice[0]["prior"] == pytest.approx(2 * once[0]["prior"])
    assert once[0]["prior"] > 0
    assert twice[0]["adversarial"] == once[0]["adversarial"]
    assert torch.equal(found[0], found[2])
    assert (found[0] != found[1]).float().mean() > 0.1


@pytest.mark.parametrize("defense", ["undefended", "trades", "mart", "wmim", "namid-t"])
def test_every_defense_takes_all_options(tmp_path: Path, defense: str) -> None:
    assert len(curve(tmp_path, defense, **RECIPES["all"])) >= 2


def test_a_young_option_at_its_default_is_not_in_ids() -> None:
    spec = task_of().spec["training"]
    young = {"selection_steps", "label_smoothing", "cutmix", "erase", "awp", "awp_from"}
    young |= {"prior", "prior_momentum", "prior_reset"}
    assert not young & set(spec)
    assert task_of(label_smoothing=0.0, awp=0.0).id == task_of().id
    assert task_of(label_smoothing=0.1).spec["training"] == {**spec, "label_smoothing": 0.1}


def test_the_judge_of_one_step_training_takes_more_steps() -> None:
    task = task_of(attack_steps=1, rel_step_size=1.25, selection_steps=10)
    inner = training.inner_attack(task.spec)
    judge = training._judge(inner, task.spec["training"])
    assert judge is not None
    assert (inner.steps, inner.rel_step_size) == (1, 1.25)
    assert (judge.steps, judge.rel_step_size) == (10, 0.25)
    assert training._judge(inner, {**task.spec["training"], "selection_steps": 0}) == inner
    assert training._judge(None, task.spec["training"]) is None
    assert dataclasses.replace(judge, steps=1, rel_step_size=1.25) == inner


def test_held_out_images_are_judged_by_that_longer_attack(tmp_path: Path) -> None:
    one_step = {"attack_steps": 1, "rel_step_size": 0.5, "epochs": 4, "lr": 0.05, "holdout": 0.5}
    one = curve(tmp_path / "one", "standard", **one_step)
    ten = curve(tmp_path / "ten", "standard", **one_step, selection_steps=10)
    assert [each["adversarial"] for each in ten] == [each["adversarial"] for each in one]
    accuracies = [(each["held_out_pgd"], other["held_out_pgd"]) for each, other in zip(one, ten, strict=True)]
    assert all(longer <= short for short, longer in accuracies)
    assert any(longer < short for short, longer in accuracies)


def test_estimators_may_have_steps_of_another_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {
        "defenses": ["namid"],
        "model": {"width": 2},
        "training": {"epochs": 1, "train_limit": 60, "attack_steps": 1, "rel_step_size": 1.25},
        "estimators": {"epochs": 1, "units": 4, "attack_steps": 3, "rel_step_size": 0.5},
    }
    (settings,) = load_protocol(None, tree).settings
    task = Planner(settings, locate("digits", Path())).train("namid", "linf", 0).parents["estimators"]
    seen = set()

    def noted(attack: InnerAttack, *rest: Any) -> Tensor:
        seen.add((attack.steps, attack.rel_step_size))
        return craft(attack, *rest)

    training.train(task.parents["pretrained"], where(tmp_path), ignore)
    monkeypatch.setattr(training, "craft", noted)
    training.train_estimators(task, where(tmp_path), ignore)
    assert seen == {(3, 0.5)}
