"""Progress of a run: live bars on a terminal, a line per finished task elsewhere."""

import time
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from robustness_bench.benchmark.errors import last_line
from robustness_bench.benchmark.plan.cost import Passes, Seconds
from robustness_bench.benchmark.plan.tasks import Task


class State(NamedTuple):
    """How far a task is."""

    task: Task
    name: Literal["waiting", "running", "done", "failed"]
    fraction: float
    """The share of it that is done, in [0, 1]."""
    error: str
    """The traceback of one that failed."""


class Progress:
    """Shows the running task, the number of tasks, the throughput, and the time left.

    Without bars, a line also announces each diagnosis when it begins, because by then all cells are done.

    Args:
        work: task id -> passes, for attacks the middle of their range; the time left is extrapolated from
            the finished tasks.
        live: draw bars; otherwise print one line per finished task.
    """

    def __init__(self, tasks: Iterable[Task], work: dict[str, Passes], *, live: bool) -> None:
        self._tasks = {task.id: task for task in tasks}
        self._work = {identity: passes.total for identity, passes in work.items()}
        self._begun = time.monotonic()
        self._fraction = dict.fromkeys(self._tasks, 0.0)
        self._started: dict[str, float] = {}
        self._errors: dict[str, str] = {}
        self._finished = 0
        self._bars: dict[str, Any] = {}
        self._display = _display() if live else None

    def __enter__(self) -> "Progress":
        if self._display is not None:
            self._display.start()
            self._overall = self._display.add_task("", total=len(self._tasks), detail="")
        return self

    def __exit__(self, *error: Any) -> None:
        if self._display is not None:
            self._display.stop()

    def started(self, task: Task) -> None:
        self._started[task.id] = time.monotonic()
        if self._display is not None:
            self._take_bar(task.id)  # of an earlier try
            number = len(self._started)
            title = f"[{number}/{len(self._tasks)}] {task.title}"
            self._bars[task.id] = self._display.add_task(title, total=1.0, detail="")
        elif task.how.afterwards:
            print(f"waiting for: {task.title}", flush=True)
        self._refresh()

    def advanced(self, task_id: str, done: float, total: float, unit: str) -> None:
        if task_id not in self._started:
            return
        self._fraction[task_id] = done / total if total else 1.0
        if self._display is not None and task_id in self._bars:
            seconds = time.monotonic() - self._started[task_id]
            rate = f"{done / seconds:.3g} {unit}/s" if seconds > 0.5 and done else ""
            detail = f"{done:.4g}/{total:.4g} {unit}  {rate}"
            self._display.update(self._bars[task_id], completed=self._fraction[task_id], detail=detail)
        self._refresh()

    def finished(self, task: Task, error: str) -> None:
        self._finished += 1
        self._fraction[task.id] = 1.0
        self._errors[task.id] = error
        if self._display is not None:
            self._take_bar(task.id)
            if error:
                self._display.console.print(f"FAILED {task.title}: {last_line(error)}", markup=False)
        else:
            seconds = time.monotonic() - self._started.get(task.id, time.monotonic())
            end = f"  FAILED: {last_line(error)}" if error else ""
            left = f"{self._left()} left"
            print(
                f"[{self._finished}/{len(self._tasks)}] {seconds:6.1f} s  {task.title}{end}  ({left})",
                flush=True,
            )
        self._refresh()

    def note(self, text: str) -> None:
        """Print a line that is about no finished task."""
        if self._display is not None:
            self._display.console.print(text, markup=False)
        else:
            print(text, flush=True)

    def _take_bar(self, task_id: str) -> None:
        if self._display is not None and (bar := self._bars.pop(task_id, None)) is not None:
            self._display.remove_task(bar)

    def states(self) -> list[State]:
        """Return how far each task is; other threads may ask."""
        return [self._state(task) for task in self._tasks.values()]

    def _state(self, task: Task) -> State:
        error, fraction = self._errors.get(task.id), self._fraction[task.id]
        if error is None:
            return State(task, "running" if task.id in self._started else "waiting", fraction, "")
        return State(task, "failed" if error else "done", fraction, error)

    def _refresh(self) -> None:
        if self._display is not None:
            text = f"{self._finished} of {len(self._tasks)} tasks done"
            self._display.update(
                self._overall, completed=self._finished, description=text, detail=f"{self._left()} left"
            )

    def seconds_left(self) -> float | None:
        """Return the seconds that the open tasks take at the speed so far; None if nothing is done yet."""
        total = sum(self._work.values())
        done = sum(self._work[identity] * part for identity, part in self._fraction.items())
        elapsed = time.monotonic() - self._begun
        return elapsed * (total - done) / done if done else None

    def _left(self) -> str:
        left = self.seconds_left()
        return "…" if left is None else duration(left)


def _display() -> Any:
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
    )


def duration(seconds: float) -> str:
    """Format seconds for people: 42 s, 3 min, 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def between(seconds: Seconds) -> str:
    """Format both ends for people; only one if they are the same."""
    low, high = duration(seconds.low), duration(seconds.high)
    return low if low == high else f"{low} to {high}"
