"""How far a run is, as whoever watches it sees it."""

from typing import Literal, NamedTuple, Protocol

from robustness_bench.benchmark.plan.tasks import Task


class State(NamedTuple):
    """How far a task is."""

    task: Task
    name: Literal["waiting", "running", "done", "failed"]
    fraction: float
    """The share of it that is done, in [0, 1]."""
    error: str
    """The traceback of one that failed."""


class Course(Protocol):
    """A run's tasks; any thread may ask."""

    def states(self) -> list[State]:
        """Return how far each task is."""
        ...

    def seconds_left(self) -> float | None:
        """Return the seconds that the open tasks take at the speed so far; None if nothing is done yet."""
        ...
