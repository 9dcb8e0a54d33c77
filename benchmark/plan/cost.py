"""Estimates of a task's work before it runs: passes from its settings, seconds from a timed probe.

An attack's cost depends on how many samples withstand it, which is not known before it runs. So its time
is a range: from no sample to all samples.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from robustness_bench.attacks.registry import build_attack
from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.plan.probe import BACKWARD, probe_passes
from robustness_bench.benchmark.plan.tasks import OWN, ZOO, Task

_HALF = 0.5  # the middle of the range of withstanding samples, where one number is needed (a progress bar)
_PART = 0.3  # cost of a pass through an auto-encoder or generator, as a share of the classifier's
_ADAPTIVE_LOOPS = ("targets", "search_steps", "steps")
_PROBE_IMAGES, _PROBE_RUNS = 64, 5
_FASTER = 1.5  # how much faster than the timed batch a run may be, if other work on the machine ends
_SLOWER = {"train": 2.5, "estimators": 2.5}
_SLOWER_ATTACK = 4.0
"""How much slower than the timed batch a run may be: weights' gradients, held-out images, an attack's own
arithmetic (in results/digits AutoAttack takes twice, FWA four times as long per pass as PGD), small batches,
other work."""
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
    spec = task.spec
    if task.kind in ("train", "estimators"):
        return _training_passes(task)
    if task.kind in ("part", "calibrate", "adapt", "detect"):
        return _detector_passes(task, withstanding)
    key = _model_key(task if task.kind == "load" else task.parents["model"])
    if task.kind == "load":
        return Passes(key, 0.0, 0.0)
    if task.kind == "diagnose":
        return Passes(key, *probe_passes(spec["probe"], spec["n_examples"], withstanding))
    if "crafted" in task.parents:  # evaluated, not crafted
        return Passes(key, 2.0 * spec["n_examples"], 0.0)
    forwards, backwards = build_attack(spec["parameters"]).passes(task.data.info.classes)
    share = 1.0 if spec.get("goal") == "transfer" else withstanding
    n = spec["n_examples"]  # the natural image, then the attack and the evaluation of its result
    return Passes(key, n * (1 + share * (forwards + 1)), n * share * backwards)


def _detector_passes(task: Task, withstanding: float) -> Passes:
    """Return rough passes: a part's pass counts as a classifier's, an image's conditional images as K."""
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
    images = spec["n_examples"] * looks
    steps = images * withstanding * math.prod(spec["parameters"][name] for name in _ADAPTIVE_LOOPS)
    return Passes(key, images + steps, steps)


def _model_key(task: Task) -> tuple[str, int, str]:
    """Return architecture, width and data set of a model; one from elsewhere counts as a ResNet-18."""
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


def measure(tasks: Iterable[Task], context: Context) -> dict[tuple[str, int, str], Speed]:
    """Time a batch of each model that the tasks use, freshly initialised, with a worker's threads."""
    import torch

    speeds: dict[tuple[str, int, str], Speed] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(context.threads or threads)
    try:
        _measure(tasks, context.device, speeds)
    finally:
        torch.set_num_threads(threads)
    return speeds


def _measure(tasks: Iterable[Task], device: str, speeds: dict[tuple[str, int, str], Speed]) -> None:
    for task in tasks:
        key = passes(task).model
        if key not in speeds:
            speeds[key] = _probe(key, task, device)


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

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def both() -> None:
        z = x.clone().requires_grad_()
        torch.autograd.grad(model(z).sum(), z)

    def seconds(run: Callable[[], None]) -> Seconds:
        run()  # the first run also allocates memory
        taken = []
        for _ in range(_PROBE_RUNS):
            started = time.perf_counter()
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            taken.append((time.perf_counter() - started) / _PROBE_IMAGES)
        return Seconds(min(taken), max(taken))

    one, two = seconds(forward), seconds(both)
    unsteady = max(one.high / one.low, two.high / two.low)
    return Speed(one.low, max(two.low - one.low, 0.0), unsteady)


def predicted_seconds(task: Task, speeds: Mapping[tuple[str, int, str], Speed]) -> Seconds:
    """Return the seconds of one task alone on the probed device, without the start of its process."""
    least, most = passes(task, 0.0), passes(task, 1.0)
    speed = speeds[least.model]
    slower = _SLOWER.get(task.kind, _SLOWER_ATTACK) * speed.unsteady
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
        before = max((ends.get(parent.id, 0.0) for parent in task.parents.values()), default=0.0)
        ends[task.id] = before + seconds[task.id]
    return max(ends.values(), default=0.0)
