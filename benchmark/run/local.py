"""Run tasks on this machine: in one process, or in a pool with one per GPU or per few cores."""

import dataclasses
import multiprocessing
import os
import queue
import signal
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.lifetime import end_with_parent
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.run.worker import perform, record_failure


class Reporter(Protocol):
    """Receives progress."""

    def started(self, task: Task) -> None: ...

    def advanced(self, task_id: str, done: float, total: float, unit: str) -> None: ...

    def finished(self, task: Task, error: str) -> None: ...


class Agenda:
    """The tasks that may run next. Children of a failed task fail with it."""

    def __init__(self, tasks: Sequence[Task], context: Context, reporter: Reporter) -> None:
        self._waiting = {task.id: task for task in tasks}
        self._context, self._reporter = context, reporter
        self._running: set[str] = set()
        self.failures: dict[str, str] = {}

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

    def finish(self, task: Task, error: str) -> None:
        self._running.discard(task.id)
        self._reporter.finished(task, error)
        if error:
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


def run_tasks(tasks: Sequence[Task], contexts: Sequence[Context], reporter: Reporter) -> dict[str, str]:
    """Run tasks in an order that respects their parents, one at a time on each context.

    Returns:
        Title -> traceback of each that failed.

    Raises:
        BenchError: something only the user can fix; finished tasks are kept.
    """
    agenda = Agenda(tasks, contexts[0], reporter)
    if len(contexts) == 1:
        _run_here(agenda, contexts[0], reporter)
    else:
        _run_in_pool(agenda, contexts, reporter)
    return agenda.failures


def _run_here(agenda: Agenda, context: Context, reporter: Reporter) -> None:
    _set_threads(context)
    while ready := agenda.ready():
        task = ready[0]
        agenda.start(task)

        def advance(done: float, total: float, unit: str, of: str = task.id) -> None:
            reporter.advanced(of, done, total, unit)

        agenda.finish(task, perform(task, context, advance))


def _run_in_pool(agenda: Agenda, contexts: Sequence[Context], reporter: Reporter) -> None:
    spawn = multiprocessing.get_context("spawn")  # fork is not safe with CUDA or torch's threads
    messages: Any = spawn.Queue()
    seats: Any = spawn.Queue()
    for context in contexts:
        seats.put(context)
    pool = ProcessPoolExecutor(
        len(contexts), mp_context=spawn, initializer=_take_seat, initargs=(seats, messages)
    )
    running: dict[Future[str], Task] = {}
    try:
        while True:
            for task in agenda.ready()[: len(contexts) - len(running)]:
                agenda.start(task)
                running[pool.submit(_perform_seated, task)] = task
            if not running:
                break
            done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            _forward(messages, reporter)
            for future in done:
                agenda.finish(running[future], future.result())
                del running[future]
    except BrokenProcessPool as error:
        titles = "; ".join(task.title for task in running.values())
        raise BenchError(
            f"a worker process was killed (out of memory?) during: {titles}; finished tasks are "
            "kept, run the same command again, with fewer --workers or a smaller --batch-size"
        ) from error
    finally:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _forward(messages: Any, reporter: Reporter) -> None:
    try:
        while True:
            reporter.advanced(*messages.get_nowait())
    except queue.Empty:
        pass


_seat: tuple[Context, Any] | None = None  # this worker process's context and message queue


def _take_seat(seats: Any, messages: Any) -> None:
    global _seat
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    end_with_parent()
    context = seats.get()
    _set_threads(context)
    context.load_plugins()
    _seat = (context, messages)


def _perform_seated(task: Task) -> str:
    assert _seat is not None
    context, messages = _seat
    return perform(task, context, lambda *progress: messages.put((task.id, *progress)))


def _set_threads(context: Context) -> None:
    import torch

    torch.set_num_threads(context.threads)


def local_contexts(context: Context, workers: int, chains: int) -> list[Context]:
    """Return one context per worker: a GPU each (or ``context.processes`` of them), or a share of the cores.

    Args:
        workers: 0 = automatic: one per GPU, or on CPU one per core up to four and up to ``chains``.
        chains: how many trainings can run in parallel. It is a property of the whole plan, so that a task
            gets the same number of threads, on which its rounding depends, when a run is resumed.

    Raises:
        BenchError: fewer GPUs than processes.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = context.processes
    if context.device == "cuda":
        import torch

        gpus = torch.cuda.device_count()
        if each > gpus:
            raise BenchError(f"--processes {each} needs as many GPUs, torch sees {gpus}")
        count = min(workers, gpus // each) if workers else gpus // each
        threads = max(1, cores // (count * each))
        devices = [f"cuda:{index * each}" for index in range(count)]
        return [dataclasses.replace(context, device=device, threads=threads) for device in devices]
    count = workers or max(1, min(cores, 4, chains) // each)
    return [dataclasses.replace(context, threads=max(1, cores // (count * each)))] * count
