"""How a worker runs one task."""

import time
import traceback
from collections.abc import Callable

from robustness_bench.benchmark.context import Advance, Context, environment
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.sandbox.failures import ModelError
from robustness_bench.benchmark.store.cells import write_record
from robustness_bench.benchmark.store.detections import write_detection

_REPORT_EVERY = 0.2  # seconds between two progress messages


def perform(task: Task, context: Context, advance: Advance) -> str:
    """Run one task; return the traceback if it raised, else an empty string.

    A cell that raises becomes a failure record, also if a submitted model fails. Other errors that the user
    can fix (BenchError: a full disk, a damaged file) are not results of the cell, and are raised.
    """
    from robustness_bench.benchmark.measure.attacks import craft, evaluate
    from robustness_bench.benchmark.measure.detectors import adapt, detect
    from robustness_bench.benchmark.measure.gradients import diagnose
    from robustness_bench.benchmark.measure.information import measure_mi
    from robustness_bench.benchmark.store.models import import_weights
    from robustness_bench.benchmark.train.defenses import train, train_estimators
    from robustness_bench.benchmark.train.parts import fit_part
    from robustness_bench.benchmark.train.thresholds import calibrate

    actions: dict[str, Callable[[Task, Context, Advance], None]] = {
        "train": train,
        "load": import_weights,
        "estimators": train_estimators,
        "diagnose": diagnose,
        "craft": craft,
        "evaluate": evaluate,
        "measure-mi": measure_mi,
        "part": fit_part,
        "calibrate": calibrate,
        "adapt": adapt,
        "detect": detect,
    }
    try:
        actions[task.kind](task, context, _throttled(advance))
    except Exception as error:
        if isinstance(error, BenchError) and not isinstance(error, ModelError):
            raise
        story = traceback.format_exc()
        record_failure(task, context, story)
        return story
    return ""


def record_failure(task: Task, context: Context, story: str) -> None:
    """Store the traceback as a cell's record, shown as ERROR, never a number. Other tasks store nothing."""
    path, facts = context.out / task.path, environment(context.device)
    if task.kind == "evaluate":
        write_record(path, task, {}, environment=facts, seconds=0.0, error=story)
    elif task.kind == "detect":
        write_detection(
            path, task, {}, thresholds={}, remarks={}, environment=facts, seconds=0.0, error=story
        )


def _throttled(advance: Advance) -> Advance:
    last = 0.0

    def report(done: float, total: float, unit: str) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last > _REPORT_EVERY:
            last = time.monotonic()
            advance(done, total, unit)

    return report
