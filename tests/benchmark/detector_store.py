"""What a run of detectors leaves, with made-up outcomes: every file of a store under its real name and id."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustness_bench.benchmark.cli.shared.options import Request
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.plan.detectors import CALIBRATION, make_whole_plan
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.store.cards import save_tensors
from robustness_bench.benchmark.store.detections import FLAG, SCORE, write_detection
from robustness_bench.benchmark.store.generated import (
    ConditionalExamples,
    examples_of,
    write_conditional_examples,
)

IMAGES, HELD_OUT, THRESHOLD = 6, 200, 198.0
SYSTEMS = "magnet,mi-magnet"
MACHINE = {"hardware": "here"}
REMARK = "generator inadequate: swap accuracy 0.500, below its gate 0.9"
_EPOCH = {"lr": 0.1, "gradient_norm": 1.0, "seconds": 2.0, "images_per_second": 3.0, "held_out_error": 0.001}


def asked(systems: str = SYSTEMS, images: int = IMAGES) -> list[object]:
    """The options of ``bench run`` that plan what ``write_detectors`` writes."""
    return ["--defense", systems, "--dataset", "digits", "--n-examples", images]


def write_detectors(
    out: Path,
    *,
    systems: str = SYSTEMS,
    images: int = IMAGES,
    seeds: int = 1,
    caught: int = 3,
    weights: float = 1.0,
    seconds: float = 1.0,
    error: str = "",
) -> list[Task]:
    """Write all tasks of a run.

    Args:
        caught: attacked images that every detector flags; the classifier is fooled on all of them.
        weights: what every tensor holds.
        error: of all cells; they have no rows then.
    """
    request = Request(defense=[systems], dataset=["digits"], n_examples=images, seeds=seeds)
    protocol, data = request.protocol(), {"digits": locate("digits", Path("data"))}
    tasks = make_whole_plan(protocol, data)
    for task in tasks:
        path = out / task.path
        card = {"id": task.id, "seed": task.seed, "spec": task.spec}
        card |= {"environment": MACHINE, "seconds": seconds, "forwards": 9.0, "backwards": 8.0}
        if task.kind == "detect":
            _write_cell(path, task, caught, seconds, error)
        elif task.kind == "calibrate":
            _write_calibration(path, task, card)
        else:
            history = {"history": [_EPOCH], "epoch": 1} if task.kind in ("train", "part") else {}
            save_tensors(path, {"w": torch.full((2, 3), weights)}, card | history)
            if task.kind == "part" and "generator" in task.path.name:
                write_conditional_examples(examples_of(path), generated())
    return tasks


def generated(classes: int = 10, seed: int = 0) -> ConditionalExamples:
    """Three images of noise; the classifier sees every class but the last."""
    rng = np.random.default_rng(seed)
    predicted = np.tile(np.arange(classes), (3, 1))
    predicted[:, -1] = 0
    return ConditionalExamples(
        x=rng.integers(0, 256, (3, 1, 8, 8), np.uint8),
        reconstruction=rng.integers(0, 256, (3, 1, 8, 8), np.uint8),
        conditional=rng.integers(0, 256, (3, classes, 1, 8, 8), np.uint8),
        label=np.array([2, 0, 2]),
        predicted=predicted,
    )


def _write_calibration(path: Path, task: Task, card: dict[str, Any]) -> None:
    parts = task.spec["gates"]
    figures = {name: {"held_out_error": 0.001} for name in parts}
    if "generator" in parts:
        figures["generator"] |= {"swap_accuracy": 0.5}
    found = {"threshold": THRESHOLD, "near": 179.1, "figures": figures}
    scores = torch.arange(HELD_OUT, dtype=torch.float64)
    save_tensors(path, {"scores": scores}, card | found | {"remark": REMARK if "generator" in parts else ""})


def _write_cell(path: Path, task: Task, caught: int, seconds: float, error: str) -> None:
    names = list(task.spec["detectors"])
    parts = {
        role.removeprefix(CALIBRATION): parent.spec["gates"]
        for role, parent in task.parents.items()
        if role.startswith(CALIBRATION)
    }
    write_detection(
        path,
        task,
        {} if error else _rows(task, names, caught),
        thresholds={} if error else dict.fromkeys(names, THRESHOLD),
        remarks={} if error else {name: REMARK for name in names if "generator" in parts[name]},
        environment=MACHINE,
        seconds=seconds,
        error=error,
    )


def _rows(task: Task, names: list[str], caught: int) -> dict[str, NDArray[Any]]:
    n, natural = task.spec["n_examples"], task.spec["setting"] == "natural"
    scores = np.arange(n) % 200.0 if natural else np.where(np.arange(n) < caught, 300.0, 10.0)
    moved = np.full(n, 0.0 if natural else 0.25)
    return {
        "sample": np.arange(n),
        "label": np.ones(n),
        "clean_prediction": np.ones(n),
        "prediction": np.full(n, int(natural)),
        "reformed_prediction": np.where(np.arange(n) < n - 1, int(natural), 1),
        **dict.fromkeys(("linf", "l2", "l1"), moved),
        **dict.fromkeys(("forwards", "backwards"), np.full(n, 9.0)),
        **{SCORE + name: scores for name in names},
        **{FLAG + name: scores >= THRESHOLD for name in names},
    }
