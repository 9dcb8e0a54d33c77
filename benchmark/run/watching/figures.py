"""What trackers are told: epochs of trainings and cells as they finish, from the files that tasks leave.

So they are told the same whatever engine runs the tasks; of a running training, as often as its state is
saved.
"""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.run.watching.course import Course
from robustness_bench.benchmark.run.watching.trackers import Trackers
from robustness_bench.benchmark.store.cards import is_kept, read_card
from robustness_bench.benchmark.store.cells import read_record
from robustness_bench.benchmark.train.loop import History, kept_history

_RUN = "run"


class Figures:
    """Tells trackers what is new since it was last asked."""

    def __init__(self, out: Path, course: Course, trackers: Trackers) -> None:
        self._out, self._course, self._trackers = out, course, trackers
        self._told: dict[str, int] = {}  # task -> epochs, or cells at its end
        self._ended = {"cells_done": 0, "cells_failed": 0}

    def tell(self) -> None:
        """Tell all trackers."""
        for task, name, _, _ in self._course.states():
            if task.how.result:
                if name in ("done", "failed") and task.id not in self._told:
                    self._cell(task, failed=name == "failed")
            elif name in ("running", "done"):
                self._epochs(task, self._history(task, done=name == "done"))

    def _history(self, task: Task, *, done: bool) -> History:
        path = self._out / task.path
        if not done:
            return kept_history(path.with_suffix(".partial"))
        history: History = read_card(path).get("history", []) if is_kept(path, task) else []
        return history

    def _epochs(self, task: Task, history: History) -> None:
        for epoch in range(self._told.get(task.id, 0), len(history)):
            self._trackers.log(group_of(task), history[epoch], epoch + 1)
            self._told[task.id] = epoch + 1

    def _cell(self, task: Task, *, failed: bool) -> None:
        self._ended["cells_failed" if failed else "cells_done"] += 1
        step = self._told[task.id] = sum(self._ended.values())
        if not failed:
            self._trackers.log(group_of(task), _values(self._out / task.path, task), step)
        self._trackers.log(_RUN, self._ended, step)


def group_of(task: Task) -> str:
    """Return a task's name for trackers: where its result lies, without its id."""
    return task.path.with_name(task.path.stem.removesuffix(f"-{task.id}")).as_posix()


def _values(path: Path, task: Task) -> Mapping[str, float]:
    """Return a cell's accuracy in percent; of other results the means of their real and Boolean columns."""
    if task.kind == "evaluate":
        return {"accuracy": 100.0 * float(read_record(path).robust.mean())}
    table = pq.read_table(path)
    told = [
        each.name
        for each in table.schema
        if pa.types.is_floating(each.type) or pa.types.is_boolean(each.type)
    ]
    return {name: float(table.column(name).to_numpy().mean()) for name in told}
