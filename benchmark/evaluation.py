"""Attacking models: crafting on the surrogate, and evaluating a cell into a record."""

import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks import geometry
from attacks.base import Counted, Goal, Outcome, predict
from attacks.registry import build_attack
from benchmark.atomic import write_atomic
from benchmark.checkpoints import load_tensors, save_tensors
from benchmark.context import Advance, Context, environment
from benchmark.datasets.base import subset
from benchmark.errors import StoreError
from benchmark.plan import Task
from benchmark.records import write_record
from benchmark.training import load_model

_AUTO_BATCH = {"cpu": 128, "cuda": 1024}
KEEP_EVERY = 30.0  # seconds between two states kept for resuming
Columns = dict[str, NDArray[Any]]


class _Sample(NamedTuple):
    """The test images of a task."""

    ids: Tensor
    x: Tensor
    y: Tensor


def evaluate(task: Task, context: Context, advance: Advance) -> None:
    """Evaluate one cell and write its record."""
    started = time.monotonic()
    model = load_model(task.parents["model"], context)
    sample = _test_sample(task, context)
    crafted = None
    if "crafted" in task.parents:
        crafted = load_tensors(context.out / task.parents["crafted"].path)["x_adv"].to(context.device)

    def work(rows: slice) -> Columns:
        piece = _Sample(*(tensor[rows] for tensor in sample))
        if crafted is None:
            outcome = _attack(task, model, piece, "untargeted")
        else:
            outcome = _replay(model, piece.x, crafted[rows], task.spec["norm"])
        return _rows(piece, outcome)

    partial = (context.out / task.path).with_suffix(".partial")
    columns = in_batches(len(sample.y), context, advance, work, partial)
    write_record(
        context.out / task.path,
        task,
        columns,
        environment=environment(context.device),
        seconds=round(time.monotonic() - started, 3),
    )
    partial.unlink(missing_ok=True)


def craft(task: Task, context: Context, advance: Advance) -> None:
    """Attack the surrogate and keep the adversarial images, float32, for every defense to face."""
    started = time.monotonic()
    model = load_model(task.parents["model"], context)
    sample = _test_sample(task, context)

    def work(rows: slice) -> Columns:
        piece = _Sample(*(tensor[rows] for tensor in sample))
        outcome = _attack(task, model, piece, "transfer")
        x_adv = outcome.x_adv.cpu().contiguous().numpy()
        return {"x_adv": x_adv, **_passes(len(x_adv), outcome)}

    partial = (context.out / task.path).with_suffix(".partial")
    columns = in_batches(len(sample.y), context, advance, work, partial)
    card = {
        "id": task.id,
        "seed": task.seed,
        "spec": task.spec,
        "forwards": float(columns["forwards"].mean()),
        "backwards": float(columns["backwards"].mean()),
        "environment": environment(context.device),
        "seconds": round(time.monotonic() - started, 3),
    }
    save_tensors(context.out / task.path, {"x_adv": torch.from_numpy(columns["x_adv"])}, card)
    partial.unlink(missing_ok=True)


def _attack(task: Task, model: nn.Module, piece: _Sample, goal: Goal) -> Outcome:
    attack = build_attack(task.spec["parameters"])
    if goal == "transfer":
        attack = attack.for_transfer()
    return attack(model, piece.x, piece.y, ids=piece.ids, seed=task.seed, goal=goal)


def _replay(model: nn.Module, x: Tensor, x_adv: Tensor, norm: geometry.Norm) -> Outcome:
    """What images crafted elsewhere do to this model."""
    counted = Counted(model)
    clean, prediction = predict(counted, x), predict(counted, x_adv)
    distance = geometry.size(x_adv - x, norm)
    return Outcome(x_adv, clean, prediction, distance, counted.forwards / len(x), 0.0)


def _rows(piece: _Sample, outcome: Outcome) -> Columns:
    return {
        "sample": piece.ids.cpu().numpy(),
        "label": piece.y.cpu().numpy(),
        "clean_prediction": outcome.clean_prediction.cpu().numpy(),
        "adversarial_prediction": outcome.prediction.cpu().numpy(),
        "distance": outcome.distance.cpu().numpy(),
        **_passes(len(piece.y), outcome),
    }


def _passes(n: int, outcome: Outcome) -> Columns:
    return {"forwards": np.full(n, outcome.forwards), "backwards": np.full(n, outcome.backwards)}


def _test_sample(task: Task, context: Context) -> _Sample:
    splits = task.data.load()
    kept = subset(len(splits.test_y), task.spec["n_examples"])
    x = torch.from_numpy(splits.test_x[kept]).to(context.device, memory_format=torch.channels_last)
    y = torch.from_numpy(splits.test_y[kept]).to(context.device)
    return _Sample(torch.from_numpy(kept).to(context.device), x.float() / 255, y)


def in_batches(
    n: int, context: Context, advance: Advance, work: Callable[[slice], Columns], partial: Path
) -> Columns:
    """``work`` on rows 0 … n-1, a batch at a time; what is done is kept in ``partial`` now and then.

    An automatic batch size is halved where memory runs out.

    Returns:
        The columns of all batches, joined.

    Raises:
        StoreError: ``partial`` is damaged.
    """
    size = context.batch_size or _AUTO_BATCH[torch.device(context.device).type]
    done, start = _resume(partial)
    kept = time.monotonic()
    advance(start, n, "images")
    while start < n:
        try:
            part = work(slice(start, start + size))
        except torch.OutOfMemoryError:
            if context.batch_size or size == 1:
                raise
            size //= 2
            torch.cuda.empty_cache()
            continue
        done = {name: np.concatenate([done[name], part[name]]) for name in part} if done else part
        start = min(start + size, n)
        advance(start, n, "images")
        if time.monotonic() - kept > KEEP_EVERY and start < n:
            buffer = io.BytesIO()
            np.savez(buffer, **done)  # type: ignore[arg-type]
            write_atomic(partial, buffer.getvalue())
            kept = time.monotonic()
    return done


def _resume(partial: Path) -> tuple[Columns, int]:
    if not partial.is_file():
        return {}, 0
    try:
        with np.load(partial) as file:
            columns = dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(
            f"{partial} is damaged ({error}); delete it and run the same command again"
        ) from error
    return columns, len(columns["forwards"])
