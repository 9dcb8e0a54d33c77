"""How a worker runs one task."""

import time
import traceback

from robustness_bench.attacks.class_names import load
from robustness_bench.benchmark.context import Advance, Context
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.sandbox.failures import ModelError
from robustness_bench.benchmark.store.cards import environment_of

_REPORT_EVERY = 0.2  # seconds between two progress messages


def perform(task: Task, context: Context, advance: Advance) -> str:
    """Run one task; return the traceback if it raised, else an empty string.

    A cell that raises becomes a failure record, also if a submitted model fails. Other errors that the user
    can fix (BenchError: a full disk, a damaged file) are not results of the cell, and are raised.
    """
    work = load(task.how.run)
    try:
        work(task, context, _throttled(advance))
    except Exception as error:
        if isinstance(error, BenchError) and not isinstance(error, ModelError):
            raise
        story = traceback.format_exc()
        record_failure(task, context, story)
        return story
    return ""


def record_failure(task: Task, context: Context, story: str) -> None:
    """Keep the traceback as a cell's record: shown as ERROR, never as a number. Other tasks leave nothing."""
    if task.how.failed:
        load(task.how.failed)(context.out / task.path, task, environment_of(task, context), story)


def _throttled(advance: Advance) -> Advance:
    last = 0.0

    def report(done: float, total: float, unit: str) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last > _REPORT_EVERY:
            last = time.monotonic()
            advance(done, total, unit)

    return report
