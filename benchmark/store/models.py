"""Models and estimators from the store, and weights from outside into it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import nn

from robustness_bench.benchmark.context import Advance, Context
from robustness_bench.benchmark.data.base import DatasetInfo, subset
from robustness_bench.benchmark.errors import BenchError, StoreError
from robustness_bench.benchmark.files import write_atomic
from robustness_bench.benchmark.networks import MODELS, STEMS, build_model
from robustness_bench.benchmark.networks.fold import folded
from robustness_bench.benchmark.networks.hub import local_file, origin
from robustness_bench.benchmark.networks.inputs import RULE, parse
from robustness_bench.benchmark.networks.matching import Matched, match
from robustness_bench.benchmark.networks.named import NAMED, build_named, load_named
from robustness_bench.benchmark.networks.named import parse as parse_named
from robustness_bench.benchmark.networks.readings import IMAGES, Trial
from robustness_bench.benchmark.networks.weights import fingerprint, read_tensors, read_weights
from robustness_bench.benchmark.networks.zoo import load_robustbench
from robustness_bench.benchmark.plan.protocol import ZOO
from robustness_bench.benchmark.plan.tasks import OWN, Task
from robustness_bench.benchmark.randomness import keyed
from robustness_bench.benchmark.store.cards import keep, load_tensors, read_card
from robustness_bench.defenses.mutual_information.estimator import MIEstimators, StandardMI, build_estimators

if TYPE_CHECKING:
    from robustness_bench.benchmark.sandbox.remote import RemoteModel

Estimators: TypeAlias = MIEstimators | StandardMI


def load_model(task: Task, context: Context, *, fold: bool = True) -> nn.Module:
    """Return the model of a "train" or "load" task: frozen, evaluating, batch norm folded, on the device.

    A model that came as code runs in a confined process, which ends with the model.

    Args:
        fold: False leaves batch norm and the weights' layout as they were in training.
    """
    if task.spec["model"] == OWN:
        return _confined(task, context, context.out / task.path)
    with keyed(torch.device("cpu"), "replaced"):  # first weights are drawn, and replaced at once
        model = _architecture(task, context, stem_of(task, context))
        model.load_state_dict(load_tensors(context.out / task.path), strict=True)
    if not fold:
        return model.eval().requires_grad_(False).to(context.device)
    model = folded(model).requires_grad_(False)
    return model.to(context.device).to(memory_format=torch.channels_last)


def load_estimators(task: Task, context: Context) -> Estimators:
    """Return the trained estimators of an "estimators" task, frozen, in evaluation mode."""
    with keyed(torch.device("cpu"), "replaced"):
        module = new_estimators(task)
    module.load_state_dict(load_tensors(context.out / task.path), strict=True)
    return module.eval().requires_grad_(False).to(context.device)


def new_estimators(task: Task) -> Estimators:
    """Return freshly initialised estimators of a task; draws from torch's global generator."""
    info, recipe = task.data.info, task.spec["estimators"]
    keys = ("units", "scores", "temperature", "bound", "objective", "floor")
    return build_estimators(info.channels, info.classes, **{key: recipe[key] for key in keys})


def import_weights(task: Task, context: Context, advance: Advance) -> None:
    """Check weights from outside against their architecture and copy them into the store.

    Raises:
        BenchError: the file does not fit, or is no longer the one that was planned with.
    """
    started = time.monotonic()
    state, reading = _imported(task, context)
    how = {} if reading is None else {"reading": reading}
    keep(task, context, started, state, source=origin(task.source), **how)


def stem_of(task: Task, context: Context) -> str:
    """Return the stem of a ResNet with given weights, as chosen on training images; empty: our own."""
    if not task.how.given:
        return ""
    stem: str = read_card(context.out / task.path).get("reading", {}).get("stem", "")
    if stem not in STEMS:
        raise StoreError(f"{task.path} has a stem that is none: {stem!r}; delete its .json and run again")
    return stem


def _imported(task: Task, context: Context) -> tuple[dict[str, torch.Tensor], dict[str, str] | None]:
    """Return the given weights, and how they are run; code is written into the store."""
    if task.spec["model"].startswith(NAMED):
        named = parse_named(task.source)
        if named.file is not None:
            _unchanged(named.file, task.spec["weights"])
        return load_named(named, task.data.info).state_dict(), None
    if task.spec["model"].startswith(ZOO):
        return _architecture(task, context).state_dict(), None
    source = local_file(task.source)
    _unchanged(source, task.spec["weights"])
    if task.spec["model"] == OWN:
        _unchanged(Path(task.network), task.spec["network"])
        return _with_code(task, context, source), None
    model, weights = _architecture(task, context), read_weights(source, task.spec.get("entry", ""))
    chosen = _trial(task, context, match(weights, model, str(source))).choose()
    reading = {"name": chosen.reading.name, "stem": chosen.reading.stem, "note": chosen.note}
    return chosen.state, reading


def _with_code(task: Task, context: Context, source: Path) -> dict[str, torch.Tensor]:
    """Copy the network's code into the store; it is deleted again if the weights do not fit."""
    code = _code(context.out / task.path)
    write_atomic(code, Path(task.network).read_bytes())
    try:
        _confined(task, context, source).close()
        return read_tensors(source)
    except BenchError:
        code.unlink()
        raise


def _trial(task: Task, context: Context, matched: Matched) -> Trial:
    """Return the trial of possible readings of the weights on training images."""
    info, splits, spec = task.data.info, task.data.load(), task.spec
    shown = subset(len(splits.train_y), max(IMAGES, 5 * info.classes))
    asked = spec.get("input", RULE)
    if "plain" in spec:
        asked = "plain" if spec["plain"] else "normalised"
    if matched.mean is not None and asked == "normalised":
        asked = RULE  # it is, by the file's own
    if matched.mean is not None and asked != RULE:
        raise BenchError(
            f"{task.source} has its own normalisation of pixels: leave --weights-input {asked} out"
        )
    return Trial(
        matched=matched,
        model=spec["model"],
        width=spec["width"],
        info=info,
        x=torch.from_numpy(splits.train_x[shown]).to(context.device).float() / 255,
        y=np.asarray(splits.train_y[shown]),
        where=task.source,
        asked=None if asked == RULE else parse(asked),
        accept_low=context.accept_low,
    )


def _unchanged(source: Path, planned: str) -> None:
    if fingerprint(source) != planned:
        raise BenchError(f"{source} has changed since the run began; run the same command again")


def _code(checkpoint: Path) -> Path:
    """Return where the store keeps the code of a network that came with its weights."""
    return checkpoint.with_suffix(".py")


def _confined(task: Task, context: Context, weights: Path) -> "RemoteModel":
    if not context.trust_code:
        raise BenchError(f"{task.title} would run the code of others: read it, then add --trust-code")
    code = _code(context.out / task.path)
    _unchanged(code, task.spec["network"])
    return confined_model(code, weights, task.data.info, context.device)


def confined_model(code: Path, weights: Path, info: DatasetInfo, device: str) -> "RemoteModel":
    """Start a process that runs a network's code with these weights and nothing else."""
    from robustness_bench.benchmark.sandbox.confinement import Limits
    from robustness_bench.benchmark.sandbox.remote import RemoteModel

    about: dict[str, Any] = {"classes": info.classes, "channels": info.channels, "size": info.size}
    return RemoteModel.start(code, weights, limits=Limits(), device=device, **about)


def _architecture(task: Task, context: Context, stem: str = "") -> nn.Module:
    """Return the network of a task; one from a model zoo has its weights."""
    name = task.spec["model"]
    if name.startswith(ZOO):
        return load_robustbench(
            name.removeprefix(ZOO), task.data.info.name, task.spec["zoo_norm"], context.model_dir
        )
    if name.startswith(NAMED):
        return build_named(name, task.data.info, own="weights" in task.spec)
    planned = {key: task.spec[key] for key in ("architecture",) if key in task.spec}  # of a plugin
    if (preset := MODELS.get(name)) and preset.identity() != planned:
        raise BenchError(
            f"{task.title}: the plugin of the network {name} has changed since; install the one it was made "
            "with, or run again"
        )
    return build_model(name, task.data.info, task.spec["width"], stem=stem)
