"""A thread beside a run that keeps its journal."""

import threading
from types import TracebackType

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.run.watching.course import Course
from robustness_bench.benchmark.run.watching.journal import EVERY, Writer


class Watch:
    """Keeps the journal of a run, from its start to its end, however it ends."""

    def __init__(self, context: Context, progress: Course) -> None:
        self._journal = Writer(out=context.out, command=context.command, progress=progress)
        self._progress = progress
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="watch")

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def _beat(self) -> None:
        self._journal.write()
        while not self._stop.wait(EVERY):
            self._journal.write()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._journal.write(self._how(kind))

    def _how(self, kind: type[BaseException] | None) -> str:
        if kind is None:
            return "failed" if any(state.name == "failed" for state in self._progress.states()) else "done"
        return "interrupted" if kind is KeyboardInterrupt else "stopped"
