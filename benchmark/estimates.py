"""How much work a task is, before it runs: passes from its settings, seconds from a timed probe."""

import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from attacks.registry import build_attack
from benchmark.plan import OWN, ZOO, Task
from benchmark.probe_budget import BACKWARD, SURVIVORS, probe_passes

_PART = 0.3  # cost of a pass through an auto-encoder or generator, as a share of the classifier's
_ADAPTIVE_LOOPS = ("targets", "search_steps", "steps")
_PROBE_IMAGES, _PROBE_RUNS = 64, 5


class Passes(NamedTuple):
    """Forward and backward passes of single images through ``model`` (name, width, data set)."""

    model: tuple[str, int, str]
    forwards: float
    backwards: float

    @property
    def total(self) -> float:
        """In units of one forward pass."""
        return self.forwards + BACKWARD * self.backwards


class Speed(NamedTuple):
    """Seconds per image, measured."""

    forward: float
    backward: float


def passes(task: Task) -> Passes:
    """An estimate: training is exact, an attack is assumed to leave half of the samples standing."""
    spec = task.spec
    if task.kind in ("train", "estimators"):
        return _training_passes(task)
    if task.kind in ("part", "calibrate", "adapt", "detect"):
        return _detector_passes(task)
    key = _model_key(task if task.kind == "load" else task.parents["model"])
    if task.kind == "load":
        return Passes(key, 0.0, 0.0)
    if task.kind == "diagnose":
        return Passes(key, *probe_passes(spec["probe"], spec["n_examples"]))
    if "crafted" in task.parents:  # shown, not made
        return Passes(key, 2.0 * spec["n_examples"], 0.0)
    forwards, backwards = build_attack(spec["parameters"]).passes(task.data.info.classes)
    share = 1.0 if spec.get("goal") == "transfer" else SURVIVORS
    n = spec["n_examples"]
    return Passes(key, n * (2 + share * forwards), n * share * backwards)


def _detector_passes(task: Task) -> Passes:
    """Rough: a part's pass is taken for a classifier's, an image's conditional images for K of its passes."""
    spec, info = task.spec, task.data.info
    if task.kind == "part":
        images = min(spec["training"]["train_limit"] or task.data.train_images, task.data.train_images)
        work = spec["recipe"]["epochs"] * images * _PART
        return Passes(("magnet-cnn", 32, info.name), work, work)
    key = _model_key(task.parents["model"])
    if task.kind == "calibrate":
        return Passes(key, (spec["images"] or 1000) * info.classes, 0.0)
    generates = any("generator" in identity for identity in spec["detectors"].values())
    looks = 3.0 + (info.classes if generates else 0)
    if task.kind == "detect":
        return Passes(key, spec["n_examples"] * looks, 0.0)
    steps = spec["n_examples"] * looks * math.prod(spec["parameters"][name] for name in _ADAPTIVE_LOOPS)
    return Passes(key, steps, steps)


def _model_key(task: Task) -> tuple[str, int, str]:
    """Architecture, width and data set of a model; one from elsewhere is taken for a ResNet-18."""
    model = task.spec["model"]
    if model.startswith(ZOO) or model == OWN:
        return ("resnet-18", 64, task.data.info.name)
    return (model, task.spec["width"], task.data.info.name)


def _training_passes(task: Task) -> Passes:
    spec = task.spec
    recipe = spec["training"]
    images = min(recipe["train_limit"] or task.data.train_images, task.data.train_images)
    if task.kind == "estimators":
        model = task.parents["pretrained"]
        steps, own = spec["estimators"]["attack_steps"], 3
        epochs = spec["estimators"]["epochs"]
    else:
        model, epochs = task, recipe["epochs"]
        steps = recipe["attack_steps"] if "norm" in spec else 0
        own = 2 if "estimators" in task.parents else 1
    passes = epochs * images * (steps + own)
    return Passes(_model_key(model), passes, passes)


def measure(tasks: Iterable[Task], device: str) -> dict[tuple[str, int, str], Speed]:
    """Time a batch of each model that the tasks use, freshly initialised."""
    speeds: dict[tuple[str, int, str], Speed] = {}
    for task in tasks:
        key = passes(task).model
        if key not in speeds:
            speeds[key] = _probe(key, task, device)
    return speeds


def _probe(key: tuple[str, int, str], task: Task, device: str) -> Speed:
    import torch

    from benchmark.models import build_model
    from benchmark.models.fold import folded

    info = task.data.info
    with torch.random.fork_rng(devices=[]):
        model = folded(build_model(key[0], info, key[1])).requires_grad_(False)
    layout = torch.channels_last
    model = model.to(device).to(memory_format=layout)
    x = torch.rand(_PROBE_IMAGES, info.channels, info.size, info.size, device=device)
    x = x.contiguous(memory_format=layout)

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def both() -> None:
        z = x.clone().requires_grad_()
        torch.autograd.grad(model(z).sum(), z)

    def seconds(run: Callable[[], None]) -> float:
        best = float("inf")
        for _ in range(_PROBE_RUNS):
            started = time.perf_counter()
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - started)
        return best / _PROBE_IMAGES

    forwards = seconds(forward)
    return Speed(forwards, max(seconds(both) - forwards, 0.0))


def predicted_seconds(task: Task, speeds: dict[tuple[str, int, str], Speed]) -> float:
    """Estimated seconds of one task alone on the probed device."""
    work = passes(task)
    speed = speeds[work.model]
    return work.forwards * speed.forward + work.backwards * speed.backward
