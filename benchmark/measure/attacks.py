"""Attacking models: craft images on the surrogate, and evaluate a cell into a record."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustness_bench.attacks.base import Counted, Goal, Outcome, predict
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.registry import build_attack
from robustness_bench.benchmark.batching import automatic
from robustness_bench.benchmark.context import Advance, Context
from robustness_bench.benchmark.data.base import subset
from robustness_bench.benchmark.measure.parts import Columns, forget, in_batches
from robustness_bench.benchmark.measure.storage import stored
from robustness_bench.benchmark.networks.layers import MeanLogits
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.store.cards import circumstances, keep, load_tensors, read_card
from robustness_bench.benchmark.store.cells import DISTANCES, write_record
from robustness_bench.benchmark.store.evidence import Evidence, evidence_of, pack, write_evidence
from robustness_bench.benchmark.store.gallery import Examples, examples_of, write_examples
from robustness_bench.benchmark.store.models import load_model
from robustness_bench.benchmark.train.images import pixels


class Sample(NamedTuple):
    """The test images of a task."""

    ids: Tensor
    x: Tensor
    """(N, C, H, W): float32 in [0, 1], or uint8 of which ``part`` makes that, a quarter of its size."""
    y: Tensor

    def part(self, rows: slice | Tensor) -> "Sample":
        """Some of the images, as float32 in [0, 1]."""
        x = self.x[rows]
        return Sample(self.ids[rows], x if x.is_floating_point() else x.float() / 255, self.y[rows])


def evaluate(task: Task, context: Context, advance: Advance) -> None:
    """Evaluate one cell and write its record."""
    started = time.monotonic()
    model = load_model(task.parents["model"], context)
    sample = test_pixels(task, context)
    maker, storage = task.parents.get("crafted", task.images), task.spec.get("storage", "")
    crafted = _Crafted.load(task, maker, context) if maker else None
    shown = _shown(task, context)
    kept = len(sample.y) if _is_evidence(task, context) else shown

    def work(rows: slice) -> Columns:
        piece = sample.part(rows)
        if crafted is None:
            outcome = _attack(task, model, piece)[task.spec["parameters"].get("rule", "")]
        else:
            outcome = _replay(model, piece.x, crafted.x_adv[rows], task.spec["norm"])
        columns = rows_of(piece, outcome)
        if crafted is not None and crafted.cost is not None:
            columns |= passes_of(len(piece.y), *crafted.cost)
        if crafted is not None and task.images:  # the attack's own verdict, not another one at the boundary
            columns |= {name: column[rows] for name, column in crafted.told.items()}
        if storage:
            outcome = outcome._replace(x_adv=stored(outcome.x_adv, storage))
            columns["adversarial_prediction"] = predict(model, outcome.x_adv).cpu().numpy()
        if kept:
            columns["x_adv"] = outcome.x_adv[: max(kept - rows.start, 0)].float().cpu().contiguous().numpy()
        return columns

    # Named by the number of images kept: one of another number has more or fewer of them.
    partial = (context.out / task.path).with_suffix(f".{kept}.partial")
    columns, before = in_batches(len(sample.y), context, advance, work, partial, task.shard)
    if task.shard:
        return
    if shown:
        _write_examples(context.out / task.path, sample, columns, shown)
    if _is_evidence(task, context):
        _write_evidence(task, context, model, sample, columns)
    write_record(
        context.out / task.path,
        task,
        columns,
        **circumstances(task, context, started - before - (crafted.seconds if crafted else 0.0)),
    )
    forget(partial)


def _shown(task: Task, context: Context) -> int:
    """Return how many images of a cell are kept for viewing: only for the first seed and with an attack."""
    return context.gallery if task.seed == 0 and task.spec["kind_of_attack"] != "natural" else 0


def _is_evidence(task: Task, context: Context) -> bool:
    return context.keep_examples and task.spec["kind_of_attack"] != "natural"


def _write_examples(record: Path, sample: Sample, columns: Columns, count: int) -> None:
    names = ("label", "clean_prediction", "adversarial_prediction")
    labels = {name: columns[name][:count].astype(np.int64) for name in names}
    x_adv = columns["x_adv"][:count]
    x = pixels(sample.part(slice(count)).x)
    write_examples(examples_of(record), Examples(x=x, x_adv=x_adv, **labels))


def _write_evidence(task: Task, context: Context, model: nn.Module, sample: Sample, columns: Columns) -> None:
    """Keep the images that fooled the model, stored so that they still fool it."""
    labels = columns["label"]
    fooled = (columns["clean_prediction"] == labels) & (columns["adversarial_prediction"] != labels)
    chosen = torch.from_numpy(np.flatnonzero(fooled)).to(sample.y.device)
    piece = sample.part(chosen)

    def holds(x_adv: NDArray[np.float32]) -> bool:
        return bool(still_fools(model, piece, x_adv, context.batch_size).all())

    form, stored = pack(pixels(piece.x), columns["x_adv"][fooled], holds)
    path = evidence_of(context.out / task.path)
    write_evidence(path, Evidence(task.id, columns["sample"][fooled].astype(np.int64), form, stored))


def still_fools(
    model: nn.Module, piece: Sample, x_adv: NDArray[np.float32], batch_size: int = 0
) -> NDArray[np.bool_]:
    """Return which of these images the model misclassifies: (K,)."""
    size = batch_size or automatic(piece.x.device)
    wrong = [np.zeros(0, np.bool_)]
    for start in range(0, len(x_adv), size):
        images = torch.from_numpy(x_adv[start : start + size]).to(piece.x)
        wrong.append((predict(model, images) != piece.y[start : start + size]).cpu().numpy())
    return np.concatenate(wrong)


class _Crafted(NamedTuple):
    """Images made by a separate task."""

    x_adv: Tensor
    cost: tuple[float, float] | None
    """Forward and backward passes per sample, if they were made on the evaluated model itself."""
    seconds: float
    """Seconds that making them took, in the same case."""
    told: Columns
    """The attack's verdict on each image, in a record's columns; without rules, and not for transfer."""

    @classmethod
    def load(cls, task: Task, maker: Task, context: Context) -> "_Crafted":
        path = context.out / maker.path
        name = image_name(task.spec["parameters"].get("rule", ""))
        tensors = load_tensors(path)
        x_adv = tensors[name].to(context.device)
        card = read_card(path)
        own = maker.parents["model"].id == task.parents["model"].id and maker.spec["goal"] == "untargeted"
        if not own:
            return cls(x_adv, None, 0.0, {})
        told = {key: tensors[key].numpy() for key in _TOLD if key in tensors}
        return cls(x_adv, (card["forwards"], card["backwards"]), card["seconds"], told)


_TOLD = ("clean_prediction", "adversarial_prediction", "forwards", "backwards", "way")


def image_name(rule: str) -> str:
    """Return the name of a rule's images in a crafted file and in a batch's columns."""
    return f"x_adv-{rule}" if rule else "x_adv"


def craft(task: Task, context: Context, advance: Advance) -> None:
    """Attack the model or the surrogates and keep the images, float32, for all cells that use them."""
    started = time.monotonic()
    models = [load_model(parent, context) for parent in task.parents.values() if not parent.shard]
    model = models[0] if len(models) == 1 else MeanLogits(models)
    sample = test_pixels(task, context)

    def work(rows: slice) -> Columns:
        piece = sample.part(rows)
        outcomes = _attack(task, model, piece)
        images = {image_name(rule): o.x_adv.cpu().contiguous().numpy() for rule, o in outcomes.items()}
        (one, *others) = outcomes.values()
        told = {} if others or task.spec["goal"] == "transfer" else rows_of(piece, one)
        costs = passes_of(len(piece.y), one.forwards, one.backwards)
        return {**images, **costs, **{name: told[name] for name in _TOLD if name in told}}

    partial = (context.out / task.path).with_suffix(".partial")
    columns, before = in_batches(len(sample.y), context, advance, work, partial, task.shard)
    if task.shard:
        return
    cost = {name: float(columns[name].mean()) for name in ("forwards", "backwards")}
    # Every column where the attack's verdict is among them, otherwise the images alone.
    kept = [name for name in columns if name.startswith("x_adv") or "clean_prediction" in columns]
    keep(task, context, started - before, {name: torch.from_numpy(columns[name]) for name in kept}, **cost)
    forget(partial)


def _attack(task: Task, model: nn.Module, piece: Sample) -> dict[str, Outcome]:
    """Return rule -> outcome of the task's attack on some of its images."""
    goal: Goal = task.spec.get("goal", "untargeted")
    attack = build_attack(task.spec["parameters"])
    if goal == "transfer":
        attack = attack.for_transfer()
    return attack.run(model, piece.x, piece.y, ids=piece.ids, seed=task.seed, goal=goal)


def _replay(model: nn.Module, x: Tensor, x_adv: Tensor, norm: geometry.Norm) -> Outcome:
    """Evaluate images that were crafted elsewhere on this model."""
    counted = Counted(model)
    clean, prediction = predict(counted, x), predict(counted, x_adv)
    distance = geometry.size(x_adv - x, norm)
    return Outcome(x_adv, clean, prediction, distance, counted.forwards / len(x), 0.0)


def rows_of(piece: Sample, outcome: Outcome) -> Columns:
    """The columns of a record (``store.cells.SCHEMA``) that an attack's outcome fills."""
    moved = outcome.x_adv - piece.x
    return {
        "sample": piece.ids.cpu().numpy(),
        "label": piece.y.cpu().numpy(),
        "clean_prediction": outcome.clean_prediction.cpu().numpy(),
        "adversarial_prediction": outcome.prediction.cpu().numpy(),
        **{norm: geometry.size(moved, norm).cpu().numpy() for norm in DISTANCES},
        **passes_of(len(piece.y), outcome.forwards, outcome.backwards),
        **({} if outcome.way is None else {"way": outcome.way.cpu().numpy()}),
    }


def passes_of(n: int, forwards: float, backwards: float) -> Columns:
    """The columns of passes per image, of ``n`` images."""
    return {"forwards": np.full(n, forwards), "backwards": np.full(n, backwards)}


def test_sample(task: Task, context: Context) -> Sample:
    """All test images of a task as float32."""
    return test_pixels(task, context).part(slice(None))


def test_pixels(task: Task, context: Context) -> Sample:
    """All test images of a task as uint8."""
    splits = task.data.load()
    kept = subset(len(splits.test_y), task.spec["n_examples"])
    x = torch.from_numpy(splits.test_x[kept]).to(context.device, memory_format=torch.channels_last)
    y = torch.from_numpy(splits.test_y[kept]).to(context.device)
    return Sample(torch.from_numpy(kept).to(context.device), x, y)
