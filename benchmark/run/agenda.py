"""Run tasks in an order that respects their parents: in this process, or in an engine's workers."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.run.engines.base import Engine
from robustness_bench.benchmark.run.engines.worker import perform, record_failure, set_threads
from robustness_bench.benchmark.run.hub import FIRST_WORKER, Finished, Hub, Lost, Progressed

_KILLED = (
    "its worker process was killed twice (out of memory, or out of its time?): try fewer --workers, a "
    "smaller --batch-size, or more memory or time for each worker"
)


class Reporter(Protocol):
    """Receives progress."""

    def started(self, task: Task) -> None: ...

    def advanced(self, task_id: str, done: float, total: float, unit: str) -> None: ...

    def finished(self, task: Task, error: str) -> None: ...

    def note(self, text: str) -> None: ...


class Agenda:
    """The tasks that may run next. Children of a failed task fail with it."""

    def __init__(self, tasks: Sequence[Task], context: Context, reporter: Reporter) -> None:
        self._waiting = {task.id: task for task in tasks}
        self._context, self._reporter = context, reporter
        self._running: set[str] = set()
        self._lost: set[str] = set()
        self.failures: dict[str, str] = {}

    @property
    def open(self) -> int:
        """The number of tasks that have not ended."""
        return len(self._waiting) + len(self._running)

    def ready(self) -> list[Task]:
        """Return tasks without unfinished parents: those that others need, then cells, then diagnoses."""
        outstanding = self._waiting.keys() | self._running
        free = [
            task
            for task in self._waiting.values()
            if not any(parent.id in outstanding for parent in task.needs)
        ]
        return sorted(free, key=lambda task: (task.how.afterwards, task.how.result))

    def start(self, task: Task) -> None:
        del self._waiting[task.id]
        self._running.add(task.id)
        self._reporter.started(task)

    def lose(self, task: Task) -> None:
        """Let a task wait again whose worker was killed; the second time it fails."""
        if task.id in self._lost:
            record_failure(task, self._context, _KILLED)
            self.finish(task, _KILLED)
            return
        self._lost.add(task.id)
        self._running.discard(task.id)
        self._waiting[task.id] = task
        self._reporter.note(f"a worker process was killed; once more: {task.title}")

    def finish(self, task: Task, error: str) -> None:
        self._running.discard(task.id)
        self._reporter.finished(task, error)
        if error:
            if not task.shard:  # its whole task fails with it
                self.failures[task.title] = error
            self._fail_children(task, error)

    def _fail_children(self, failed: Task, error: str) -> None:
        for task in list(self._waiting.values()):
            # A grandchild may also be a child, and so be gone already.
            waits = task.id in self._waiting
            if waits and any(parent.id == failed.id for parent in task.needs):
                del self._waiting[task.id]
                story = f"not run: it needs «{failed.title}», which failed:\n\n{error}"
                record_failure(task, self._context, story)
                self.finish(task, story)
                for shard in task.parents.values():
                    if shard.shard and self._waiting.pop(shard.id, None):
                        self.finish(shard, story)


def run_tasks(
    tasks: Sequence[Task], contexts: Sequence[Context], reporter: Reporter, engine: Engine
) -> dict[str, str]:
    """Run tasks in an order that respects their parents, one at a time on each context.

    A task whose worker is killed runs once more; if that one is killed too, the task has failed.

    Args:
        contexts: the engine's seats; a single one on this machine is this process.

    Returns:
        Title -> traceback of each that failed.

    Raises:
        BenchError: something only the user can fix; finished tasks are kept.
    """
    agenda = Agenda(tasks, contexts[0], reporter)
    if engine.own_process and len(contexts) == 1:
        _run_here(agenda, contexts[0], reporter)
    else:
        _run_in_workers(agenda, contexts, reporter, engine)
    return agenda.failures


def _run_here(agenda: Agenda, context: Context, reporter: Reporter) -> None:
    set_threads(context)
    while ready := agenda.ready():
        task = ready[0]
        agenda.start(task)
        agenda.finish(task, perform(task, context, partial(reporter.advanced, task.id)))


def _run_in_workers(agenda: Agenda, contexts: Sequence[Context], reporter: Reporter, engine: Engine) -> None:
    with Hub(engine, contexts[: agenda.open]) as hub:
        while agenda.open:
            for task, worker in zip(agenda.ready(), hub.idle(), strict=False):
                agenda.start(task)
                hub.assign(task, worker)
            for event in hub.events(agenda.open):
                match event:
                    case Progressed(task_id, done, total, unit):
                        reporter.advanced(task_id, done, total, unit)
                    case Finished(task, error):
                        agenda.finish(task, error)
                    case Lost(task):
                        agenda.lose(task)
            if hub.overdue():
                reporter.note(f"no worker has started in {FIRST_WORKER:.0f} s; waiting for the cluster")
