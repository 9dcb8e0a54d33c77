"""Train the networks that detectors share, and set the detectors' thresholds."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustness_bench.benchmark.context import Advance, Context
from robustness_bench.benchmark.data.base import subset
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.plan.detectors import MODEL, PART
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.store.cards import keep, load_tensors, read_card
from robustness_bench.benchmark.store.generated import (
    ConditionalExamples,
    examples_of,
    write_conditional_examples,
)
from robustness_bench.benchmark.store.models import load_model
from robustness_bench.benchmark.train.defenses import finish, fit_of, seeded
from robustness_bench.benchmark.train.images import TrainingData, pixels
from robustness_bench.benchmark.train.loop import one_cycle, stepped
from robustness_bench.defenses.detectors.base import Part
from robustness_bench.defenses.detectors.generator import GeneratorNetwork
from robustness_bench.defenses.detectors.registry import build_detector, build_part
from robustness_bench.defenses.detectors.scores import threshold
from robustness_bench.defenses.detectors.view import DetectorError, Networks, View

_AT_ONCE = 100
_SHOWN = 8
_NEAR = 0.9
_SCHEDULES: dict[str, Callable[[float], Callable[[float], float]]] = {
    "one-cycle": one_cycle,
    "quarter": lambda lr: stepped(lr, (2 / 3,), 0.25),  # in the last third
}


class CalibrationError(RuntimeError):
    """The scores give no threshold: only this detector's cells fail."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The result of a "calibrate" task.

    Attributes:
        threshold: images with at least this score are flagged.
        scale: threshold minus the 90th percentile of natural scores: the unit of an excess.
        remark: why the detector's networks are inadequate; "" if they are not.
    """

    threshold: float
    scale: float
    remark: str


def calibrate(task: Task, context: Context, advance: Advance) -> None:
    """Score held-out natural images, set the threshold, and measure how good the networks are."""
    started = time.monotonic()
    spec = task.spec
    held = TrainingData(task, torch.device(context.device)).held_out()
    if held is None:
        raise BenchError("detectors need held-out images for their thresholds: detection.training.holdout")
    networks = load_networks(task, context)
    detector = build_detector(spec["identity"])
    chosen = torch.from_numpy(subset(len(held), spec["images"])).to(held.x.device)
    x, y = held.x[chosen], held.y[chosen]
    scores = []
    with torch.no_grad():
        for part in x.split(_AT_ONCE):
            scores.append(detector.score(View(part, networks)).cpu())
            advance(_AT_ONCE * len(scores), len(x), "images")
    found = torch.cat(scores)
    figures = {
        name: _figures(networks, name, x, y, read_card(context.out / task.parents[PART + name].path))
        for name in spec["gates"]
    }
    limit = _threshold(task, found)
    for name, network in networks.parts.items():
        defends = task.parents[PART + name].seed == task.seed  # an attacker's network has another seed
        if defends and isinstance(network, GeneratorNetwork):
            _show(task, context, networks, name, x[:_SHOWN], y[:_SHOWN])
    keep(
        task,
        context,
        started,
        {"scores": found},
        threshold=limit,
        near=float(found.quantile(_NEAR)),
        figures=figures,
        remark="; ".join(filter(None, (_remark(n, figures[n], g) for n, g in spec["gates"].items()))),
    )


def _threshold(task: Task, scores: Tensor) -> float:
    try:
        return threshold(scores, task.spec["rate"])
    except DetectorError as error:
        raise CalibrationError(f"{task.title}: {error}") from error


def read_calibration(path: Path) -> Calibration:
    """Read the threshold and scale that a "calibrate" task found.

    Raises:
        StoreError: the file is damaged.
    """
    card = read_card(path)
    scale = card["threshold"] - card["near"]  # 0 where scores are tied; an excess is divided by it
    return Calibration(threshold=card["threshold"], scale=scale or 1.0, remark=card["remark"])


def load_networks(task: Task, context: Context) -> Networks:
    parts = {
        role.removeprefix(PART): load_part(parent, context)
        for role, parent in task.parents.items()
        if role.startswith(PART)
    }
    return Networks(classifier=load_model(task.parents[MODEL], context), parts=parts)


@torch.no_grad()
def _figures(networks: Networks, name: str, x: Tensor, y: Tensor, card: dict[str, Any]) -> dict[str, Any]:
    """Measure one part: its reconstruction error and, for a generator, how the classifier classifies it."""
    figures = {"held_out_error": card["history"][-1]["held_out_error"]}
    network = networks.parts[name]
    if not isinstance(network, GeneratorNetwork):
        return figures
    called = torch.cat(
        [View(part, networks).conditional_logits(name).argmax(2) for part in x.split(_AT_ONCE)]
    )
    classes = torch.arange(network.classes, device=x.device)
    confusion = [[float((called[:, j] == i).float().mean()) for i in classes] for j in classes]
    own = called.gather(1, y[:, None])[:, 0]
    return {
        **figures,
        "swap_accuracy": float((called == classes).float().mean()),
        "reconstruction_accuracy": float((own == y).float().mean()),
        "confusion": confusion,
    }


def _remark(name: str, figures: dict[str, Any], gate: float) -> str:
    if "swap_accuracy" in figures:
        if (reached := figures["swap_accuracy"]) < gate:
            return f"generator inadequate: swap accuracy {reached:.3f}, below its gate {gate:g}"
    elif (error := figures["held_out_error"]) > gate:
        return f"{name} undertrained: mean squared error {error:.4f}, above its gate {gate:g}"
    return ""


@torch.no_grad()
def _show(task: Task, context: Context, networks: Networks, name: str, x: Tensor, y: Tensor) -> None:
    """Keep a few images for every class condition, for viewing."""
    view = View(x, networks)
    rebuilt = view.generated(name, y)
    path = examples_of(context.out / task.parents[PART + name].path)
    examples = ConditionalExamples(
        x=pixels(x),
        reconstruction=pixels(rebuilt),
        conditional=pixels(view.conditional(name)),
        label=y.cpu().numpy(),
        predicted=view.conditional_logits(name).argmax(2).cpu().numpy(),
    )
    write_conditional_examples(path, examples)


def fit_part(task: Task, context: Context, advance: Advance) -> None:
    """Train the network of a "part" task, and keep its checkpoint and its figures on held-out images."""
    started, device = time.monotonic(), torch.device(context.device)
    recipe, part = task.spec["recipe"], build_part(task.spec["network"])
    data = TrainingData(task, device)
    network = _new(task, part).to(device).train()
    held = data.held_out()

    def loss(epoch: int, indices: Tensor) -> dict[str, Tensor]:
        return part.terms(network, data.images(indices, epoch))

    def evaluate(module: nn.Module) -> dict[str, float]:
        return {} if held is None else part.figures(module, held.x, held.y)

    schedule = _SCHEDULES[recipe["schedule"]](recipe["lr"])
    fit = fit_of(task, context, advance, data, recipe, schedule, task.spec["network"]["part"])
    fit = replace(fit, evaluate=evaluate)
    optimizer = torch.optim.Adam(part.groups(network), betas=part.betas)
    finish(task, context, fit, fit.run(network, optimizer, loss), started)


def load_part(task: Task, context: Context) -> nn.Module:
    """Return the trained network of a "part" task: frozen, in evaluation mode, on the device."""
    network = _new(task, build_part(task.spec["network"]))
    network.load_state_dict(load_tensors(context.out / task.path), strict=True)
    return network.eval().requires_grad_(False).to(context.device)


def _new(task: Task, part: Part) -> nn.Module:
    info = task.data.info
    network: nn.Module = seeded(task.seed, lambda: part.build(info.channels, info.size, info.classes))
    return network
