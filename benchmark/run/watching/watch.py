"""A thread beside a run that keeps its journal and tells its trackers."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.mirror import mirror_of
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.run.watching.contract import About
from robustness_bench.benchmark.run.watching.journal import EVERY, Writer
from robustness_bench.benchmark.run.watching.progress import Progress
from robustness_bench.benchmark.run.watching.trackers import Trackers
from robustness_bench.benchmark.store.cards import is_kept, read_card
from robustness_bench.benchmark.store.cells import read_record
from robustness_bench.benchmark.store.parquet import array_of
from robustness_bench.benchmark.train.loop import History, kept_history

_RUN = "run"


class Figures:
    """Tells trackers what is new since it was last asked; at a URL also what other machines have made.

    From the files that tasks leave, so that they are told the same whatever engine runs the tasks; of a
    running training, as often as its state is saved.
    """

    def __init__(self, out: Path, progress: Progress, trackers: Trackers) -> None:
        self._out, self._progress, self._trackers = out, progress, trackers
        self._mirror = mirror_of(out)
        self._epochs_told: dict[str, int] = {}
        self._over: set[str] = set()  # tasks whose end has been told
        self._ended = {"cells_done": 0, "cells_failed": 0}

    def tell(self) -> None:
        """Tell all trackers."""
        for task, name, _, _ in self._progress.states():
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


class Watch:
    """Keeps the journal of a run and tells its trackers, from its start to its end, however it ends.

    Raises:
        BenchError: a tracker is unknown, or its package is missing.
    """

    def __init__(self, context: Context, progress: Progress) -> None:
        self._journal = Writer(out=context.out, command=context.command, progress=progress)
        self._progress = progress
        self._trackers = Trackers(About(out=context.out, command=context.command), context.trackers)
        self._figures = Figures(context.out, progress, self._trackers) if self._trackers else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="watch")

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def _beat(self) -> None:
        self._journal.write()
        while not self._stop.wait(EVERY):
            self._journal.write()
            self._tell()

    def _tell(self) -> None:
        if self._figures is not None:
            self._figures.tell()

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._journal.write(self._how(kind))
        self._tell()
        self._trackers.close()

    def _how(self, kind: type[BaseException] | None) -> str:
        if kind is None:
            return "failed" if any(state.name == "failed" for state in self._progress.states()) else "done"
        return "interrupted" if kind is KeyboardInterrupt else "stopped"
