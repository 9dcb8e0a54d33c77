"""Models and estimators from the store, and weights from outside into it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn

from benchmark.atomic import write_atomic
from benchmark.checkpoints import load_tensors, save_tensors
from benchmark.context import Advance, Context, environment
from benchmark.errors import BenchError
from benchmark.models import build_model
from benchmark.models.fold import folded
from benchmark.plan import OWN, ZOO, Task
from benchmark.randomness import keyed
from benchmark.weights import fingerprint, fit_weights, read_weights
from benchmark.zoo import load_robustbench
from defenses.mutual_information.estimator import MIEstimators, StandardMI, build_estimators

if TYPE_CHECKING:
    from benchmark.submission.remote import RemoteModel

Estimators: TypeAlias = MIEstimators | StandardMI


def load_model(task: Task, context: Context) -> nn.Module:
    """The model of a "train" or "load" task: frozen, evaluating, batch norm folded, on the device.

    One that came as code runs in a confined process of its own, which ends with the model.
    """
    if task.spec["model"] == OWN:
        return _confined(task, context, context.out / task.path)
    with keyed(torch.device("cpu"), "replaced"):  # first weights are drawn, and replaced at once
        model = _architecture(task, context)
        model.load_state_dict(load_tensors(context.out / task.path), strict=True)
        model = folded(model).requires_grad_(False)
    return model.to(context.device).to(memory_format=torch.channels_last)


def load_estimators(task: Task, context: Context) -> Estimators:
    """The trained estimators of an "estimators" task, frozen, in evaluation mode."""
    with keyed(torch.device("cpu"), "replaced"):
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
    state = _imported(task, context)
    card = {
        "id": task.id,
        "seed": task.seed,
        "spec": task.spec,
        "source": task.source,
        "environment": environment(context.device),
        "seconds": round(time.monotonic() - started, 3),
    }
    save_tensors(context.out / task.path, state, card)


def _imported(task: Task, context: Context) -> dict[str, torch.Tensor]:
    """What a "load" task brings into the store; code it writes there itself."""
    source = Path(task.source)
    if task.spec["model"].startswith(ZOO):
        return _architecture(task, context).state_dict()
    _unchanged(source, task.spec["weights"])
    if task.spec["model"] == OWN:
        _unchanged(Path(task.network), task.spec["network"])
        write_atomic(_code(context.out / task.path), Path(task.network).read_bytes())
        _confined(task, context, source).close()
        return read_weights(source)
    model = _architecture(task, context)
    state = fit_weights(read_weights(source), model, str(source), plain=task.spec["plain"])
    model.load_state_dict(state, strict=True)
    return model.state_dict()


def _unchanged(source: Path, planned: str) -> None:
    if fingerprint(source) != planned:
        raise BenchError(f"{source} has changed since the run began; run the same command again")


def _code(checkpoint: Path) -> Path:
    """Where the store keeps the network of weights that came with one."""
    return checkpoint.with_suffix(".py")


def _confined(task: Task, context: Context, weights: Path) -> "RemoteModel":
    from benchmark.submission.confinement import Limits
    from benchmark.submission.remote import RemoteModel

    if not context.trust_code:
        raise BenchError(f"{task.title} would run the code of others: read it, then add --trust-code")
    code = _code(context.out / task.path)
    _unchanged(code, task.spec["network"])
    info = task.data.info
    return RemoteModel.start(
        code,
        weights,
        classes=info.classes,
        channels=info.channels,
        size=info.size,
        limits=Limits(),
        device=context.device,
    )


def _architecture(task: Task, context: Context) -> nn.Module:
    """The network of a task; one from a model zoo comes with its weights."""
    name = task.spec["model"]
    if name.startswith(ZOO):
        return load_robustbench(
            name.removeprefix(ZOO), task.data.info.name, task.spec["zoo_norm"], context.model_dir
        )
    return build_model(name, task.data.info, task.spec["width"])
