"""What trackers are told: epochs of trainings and cells as they finish, from the files that tasks leave.

So they are told the same whatever engine runs the tasks; of a running training, as often as its state is
saved.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.mirror import mirror_of
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.run.watching.course import Course
from robustness_bench.benchmark.run.watching.trackers import Trackers
from robustness_bench.benchmark.store.cards import is_kept, read_card
from robustness_bench.benchmark.store.cells import read_record
from robustness_bench.benchmark.store.parquet import array_of
from robustness_bench.benchmark.train.loop import History, kept_history

_RUN = "run"


class Figures:
    """Tells trackers what is new since it was last asked; at a URL also what other machines have made."""

    def __init__(self, out: Path, course: Course, trackers: Trackers) -> None:
        self._out, self._course, self._trackers = out, course, trackers
        self._mirror = mirror_of(out)
        self._epochs_told: dict[str, int] = {}
        self._over: set[str] = set()  # tasks whose end has been told
        self._ended = {"cells_done": 0, "cells_failed": 0}

    def tell(self) -> None:
        """Tell all trackers."""
        for task, name, _, _ in self._course.states():
            if task.shard or task.id in self._over:
                continue
            if name == "running" and not task.is_cell:
                self._epochs(task, kept_history((self._out / task.path).with_suffix(".partial")))
            if name in ("done", "failed"):
                with suppress(StoreError):  # it is out of reach, or being written: told next time
                    self._end(task, failed=name == "failed")
                    self._over.add(task.id)

    def _end(self, task: Task, *, failed: bool) -> None:
        path = self._out / task.path
        if self._mirror and not failed:
            self._mirror.fetch([task.path])
        if task.is_cell:
            self._cell(task, None if failed else _values(path, task))
        elif is_kept(path, task):
            self._epochs(task, read_card(path).get("history", []))

    def _epochs(self, task: Task, history: History) -> None:
        for epoch in range(self._epochs_told.get(task.id, 0), len(history)):
            self._trackers.log(group_of(task), history[epoch], epoch + 1)
            self._epochs_told[task.id] = epoch + 1

    def _cell(self, task: Task, values: Mapping[str, float] | None) -> None:
        self._ended["cells_failed" if values is None else "cells_done"] += 1
        step = sum(self._ended.values())
        if values is not None:
            self._trackers.log(group_of(task), values, step)
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
    return {name: float(array_of(table, name).mean()) for name in told}
