"""A thread beside a run that keeps its journal and tells its trackers."""

import threading

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.run.watching.contract import About
from robustness_bench.benchmark.run.watching.course import Course
from robustness_bench.benchmark.run.watching.figures import Figures
from robustness_bench.benchmark.run.watching.journal import EVERY, Writer
from robustness_bench.benchmark.run.watching.trackers import Trackers


class Watch:
    """Keeps the journal of a run and tells its trackers, from its start to its end, however it ends.

    Raises:
        BenchError: a tracker is unknown, or its package is missing.
    """

    def __init__(self, context: Context, progress: Course) -> None:
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
