"""Estimates of a task's work before it runs: passes from its settings, seconds from a timed probe.

An attack's cost depends on how many samples withstand it, which is not known before it runs. So its time
is a range: from no sample to all samples.
"""

import math
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from robustness_bench.attacks.class_names import load
from robustness_bench.attacks.registry import build_attack
from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.plan.probe import BACKWARD, probe_passes
from robustness_bench.benchmark.plan.protocol import ZOOS
from robustness_bench.benchmark.plan.tasks import OWN, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

_HALF = 0.5  # the middle of the range of withstanding samples, where one number is needed (a progress bar)
_PART = 0.3  # cost of a pass through an auto-encoder or generator, as a share of the classifier's
_ADAPTIVE_LOOPS = ("targets", "search_steps", "steps")
_PROBE_IMAGES, _PROBE_RUNS = 64, 5
_FASTER = 1.5  # how much faster than the timed batch a run may turn out: other work beside it has ended
_START = (1.0, 30.0)  # seconds until a worker process has loaded what it needs


class Passes(NamedTuple):
    """Forward and backward passes of single images through ``model`` (name, width, data set)."""

    model: tuple[str, int, str]
    forwards: float
    backwards: float

    @property
    def total(self) -> float:
        """Passes in units of one forward pass."""
        return self.forwards + BACKWARD * self.backwards


class Speed(NamedTuple):
    """Seconds per image, the fastest of a few timed batches; ``unsteady``: slowest over fastest."""

    forward: float
    backward: float
    unsteady: float = 1.0

    def seconds(self, work: Passes) -> float:
        """Return the seconds of this work, at the fastest."""
        return work.forwards * self.forward + work.backwards * self.backward


class Seconds(NamedTuple):
    """The least and the most seconds."""

    low: float
    high: float


def passes(task: Task, withstanding: float = _HALF) -> Passes:
    """Return a task's passes: exact for a training; for an attack, by the share of samples that withstand.

    Args:
        withstanding: 0: every sample is fooled at once, or misclassified anyway; 1: all are attacked to
            the end, the most that the task can cost.
    """
    found: Passes = load(task.how.passes)(task, withstanding)
    return Passes(found.model, found.forwards * task.share, found.backwards * task.share)


def training_passes(task: Task, withstanding: float) -> Passes:
    recipe = task.spec["training"]
    steps = recipe["attack_steps"] if "norm" in task.spec else 0
    outputs = (2 if "estimators" in task.parents else 1) + (1 if steps and recipe.get("prior") else 0)
    work = recipe["epochs"] * _fitted(task) * (steps + outputs)
    return Passes(_model_key(task), work, work)


def estimators_passes(task: Task, withstanding: float) -> Passes:
    """Return those of MI estimators: the attack, its start, and both images through the frozen model."""
    recipe = task.spec["estimators"]
    work = recipe["epochs"] * _fitted(task) * (recipe["attack_steps"] + 3)
    return Passes(_model_key(task.parents["pretrained"]), work, work)


def _fitted(task: Task) -> int:
    """Return how many images a training sees in an epoch."""
    return min(task.spec["training"]["train_limit"] or task.data.train_images, task.data.train_images)


def no_passes(task: Task, withstanding: float) -> Passes:
    """Return none, for weights that exist already."""
    return Passes(_model_key(task), 0.0, 0.0)


def diagnosis_passes(task: Task, withstanding: float) -> Passes:
    work = probe_passes(task.spec["probe"], task.spec["n_examples"], withstanding)
    return Passes(_model_key(task.parents["model"]), *work)


def attack_passes(task: Task, withstanding: float) -> Passes:
    """Return the passes of an attack, or of evaluating images that were crafted before."""
    spec, key = task.spec, _model_key(task.parents["model"])
    n = spec["n_examples"]
    if "crafted" in task.parents or task.images:  # shown, not made
        return Passes(key, 2.0 * n, 0.0)
    forwards, backwards = build_attack(spec["parameters"]).passes(task.data.info.classes)
    share = 1.0 if spec.get("goal") == "transfer" else withstanding
    # The natural image, then the attack and a look at what it made; ensembles as if all were the first.
    n *= len(task.parents) if task.kind == "craft" else 1
    return Passes(key, n * (1 + share * (forwards + 1)), n * share * backwards)


def part_passes(task: Task, withstanding: float) -> Passes:
    """Estimate the passes roughly: one of a detector's network counts as a share of a classifier's."""
    work = task.spec["recipe"]["epochs"] * _fitted(task) * _PART
    return Passes(("magnet-cnn", 32, task.data.info.name), work, work)


def calibration_passes(task: Task, withstanding: float) -> Passes:
    """Estimate the passes roughly: each conditional image counts as one pass of the classifier."""
    images = (task.spec["images"] or 1000) * task.data.info.classes
    return Passes(_model_key(task.parents["model"]), images, 0.0)


def detection_passes(task: Task, withstanding: float) -> Passes:
    """Estimate the passes as roughly as `calibration_passes`."""
    return Passes(_model_key(task.parents["model"]), task.spec["n_examples"] * _looks(task), 0.0)


def adaptive_passes(task: Task, withstanding: float) -> Passes:
    """Estimate the passes as roughly as `calibration_passes`."""
    images = task.spec["n_examples"] * _looks(task)
    steps = images * withstanding * math.prod(task.spec["parameters"][name] for name in _ADAPTIVE_LOOPS)
    return Passes(_model_key(task.parents["model"]), images + steps, steps)


def _looks(task: Task) -> float:
    """Return the passes that a system takes to judge an image."""
    generates = any("generator" in identity for identity in task.spec["detectors"].values())
    return 3.0 + (task.data.info.classes if generates else 0)


def _model_key(task: Task) -> tuple[str, int, str]:
    """Return architecture, width and data set of a model; one from elsewhere counts as a ResNet-18."""
    model = task.spec["model"]
    if model.startswith(ZOOS) or model == OWN:
        return ("resnet-18", 64, task.data.info.name)
    return (model, task.spec["width"], task.data.info.name)


def measure(tasks: Iterable[Task], context: Context) -> dict[tuple[str, int, str], Speed]:
    """Time a batch of each model that the tasks use, freshly initialised, with a worker's threads."""
    import torch

    speeds: dict[tuple[str, int, str], Speed] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(context.threads or threads)
    try:
        for task in tasks:
            key = passes(task).model
            if key not in speeds:
                speeds[key] = _probe(key, task, context.device)
    finally:
        torch.set_num_threads(threads)
    return speeds


def _probe(key: tuple[str, int, str], task: Task, device: str) -> Speed:
    import torch

    from robustness_bench.benchmark.networks import build_model
    from robustness_bench.benchmark.networks.fold import folded

    info = task.data.info
    with torch.random.fork_rng(devices=[]):
        model = folded(build_model(key[0], info, key[1])).requires_grad_(False)
    layout = torch.channels_last
    model = model.to(device).to(memory_format=layout)
    x = torch.rand(_PROBE_IMAGES, info.channels, info.size, info.size, device=device)
    x = x.contiguous(memory_format=layout)
    one, two = (pass_seconds(model, x, _PROBE_RUNS, gradient=each) for each in (False, True))
    unsteady = max(one.high / one.low, two.high / two.low)
    return Speed(one.low, max(two.low - one.low, 0.0), unsteady)


def pass_seconds(model: "nn.Module", x: "Tensor", runs: int, *, gradient: bool) -> Seconds:
    """Time some passes of a batch, with the gradient by ``x`` or without: seconds per image."""
    import torch

    taken = []
    for _ in range(1 + runs):
        started = time.perf_counter()
        with torch.set_grad_enabled(gradient):
            z = x.clone().requires_grad_() if gradient else x
            logits = model(z)
        if gradient:
            torch.autograd.grad(logits.sum(), z)
        if x.is_cuda:
            torch.cuda.synchronize()
        taken.append((time.perf_counter() - started) / len(x))
    return Seconds(min(taken[1:]), max(taken[1:]))  # the first run also allocates memory


def predicted_seconds(task: Task, speeds: Mapping[tuple[str, int, str], Speed]) -> Seconds:
    """Return the seconds of one task alone on the probed device, without the start of its process."""
    least, most = passes(task, 0.0), passes(task, 1.0)
    speed = speeds[least.model]
    slower = task.how.slower * speed.unsteady
    return Seconds(speed.seconds(least) / _FASTER, speed.seconds(most) * slower)


def predicted_total(seconds: Mapping[str, Seconds], tasks: Iterable[Task], workers: int) -> Seconds:
    """Return the seconds of all tasks (given in an order in which they can run) and of the workers' start.

    At least: the evenly shared work, or the longest chain of dependent tasks, whichever is more. At most:
    their sum (Graham 1969, SIAM J. Appl. Math. 17:416-429: the bound of a list schedule).
    """
    chains = Seconds(*(_longest_chain(tasks, {k: v[end] for k, v in seconds.items()}) for end in (0, 1)))
    shared = Seconds(*(sum(each[end] for each in seconds.values()) / workers for end in (0, 1)))
    low = max(shared.low, chains.low)
    return Seconds(low + _START[0], shared.high + chains.high * (1 - 1 / workers) + _START[1])


def _longest_chain(tasks: Iterable[Task], seconds: Mapping[str, float]) -> float:
    ends: dict[str, float] = {}
    for task in tasks:
        before = max((ends.get(parent.id, 0.0) for parent in task.needs), default=0.0)
        ends[task.id] = before + seconds[task.id]
    return max(ends.values(), default=0.0)
