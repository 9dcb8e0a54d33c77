"""Models and estimators from the store, and weights from outside into it."""

import time
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from benchmark.checkpoints import load_tensors, save_tensors
from benchmark.context import Advance, Context, environment
from benchmark.errors import BenchError
from benchmark.models import build_model
from benchmark.models.fold import folded
from benchmark.plan import ZOO, Task
from benchmark.weights import fingerprint, fit_weights, read_weights
from benchmark.zoo import load_robustbench
from defenses.mutual_information.estimator import MIEstimators, StandardMI, build_estimators

Estimators: TypeAlias = MIEstimators | StandardMI


def load_model(task: Task, context: Context) -> nn.Module:
    """The model of a "train" or "load" task: frozen, evaluating, batch norm folded, on the device."""
    model = _architecture(task, context)
    model.load_state_dict(load_tensors(context.out / task.path), strict=True)
    model = folded(model).requires_grad_(False)
    return model.to(context.device).to(memory_format=torch.channels_last)


def load_estimators(task: Task, context: Context) -> Estimators:
    """The trained estimators of an "estimators" task, frozen, in evaluation mode."""
    module = new_estimators(task)
    module.load_state_dict(load_tensors(context.out / task.path), strict=True)
    return module.eval().requires_grad_(False).to(context.device)


def new_estimators(task: Task) -> Estimators:
    """Freshly initialised estimators of an "estimators" task; draws from torch's global generator."""
    info, recipe = task.data.info, task.spec["estimators"]
    return build_estimators(
        info.channels,
        info.classes,
        units=recipe["units"],
        scores=recipe["scores"],
        bound=recipe["bound"],
        objective=recipe["objective"],
    )


def import_weights(task: Task, context: Context, advance: Advance) -> None:
    """Check weights from outside against their architecture and copy them into the store.

    Raises:
        BenchError: the file does not fit, or is no longer the one that was planned with.
    """
    started = time.monotonic()
    model = _architecture(task, context)
    if not task.source.startswith(ZOO):
        source = Path(task.source)
        if fingerprint(source) != task.spec["weights"]:
            raise BenchError(f"{source} has changed since the run began; run the same command again")
        state = fit_weights(read_weights(source), model, str(source), plain=task.spec["plain"])
        model.load_state_dict(state, strict=True)
    card = {
        "id": task.id,
        "seed": task.seed,
        "spec": task.spec,
        "source": task.source,
        "environment": environment(context.device),
        "seconds": round(time.monotonic() - started, 3),
    }
    save_tensors(context.out / task.path, model.state_dict(), card)


def _architecture(task: Task, context: Context) -> nn.Module:
    """The network of a task; one from a model zoo comes with its weights."""
    name = task.spec["model"]
    if name.startswith(ZOO):
        return load_robustbench(
            name.removeprefix(ZOO), task.data.info.name, task.spec["zoo_norm"], context.model_dir
        )
    return build_model(name, task.data.info, task.spec["width"])
