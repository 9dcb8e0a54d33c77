"""Trainings of tiny models in this process: what is held out, kept, averaged, attacked and resumed."""

import copy
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.benchmark import batching
from robustness_bench.benchmark.batching import Batches
from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.data.augmentation import crop, crop_flip
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.networks import build_model
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Task, make_plan
from robustness_bench.benchmark.store.cards import load_tensors, read_card
from robustness_bench.benchmark.store.models import load_estimators, load_model, new_estimators
from robustness_bench.benchmark.train import defenses as training
from robustness_bench.benchmark.train import loop
from robustness_bench.benchmark.train.defenses import inner_attack, train, train_estimators
from robustness_bench.benchmark.train.images import Batch, TrainingData, held_out_images
from robustness_bench.defenses import base
from robustness_bench.defenses.base import InnerAttack, against
from robustness_bench.defenses.mutual_information.estimator import Estimator, MIEstimators, StandardMI
from robustness_bench.defenses.namid import NAMID
from robustness_bench.defenses.registry import defense_presets
from robustness_bench.defenses.standard import Standard
from robustness_bench.defenses.trades import TRADES
from robustness_bench.defenses.undefended import Undefended
from tests.support import images

CPU = torch.device("cpu")
TINY = {
    "epochs": 2,
    "batch_size": 24,
    "train_limit": 100,
    "holdout": 0.1,
    "attack_steps": 2,
    "augment": "none",
}
SMALL_ESTIMATORS = {"epochs": 2, "batch_size": 24, "attack_steps": 3, "units": 8}
BATCHES = 4  # of 24, 24, 24 and 18 of the 90 images that are not held out
TIMES = ("seconds", "images_per_second")


def plan(*defenses: str, norm: str = "linf", seeds: int = 1, **recipe: Any) -> list[Task]:
    overrides = {
        "defenses": list(defenses),
        "norms": [norm],
        "threats": ["white"],
        "seeds": seeds,
        "model": {"width": 2},
        "training": {**TINY, **recipe},
        "estimators": SMALL_ESTIMATORS,
        "attacks": {"strict": {"linf": ["none"], "l2": ["none"]}},
    }
    return make_plan(load_protocol(None, overrides), {"digits": locate("digits", Path("data"))})


def training_of(defense: str, *, seed: int = 0, **settings: Any) -> Task:
    cells = [t for t in plan(defense, seeds=seed + 1, **settings) if t.kind == "evaluate" and t.seed == seed]
    return cells[0].parents["model"]


def estimators_of(defense: str, recipe: dict[str, Any], **settings: Any) -> Task:
    """The estimators' task of a defense with its small recipe overlaid."""
    settings = {"defenses": [defense], "training": {**TINY, **settings}}
    overrides = {**settings, "norms": ["linf"], "threats": ["white"], "model": {"width": 2}}
    overrides |= {"estimators": {**SMALL_ESTIMATORS, **recipe}, "attacks": {"strict": {"linf": [], "l2": []}}}
    tasks = make_plan(load_protocol(None, overrides), {"digits": locate("digits", Path("data"))})
    return next(task for task in tasks if task.kind == "estimators")


def where(out: Path) -> Context:
    return Context(out=out, device="cpu", batch_size=0, threads=1)


def ignore(*progress: object) -> None:
    """Who is told how it goes, and does not care."""


def make(task: Task, out: Path, advance: Callable[..., None] = ignore) -> None:
    {"train": train, "estimators": train_estimators}[task.kind](task, where(out), advance)


def run(task: Task, out: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train it and what it needs; weights and card."""
    for each in task.lineage():
        if not (out / each.path).exists():
            make(each, out)
    return load_tensors(out / task.path), read_card(out / task.path)


def rows(x: Tensor) -> set[bytes]:
    """Images (N, …) as a set."""
    return {row.contiguous().numpy().tobytes() for row in x}


def held_out(task: Task) -> Batch:
    batch = TrainingData(task, CPU).held_out()
    assert batch is not None
    return batch


def natural_accuracy(task: Task, weights: dict[str, Tensor]) -> float:
    """In percent on the held-out images, by a network that is not folded."""
    model = build_model("resnet-18", task.data.info, 2)
    model.load_state_dict(weights, strict=True)
    held = held_out(task)
    with torch.no_grad():
        return 100.0 * float((model.eval()(held.x).argmax(1) == held.y).float().mean())


def pgd_accuracy(task: Task, out: Path) -> float:
    """In percent on the held-out images under two steps of ε/4, written out for L∞."""
    model, held, eps = load_model(task, where(out)), held_out(task), task.spec["eps"]
    start = eps * (2 * held.noise.uniform(tuple(held.x.shape[1:])) - 1)
    x_adv = (held.x + start).clamp(0, 1)
    for _ in range(2):
        x_adv = x_adv.detach().requires_grad_()
        nn.functional.cross_entropy(model(x_adv), held.y, reduction="sum").backward()
        assert x_adv.grad is not None
        moved = x_adv.detach() + 0.25 * eps * x_adv.grad.sign()
        x_adv = (held.x + (moved - held.x).clamp(-eps, eps)).clamp(0, 1)
    with torch.no_grad():
        return 100.0 * float((model(x_adv).argmax(1) == held.y).float().mean())


@pytest.mark.parametrize(("defense", "seed"), [("undefended", 0), ("standard", 0), ("standard", 1)])
def test_steps_are_made_on_all_images_but_the_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defense: str, seed: int
) -> None:
    """What the loss is computed from, epoch by epoch, against what the curve is computed from."""
    seen: list[set[bytes]] = []
    task = training_of(defense, seed=seed)
    kind = {"undefended": Undefended, "standard": Standard}[defense]
    original = kind.terms

    def terms(self: Any, batch: base.Batch) -> dict[str, Tensor]:
        seen.append(rows(batch.x))
        return original(self, batch)

    monkeypatch.setattr(kind, "terms", terms)
    run(task, tmp_path)
    held = rows(held_out(training_of("trades")).x)  # of another defense and seed
    assert held == rows(held_out(task).x)
    assert len(held) == 10
    for epoch in (seen[:BATCHES], seen[BATCHES:]):
        assert len(epoch) == BATCHES
        assert sum(map(len, epoch)) == 90
        everything = set[bytes].union(*epoch)
        assert len(everything) == 90
        assert not everything & held
    assert seen[:BATCHES] != seen[BATCHES:]  # each epoch has an order of its own


def test_estimators_hold_out_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is their own crop-and-flip they are trained on, what is held out stays as it is."""
    task = next(t for t in plan("namid", augment="crop-flip") if t.kind == "estimators")
    assert rows(held_out(task).x) == rows(held_out(training_of("standard")).x)
    asked: list[Tensor] = []
    original = TrainingData.batch

    def batch(self: TrainingData, indices: Tensor, epoch: int) -> Batch:
        asked.append(indices)
        return original(self, indices, epoch)

    run(task.parents["pretrained"], tmp_path)
    monkeypatch.setattr(TrainingData, "batch", batch)
    run(task, tmp_path)
    trained_on = torch.cat(asked)
    plain = TrainingData(training_of("standard"), CPU)
    assert len(trained_on) == 2 * 90
    assert not rows(plain.batch(trained_on, 0).x) & rows(held_out(task).x)


@pytest.mark.parametrize(
    ("images", "holdout", "count"),
    [(100, 0.1, 10), (100, 0.0, 0), (20, 0.05, 0), (30, 0.05, 2), (2, 0.0, 0), (4, 0.5, 2), (1437, 0.05, 72)],
)
def test_how_many_are_held_out(images: int, holdout: float, count: int) -> None:
    assert held_out_images(images, {"holdout": holdout, "selection": "last"}) == count


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"train_limit": 10, "holdout": 0.9}, "training.holdout = 0.9 leaves under 2 of 10 training images"),
        ({"train_limit": 3, "holdout": 0.6}, "training.holdout = 0.6 leaves under 2 of 3 training images"),
        (
            {"train_limit": 20, "holdout": 0.05, "selection": "best"},
            "needs held-out images, and training.holdout = 0.05 of 20 training images is less than two",
        ),
    ],
)
def test_too_few_images_are_named(tmp_path: Path, recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        run(training_of("undefended", **recipe), tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_a_scale_of_the_logits_does_not_change_what_is_held_out(tmp_path: Path) -> None:
    """So that no epoch is chosen for its large logits."""
    task = training_of("undefended", seed=1, holdout=0.5, train_limit=200, epochs=8)
    run(task, tmp_path)
    model, attack = load_model(task, where(tmp_path)), InnerAttack(norm="linf", eps=0.1)
    unscaled = training.accuracies(model, held_out(task), attack, where(tmp_path))
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    last.weight.mul_(1e4)
    last.bias.mul_(1e4)
    scaled = training.accuracies(model, held_out(task), attack, where(tmp_path))
    assert scaled["held_out_natural"] == unscaled["held_out_natural"]
    assert unscaled["held_out_pgd"] < scaled["held_out_natural"] - 10
    assert scaled["held_out_pgd"] == pytest.approx(unscaled["held_out_pgd"], abs=4)


def test_nothing_held_out_means_no_curve_and_all_images(tmp_path: Path) -> None:
    task = training_of("standard", holdout=0.0, epochs=1)
    assert TrainingData(task, CPU).held_out() is None
    _, card = run(task, tmp_path)
    assert set(card["history"][0]) == {"adversarial", "gradient_norm", "lr", *TIMES}
    assert len(TrainingData(task, CPU).indices) == 100


@pytest.mark.parametrize(
    ("defense", "norm"), [("undefended", "linf"), ("standard", "linf"), ("standard", "l2")]
)
def test_the_curve_ends_with_what_the_saved_model_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defense: str, norm: str
) -> None:
    monkeypatch.setitem(batching.AUTO_BATCH, "cpu", 32)
    task = training_of(defense, norm=norm, holdout=0.5, train_limit=200, epochs=8)
    weights, card = run(task, tmp_path)
    history = card["history"]
    assert len(history) == card["epoch"] == 8
    figures = {"held_out_natural"} | ({"held_out_pgd"} if defense == "standard" else set())
    for entry in history:
        assert {name for name in entry if name.startswith("held_out")} == figures
        assert all(0 <= entry[name] <= 100 for name in figures)
        assert all(entry[name] == pytest.approx(round(entry[name])) for name in figures)  # of 100 images
    assert history[-1]["held_out_natural"] == pytest.approx(natural_accuracy(task, weights))
    assert 10 < history[-1]["held_out_natural"] < 100
    if defense == "standard" and norm == "linf":
        assert history[-1]["held_out_pgd"] == pytest.approx(pgd_accuracy(task, tmp_path))
        assert history[-1]["held_out_pgd"] < history[-1]["held_out_natural"]


def test_the_best_epoch_is_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First by the real figures, then by given ones, of which the second is the best."""
    task = training_of("standard", selection="best", holdout=0.5, train_limit=200, epochs=4)
    _, card = run(task, tmp_path / "real")
    curve = [entry["held_out_pgd"] for entry in card["history"]]
    assert curve[card["epoch"] - 1] == max(curve)
    assert pgd_accuracy(task, tmp_path / "real") == pytest.approx(max(curve))

    given, states = [10.0, 40.0, 30.0, 20.0], []

    def accuracies(model: nn.Module, *_: object) -> dict[str, float]:
        states.append(copy.deepcopy(model.state_dict()))
        return {"held_out_natural": 0.0, "held_out_pgd": given[len(states) - 1]}

    monkeypatch.setattr(training, "accuracies", accuracies)
    weights, card = run(task, tmp_path / "given")
    assert card["epoch"] == 2
    assert [entry["held_out_pgd"] for entry in card["history"]] == given
    assert all(torch.equal(weights[name], states[1][name]) for name in weights)
    assert not torch.equal(weights["1.linear.weight"], states[3]["1.linear.weight"])


def test_natural_training_selects_by_natural_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter([30.0, 70.0, 20.0])
    monkeypatch.setattr(training, "accuracies", lambda *_: {"held_out_natural": next(given)})
    _, card = run(training_of("undefended", selection="best", epochs=3), tmp_path)
    assert card["epoch"] == 2


def test_the_average_is_kept_and_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a plain loop over the raw weights after each step."""
    task = training_of("undefended", ema=0.5)
    built: list[nn.Module] = []

    def build(*arguments: Any) -> nn.Module:
        built.append(build_model(*arguments))
        return built[-1]

    averages: list[dict[str, Tensor]] = []
    evaluated: list[dict[str, Tensor]] = []
    original = training.accuracies

    def accuracies(model: nn.Module, *more: Any) -> dict[str, float]:
        evaluated.append({name: tensor.detach().clone() for name, tensor in model.named_parameters()})
        return original(model, *more)

    def advance(*progress: object) -> None:
        raw = {name: tensor.detach().clone() for name, tensor in built[0].named_parameters()}
        last = averages[-1] if averages else raw
        averages.append({name: 0.5 * last[name] + 0.5 * raw[name] for name in raw})

    monkeypatch.setattr(training, "build_model", build)
    monkeypatch.setattr(training, "accuracies", accuracies)
    make(task, tmp_path, advance)
    weights, card = load_tensors(tmp_path / task.path), read_card(tmp_path / task.path)
    assert len(averages) == 2 * BATCHES
    assert card["spec"]["training"]["ema"] == 0.5
    for name, average in averages[-1].items():
        assert torch.allclose(weights[name], average, atol=1e-6), name
        assert torch.equal(weights[name], evaluated[1][name])
        assert torch.allclose(evaluated[0][name], averages[BATCHES - 1][name], atol=1e-6), name
    raw = built[0].state_dict()
    assert (weights["1.linear.weight"] - raw["1.linear.weight"]).abs().max() > 1e-3
    assert card["history"][-1]["held_out_natural"] == pytest.approx(natural_accuracy(task, weights))


def test_bf16_rounds_the_network_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: set[torch.dtype] = set()
    losses: set[torch.dtype] = set()
    original = Standard.terms

    def terms(self: Standard, batch: base.Batch) -> dict[str, Tensor]:
        found = original(self, batch)
        losses.update({batch.adversarial_logits.dtype, *(term.dtype for term in found.values())})
        return found

    def build(*arguments: Any) -> nn.Module:
        model = build_model(*arguments)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda _, __, output: inside.add(output.dtype))
        return model

    monkeypatch.setattr(Standard, "terms", terms)
    full, _ = run(training_of("standard"), tmp_path)
    monkeypatch.setattr(training, "build_model", build)
    weights, card = run(training_of("standard", precision="bf16"), tmp_path)
    assert torch.bfloat16 in inside
    assert losses == {torch.float32}
    assert {t.dtype for t in weights.values()} == {torch.float32, torch.int64}
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert all(torch.isfinite(torch.tensor(list(entry.values()))).all() for entry in card["history"])
    assert not torch.equal(weights["1.linear.weight"], full["1.linear.weight"])
    change = (weights["1.linear.weight"] - full["1.linear.weight"]).abs().max()
    assert change < 0.1  # rounding, no other training


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_where_the_inner_attack_starts(tmp_path: Path, norm: str) -> None:
    held = held_out(training_of("standard", norm=norm))
    starts = {}
    for name in ("near", "uniform"):
        attack = inner_attack(training_of("standard", norm=norm, attack_start=name).spec)
        assert (attack.start, attack.steps, attack.norm) == (name, 2, norm)
        only_start = dataclasses.replace(attack, steps=0)
        starts[name] = only_start(nn.Identity(), held.x, held.noise, lambda logits: logits.sum(1))
        assert starts[name].min() >= 0
        assert starts[name].max() <= 1
        moved = (starts[name] - held.x).flatten(1)
        length = moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)
        assert (length > 0).all()
        assert (length <= attack.eps * (1 + 1e-5)).all()
    assert (starts["near"] - held.x).abs().max() < 0.01
    assert (starts["uniform"] - held.x).abs().max() > 0.05
    near, uniform = (
        run(training_of("standard", norm=norm, attack_start=each, epochs=1), tmp_path)[0]
        for each in ("near", "uniform")
    )
    assert not torch.equal(near["1.linear.weight"], uniform["1.linear.weight"])


def test_a_start_near_the_image_keeps_to_a_smaller_ball() -> None:
    held = held_out(training_of("standard"))
    for norm, eps in (("linf", 1e-4), ("l2", 1e-3)):
        attack = base.InnerAttack(norm=norm, eps=eps, steps=0, start="near")  # type: ignore[arg-type]
        moved = (attack(nn.Identity(), held.x, held.noise, lambda logits: logits.sum(1)) - held.x).flatten(1)
        length = moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)
        assert 0.2 * eps < length.max() <= eps + 1e-7


def test_namid_warms_up_on_natural_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs before the schedule's eight; no inner attack is made there, and no estimator is asked."""
    task = training_of("namid", epochs=8, train_limit=52)  # two batches of the 47 that are not held out
    run(task.parents["estimators"], tmp_path)
    epoch, attacked_in = [0.0], []
    original = training.climbed

    def climbed(*arguments: Any) -> tuple[Tensor, Tensor]:
        attacked_in.append(int(epoch[0]))
        return original(*arguments)

    def advance(done: float, total: float, unit: str) -> None:
        assert (total, unit) == (10, "epochs")
        epoch[0] = done + 1e-9

    monkeypatch.setattr(training, "climbed", climbed)
    make(task, tmp_path, advance)
    history = read_card(tmp_path / task.path)["history"]
    shared = {"gradient_norm", "lr", "held_out_natural", "held_out_pgd", *TIMES}
    assert [set(entry) - shared for entry in history] == [{"warm_up"}] * 2 + [{"adversarial", "mi"}] * 8
    assert attacked_in == [number for number in range(2, 10) for _ in range(2)]
    assert history[1]["warm_up"] < history[0]["warm_up"]


def test_warm_up_is_at_most_a_quarter() -> None:
    for epochs, expected in ((1, 0), (3, 0), (4, 1), (7, 1), (8, 2), (100, 2)):
        assert NAMID().natural_epochs(epochs) == expected
    assert NAMID(natural_first=0).natural_epochs(100) == 0


@pytest.mark.parametrize(
    "name", [name for name, preset in defense_presets().items() if preset.group in ("standard", "trades")]
)
def test_adversarial_epochs_are_the_schedules_own(name: str, tmp_path: Path) -> None:
    """A defense must not have trained fewer epochs on adversarial images than what it is compared with."""
    task = training_of(name, epochs=4, train_limit=52)
    history = run(task, tmp_path)[1]["history"]
    natural = sum("warm_up" in entry for entry in history)
    assert natural == (1 if name.startswith("namid") else 0)
    assert len(history) - natural == 4


def test_crafting_leaves_no_trace_in_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRADES asks the attacked model itself what it says of the natural images."""
    victims: list[nn.Module] = []
    inner_loss, original = TRADES.inner_loss, training.climbed

    def asked(self: TRADES, model: nn.Module, x: Tensor, y: Tensor) -> base.InnerLoss:
        victims.append(model)
        return inner_loss(self, model, x, y)

    def climbed(
        attack: Any, defense: Any, model: nn.Module, batch: Batch, start: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        before = copy.deepcopy(model.state_dict())
        found = original(attack, defense, model, batch, start)
        assert model.training
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        return found

    monkeypatch.setattr(TRADES, "inner_loss", asked)
    monkeypatch.setattr(training, "climbed", climbed)
    weights, _ = run(training_of("trades"), tmp_path)
    assert len(victims) == 2 * BATCHES
    for victim in victims:
        assert not any(module.training for module in victim.modules())
        assert not any(parameter.requires_grad for parameter in victim.parameters())
    # Statistics are of two batches per step, the natural and the adversarial one.
    assert int(weights["1.bn1.num_batches_tracked"]) == 2 * 2 * BATCHES


class KilledError(Exception):
    """Stands for the end of the process."""


def worse_every_step(model: nn.Module, *_: object) -> dict[str, float]:
    """Figures that fall as training goes on."""
    steps = float(model.state_dict()["1.bn1.num_batches_tracked"])
    return {"held_out_natural": 0.0, "held_out_pgd": 100.0 - steps}


@pytest.mark.parametrize("wanted", ["standard", "estimators", "namid"])
def test_a_killed_training_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    recipe: dict[str, Any] = {"epochs": 4, "augment": "crop-flip", "ema": 0.5, "selection": "best"}
    if wanted == "standard":  # the first epoch is the best, and has to be remembered
        monkeypatch.setattr(training, "accuracies", worse_every_step)
    task = training_of("standard" if wanted == "standard" else "namid", **recipe)
    task = task.parents["estimators"] if wanted == "estimators" else task
    for parent in task.parents.values():
        run(parent, tmp_path / "whole")
    if task.parents:
        shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    run(task, tmp_path / "whole")
    monkeypatch.setattr(loop, "_KEEP_EVERY", 0.0)
    steps = 0

    def dying(after: int) -> Callable[..., None]:
        def advance(*progress: object) -> None:
            nonlocal steps
            steps += 1
            if steps == after:
                raise KilledError

        return advance

    for after in (2, 6):  # in the first epoch, then in the second
        steps = 0 if after == 2 else 1  # the first life kept one step
        with pytest.raises(KilledError):
            make(task, tmp_path / "broken", dying(after))
        assert not (tmp_path / "broken" / task.path).exists()
    total = BATCHES * (2 if wanted == "estimators" else 5 if wanted.startswith("namid") else 4)
    steps = 5
    make(task, tmp_path / "broken", dying(0))
    assert steps == total  # it went on where it was
    kept = [(tmp_path / each / task.path).read_bytes() for each in ("whole", "broken")]
    assert kept[0] == kept[1]
    cards = [read_card(tmp_path / each / task.path) for each in ("whole", "broken")]
    timeless = [
        [{k: v for k, v in entry.items() if k not in TIMES} for entry in card["history"]] for card in cards
    ]
    assert timeless[0] == timeless[1]
    assert cards[0]["epoch"] == cards[1]["epoch"]
    assert wanted != "standard" or cards[0]["epoch"] == 1
    assert not list(tmp_path.rglob("*.partial"))


def test_a_crop_is_the_crop_and_flip_without_its_flip() -> None:
    """Every image of the plain crop is one of 81 shifts, none mirrored, and all nine shifts occur."""
    x, noise = images(60, 2, 6), Noise.for_samples(torch.arange(60), 0)
    plain, flipped = crop(x, noise), crop_flip(x, noise)
    padded = nn.functional.pad(x, [4] * 4)
    rows_moved, columns_moved = set(), set()
    mirrored = 0
    for row in range(60):
        shifts = {(i, j): padded[row, :, i : i + 6, j : j + 6] for i in range(9) for j in range(9)}
        fits = [at for at, shift in shifts.items() if torch.equal(plain[row], shift)]
        assert fits, "mirrored, or moved by more than 4"
        rows_moved.add(fits[0][0])
        columns_moved.add(fits[0][1])
        same = torch.equal(flipped[row], plain[row])
        assert same or torch.equal(flipped[row], plain[row].flip(2))
        mirrored += not same
    assert rows_moved == columns_moved == set(range(9))
    assert 15 < mirrored < 45


@pytest.mark.parametrize(("augment", "moved"), [("none", None), ("crop", crop), ("crop-flip", crop_flip)])
def test_the_recipe_s_augmentation_is_the_batch_s(augment: str, moved: Any) -> None:
    data = TrainingData(training_of("undefended", augment=augment), CPU)
    plain = TrainingData(training_of("undefended"), CPU)
    indices = data.indices[:20]
    first, again, later = (data.batch(indices, epoch).x for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    x = plain.batch(indices, 0).x
    assert torch.equal(first, later) == (augment == "none")
    assert torch.equal(first, x) == (augment == "none")
    if moved is not None:
        noise = Noise.for_samples(data._ids[indices], 0, "augment", 0)
        assert torch.equal(first, moved(x, noise))


@pytest.mark.parametrize(
    ("defense", "objective", "kind"),
    [("namid", "eq-5", MIEstimators), ("namid-eq-4", "eq-4", MIEstimators), ("wmim", "standard", StandardMI)],
)
def test_estimators_are_what_the_preset_asks_for(
    tmp_path: Path, defense: str, objective: str, kind: type[nn.Module]
) -> None:
    """And at the kept epoch their curve has what the saved ones say of the held-out images."""
    task = training_of(defense, holdout=0.3).parents["estimators"]
    assert task.spec["estimators"]["objective"] == objective
    _, card = run(task, tmp_path)
    module = load_estimators(task, where(tmp_path))
    assert isinstance(module, kind)
    assert getattr(module, "objective", "standard") == objective
    held, model = held_out(task), load_model(task.parents["pretrained"], where(tmp_path))
    attack = dataclasses.replace(inner_attack(task.spec), steps=3)
    x_adv = attack(model, held.x, held.noise, against(held.y))
    with torch.no_grad():
        estimates = module.measure(held.x, x_adv, model(held.x), model(x_adv))
    entry = card["history"][card["epoch"] - 1]
    figures = {name: value for name, value in entry.items() if name.startswith("held_out")}
    terms = module.loss(estimates, held.y, model(held.x), model(x_adv))
    best = figures.pop("held_out_objective")
    assert best == pytest.approx(-sum(float(term) for term in terms.values()), abs=1e-5)
    assert best == max(each["held_out_objective"] for each in card["history"])
    assert set(figures) == {f"held_out_{name}" for name in estimates}
    for name, values in estimates.items():
        assert figures[f"held_out_{name}"] == pytest.approx(float(values.mean()), abs=1e-6), name
    if objective != "eq-5":  # one pass of each network per step of two epochs, the curve leaves no trace
        counts = [int(v) for n, v in module.state_dict().items() if n.endswith("num_batches_tracked")]
        assert set(counts) == {card["epoch"] * len(range(0, 70, 24))}
    own = {"standard"} if objective == "standard" else {"natural", "adversarial"}
    assert own <= set(card["history"][0])


def falling(known: training.Known, module: nn.Module) -> dict[str, float]:
    """An objective that falls as training goes on."""
    steps = module.state_dict()["natural.local.1.num_batches_tracked"]
    return {"held_out_objective": -float(steps)}


@pytest.mark.parametrize(("selection", "kept"), [("best", 1), ("last", 2)])
def test_estimators_keep_the_epoch_that_is_best_on_held_out_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, selection: str, kept: int
) -> None:
    task = estimators_of("namid-eq-4", {"selection": selection}, holdout=0.3)
    run(task.parents["pretrained"], tmp_path)
    monkeypatch.setattr(training.Known, "figures", falling)
    weights, card = run(task, tmp_path)
    assert card["epoch"] == kept
    assert int(weights["natural.local.1.num_batches_tracked"]) == kept * len(range(0, 70, 24))


def test_estimators_without_held_out_images_keep_the_last_epoch(tmp_path: Path) -> None:
    _, card = run(estimators_of("namid", {"selection": "best"}, holdout=0.0), tmp_path)
    assert card["epoch"] == 2
    assert not [name for name in card["history"][-1] if name.startswith("held_out")]


@pytest.mark.parametrize("batch_size", [1, 7, 30, 100])
def test_held_out_images_go_through_networks_in_batches(tmp_path: Path, batch_size: int) -> None:
    """The estimates compare all of them all the same: they agree to 1e-4 with one batch of all 30."""
    task = estimators_of("namid", {}, holdout=0.3)
    run(task.parents["pretrained"], tmp_path)
    held, module = held_out(task), new_estimators(task).requires_grad_(False)
    assert isinstance(module, MIEstimators)
    model = load_model(task.parents["pretrained"], where(tmp_path))
    attack = dataclasses.replace(inner_attack(task.spec), steps=3)
    x_adv = attack(model, held.x, held.noise, against(held.y))
    expected = module.eval().measure(held.x, x_adv, model(held.x), model(x_adv))
    sizes: list[int] = []

    def seen(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        moved = attack(model, batch.x, batch.noise, against(batch.y))
        return moved, model(batch.x), model(moved)

    networks: list[nn.Module] = [model, module.natural.local, module.adversarial.overall]
    for network in networks:
        network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    context = dataclasses.replace(where(tmp_path), batch_size=batch_size)
    figures = training.Known.of(held, seen, Batches(context)).figures(module)
    assert max(sizes) == min(batch_size, 30)
    for name, values in expected.items():
        assert figures[f"held_out_{name}"] == pytest.approx(float(values.mean()), abs=1e-4)


def test_estimators_survive_a_lack_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network sees at most 4 held-out images then; the result is that of enough memory."""
    task = estimators_of("namid", {}, holdout=0.3)
    _, card = run(task, tmp_path)
    original, failures = Estimator.of_input, []

    def hungry(self: Estimator, inputs: Tensor) -> Tensor:
        if not self.training and len(inputs) > 4:
            failures.append(len(inputs))
            raise torch.OutOfMemoryError("planted")
        return original(self, inputs)

    monkeypatch.setattr(Estimator, "of_input", hungry)
    (tmp_path / task.path).unlink()
    _, again = run(task, tmp_path)
    assert failures == [30, 30, 30, 16, 8] or failures == [30, 30, 30, 30, 16, 8]
    for entry, other in zip(card["history"], again["history"], strict=True):
        for name in entry.keys() - set(TIMES):
            assert other[name] == pytest.approx(entry[name], abs=1e-4), name


def test_defenses_share_estimators_of_one_recipe() -> None:
    names = ("namid", "namid-t", "namid-m", "namid-eq-4", "wmim")
    ids = {name: training_of(name).parents["estimators"].id for name in names}
    assert ids["namid"] == ids["namid-t"] == ids["namid-m"]
    assert len(set(ids.values())) == 3
    fitted = [task for task in plan(*names) if task.kind == "estimators"]
    assert len(fitted) == 3
    assert {task.parents["pretrained"].id for task in fitted} == {training_of("standard").id}


def test_held_out_images_go_through_the_model_in_batches_of_the_size_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an automatic size is halved where memory runs out; the figures are the same."""
    task = training_of("standard", holdout=0.3, epochs=1)
    _, whole = run(task, tmp_path / "whole")
    sizes: list[int] = []
    right = training._right

    def counted(model: nn.Module, x: Tensor, y: Tensor) -> float:
        if len(x) > 11:
            raise torch.OutOfMemoryError("planted")
        sizes.append(len(x))
        return right(model, x, y)

    monkeypatch.setattr(training, "_right", counted)
    monkeypatch.setitem(batching.AUTO_BATCH, "cpu", 40)
    expected = {7: [7, 7, 7, 7, 7, 7, 7, 7, 2, 2], 0: [10, 10, 10, 10, 10, 10]}
    for batch_size, seen in expected.items():
        context = dataclasses.replace(where(tmp_path / str(batch_size)), batch_size=batch_size)
        sizes.clear()
        train(task, context, ignore)
        assert sizes == seen  # natural and attacked
        last, first = read_card(context.out / task.path)["history"][-1], whole["history"][-1]
        assert {k: v for k, v in last.items() if k not in TIMES} == {
            k: v for k, v in first.items() if k not in TIMES
        }
    context = dataclasses.replace(where(tmp_path / "large"), batch_size=12)
    with pytest.raises(torch.OutOfMemoryError):
        train(task, context, ignore)


def fooled(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Noisy images of 4 classes, right outputs for them, and wrong ones for images moved that way."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(9))
    y = torch.arange(n) % 4
    wrong = (y + 1 + torch.randint(0, 3, (n,), generator=generator)) % 4
    x = 0.5 * patterns[y] + 0.5 * torch.rand(n, 1, 4, 4, generator=generator)
    moved = x + 0.1 * (patterns[wrong] - 0.5) + 0.05 * torch.randn(x.shape, generator=generator)
    h, h_adv = (
        4 * nn.functional.one_hot(each, 4) + 0.5 * torch.randn(n, 4, generator=generator)
        for each in (y, wrong)
    )
    return x, moved, y, h, h_adv


def test_what_is_kept_of_many_steps_says_more_than_after_fifty_five(tmp_path: Path) -> None:
    """Held-out E_n(x; h(x)) under equation 5. The last state says less: 128 images are learnt by heart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        natural, adversarial = (Estimator(1, 4, 8, "cosine", "dv", temperature=0.2) for _ in range(2))
        module = MIEstimators(natural, adversarial, "eq-5", floor=True).train()
    trained, (x, x_adv, y, h, h_adv) = fooled(128, 1), fooled(64, 2)
    fit = loop.Fit(
        epochs=50,
        stream=("many steps",),
        batches=lambda epoch: loop.shuffled(torch.arange(128), 32, epoch),
        learning_rate=lambda done: 1e-2,
        clip_norm=10.0,
        partial=tmp_path / "fit.partial",
        advance=ignore,
        evaluate=training.Known(x, x_adv, y, h, h_adv, Batches(where(tmp_path))).figures,
        select="held_out_objective",
    )
    optimizer = torch.optim.Adam(module.parameters())
    fitted = fit.run(module, optimizer, lambda _, rows: module.terms(*(each[rows] for each in trained)))
    found = [entry["held_out_natural_of_x"] for entry in fitted.history]
    after_55 = found[13]  # after 56 steps of 200
    assert found[fitted.epoch - 1] > after_55 > found[-1]
