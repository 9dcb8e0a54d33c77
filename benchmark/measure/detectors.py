"""Guarded classifiers: adaptive attacks on them, and cells with their verdicts on images."""

import time

import torch

from robustness_bench.attacks.adaptive import AdaptiveDetection
from robustness_bench.attacks.numerics import geometry
from robustness_bench.benchmark.context import Advance, Context
from robustness_bench.benchmark.measure.attacks import Sample, image_name, passes_of, test_sample
from robustness_bench.benchmark.measure.parts import Columns, forget, in_batches
from robustness_bench.benchmark.plan.detectors import CALIBRATION
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.store.cards import circumstances, keep, load_tensors, read_card
from robustness_bench.benchmark.store.cells import DISTANCES
from robustness_bench.benchmark.store.detections import FLAG, SCORE, write_detection
from robustness_bench.benchmark.train.detectors import Calibration, load_networks, read_calibration
from robustness_bench.defenses.detectors.registry import build_detector
from robustness_bench.defenses.detectors.system import System


def adapt(task: Task, context: Context, advance: Advance) -> None:
    """Attack a whole system and keep the images; the natural image where nothing was found."""
    started = time.monotonic()
    system, sample = _system(task, context), test_sample(task, context)
    parameters = {key: value for key, value in task.spec["parameters"].items() if key != "attack"}
    attack = AdaptiveDetection(**parameters)

    def work(rows: slice) -> Columns:
        found = attack.run(system, sample.x[rows], sample.y[rows])
        return {
            "x_adv": found.x_adv.cpu().contiguous().numpy(),
            "success": found.success.cpu().numpy(),
            **passes_of(len(found.success), found.forwards, found.backwards),
        }

    partial = (context.out / task.path).with_suffix(".partial")
    columns, before = in_batches(len(sample.y), context, advance, work, partial, task.shard)
    if task.shard:
        return
    found = {name: float(columns[name].mean()) for name in ("success", "forwards", "backwards")}
    keep(task, context, started - before, {"x_adv": torch.from_numpy(columns["x_adv"])}, **found)
    forget(partial)


def detect(task: Task, context: Context, advance: Advance) -> None:
    """Record a system's verdict on each of a cell's images."""
    started = time.monotonic()
    system, sample = _system(task, context), test_sample(task, context)
    x, forwards, backwards = sample.x, 0.0, 0.0
    if "crafted" in task.parents:
        path = context.out / task.parents["crafted"].path
        x = load_tensors(path)[image_name(task.spec["rule"])].to(sample.x)
        card = read_card(path)
        forwards, backwards = card["forwards"], card["backwards"]

    def work(rows: slice) -> Columns:
        piece = sample.part(rows)
        return _judged(system, piece, x[rows]) | passes_of(len(piece.y), forwards, backwards)

    partial = (context.out / task.path).with_suffix(".partial")
    columns, before = in_batches(len(sample.y), context, advance, work, partial)
    calibrations = _calibrations(task, context)
    write_detection(
        context.out / task.path,
        task,
        columns,
        thresholds={name: found.threshold for name, found in calibrations.items()},
        remarks={name: found.remark for name, found in calibrations.items() if found.remark},
        **circumstances(task, context, started - before),
    )
    forget(partial)


def _judged(system: System, piece: Sample, x: torch.Tensor) -> Columns:
    judged, moved = system.judge(x), x - piece.x
    with torch.no_grad():
        clean = system.networks.classifier(piece.x).argmax(1)
    return {
        "sample": piece.ids.cpu().numpy(),
        "label": piece.y.cpu().numpy(),
        "clean_prediction": clean.cpu().numpy(),
        "prediction": judged.logits.argmax(1).cpu().numpy(),
        "reformed_prediction": judged.reformed.argmax(1).cpu().numpy(),
        **{norm: geometry.size(moved, norm).cpu().numpy() for norm in DISTANCES},
        **{SCORE + name: score.cpu().numpy() for name, score in judged.scores.items()},
        **{FLAG + name: flag.cpu().numpy() for name, flag in judged.flags.items()},
    }


def _system(task: Task, context: Context) -> System:
    """Return the system built from a task's parents: classifier, networks and thresholds."""
    found = _calibrations(task, context)
    return System(
        load_networks(task, context),
        {name: build_detector(identity) for name, identity in task.spec["detectors"].items()},
        {name: each.threshold for name, each in found.items()},
        task.spec["reformer"] or None,
        {name: each.scale for name, each in found.items()},
    )


def _calibrations(task: Task, context: Context) -> dict[str, Calibration]:
    return {
        role.removeprefix(CALIBRATION): read_calibration(context.out / parent.path)
        for role, parent in task.parents.items()
        if role.startswith(CALIBRATION)
    }
