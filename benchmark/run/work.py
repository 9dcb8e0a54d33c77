"""Prepare and run what a protocol asks for, without a command line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.data import Located, locate
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.plan.protocol import Protocol, Settings, check_budgets
from robustness_bench.benchmark.plan.tasks import Task, make_plan
from robustness_bench.benchmark.report.rendering.table import Table
from robustness_bench.benchmark.store import tensors
from robustness_bench.benchmark.store.folder import locked, open_tasks
from robustness_bench.benchmark.store.protocols import keep_protocol

Publish = Callable[[Path, Protocol, dict[str, Located]], list[Table]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """A plan, and what of it a store lacks."""

    protocol: Protocol
    data: dict[str, Located]
    tasks: list[Task]
    todo: list[Task]

    @property
    def cells(self) -> int:
        """The number of cells of the plan, done or not."""
        return _cells(self.tasks)

    @property
    def chains(self) -> int:
        """Data set × norm × seed, and the networks of detectors: each trains on its own."""
        cells = [task for task in self.tasks if task.how.result and "norm" in task.spec]
        parts = sum(task.how.chain for task in self.tasks)
        return len({(task.spec["data"], task.spec["norm"], task.seed) for task in cells}) + parts

    @property
    def open_cells(self) -> int:
        """The number of cells that have to run."""
        return _cells(self.todo)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The result of a run: title -> traceback of failed tasks, and the tables."""

    failures: dict[str, str]
    tables: list[Table]


def _cells(tasks: Sequence[Task]) -> int:
    return sum(task.how.result for task in tasks)


def prepare(
    protocol: Protocol,
    out: Path,
    data_dir: Path,
    *,
    download: bool = False,
    make: Callable[[Protocol, dict[str, Located]], list[Task]] = make_plan,
) -> Work:
    """Find the data, expand the protocol with ``make``, and find what the store already has.

    Raises:
        BenchError: data missing, or something in the store is damaged.
    """
    data = {each.dataset: locate_for(each, data_dir, download=download) for each in protocol.settings}
    tasks = make(protocol, data)
    todo = open_tasks(out, tasks)
    _verify_parents(out, todo)
    return Work(protocol=protocol, data=data, tasks=tasks, todo=todo)


def locate_for(settings: Settings, data_dir: Path, *, download: bool = False) -> Located:
    """Find the data set of some settings.

    Raises:
        BenchError: data missing, or budgets that do not fit its images.
    """
    located = locate(settings.dataset, data_dir, download=download, fit=settings.fit)
    check_budgets(located.info, settings.eps, settings.budgets if any(settings.curve.values()) else ())
    return located


def _verify_parents(out: Path, todo: list[Task]) -> None:
    """Find damaged checkpoints before any work, not hours into it."""
    running = {task.id for task in todo}
    parents = {parent.path: parent for task in todo for parent in task.parents.values()}
    for path, parent in sorted(parents.items()):
        if parent.id not in running:
            tensors.verify(out / path)


def run(work: Work, context: Context, publish: Publish, *, workers: int, live: bool) -> Finished:
    """Run the open tasks, keep the protocol that their results name, then ``publish`` all records.

    Raises:
        BenchError: something only the user can fix; finished tasks are kept.
    """
    with locked(context.out):
        failures = {}
        if work.todo:
            context = replace(context, protocol=keep_protocol(context.out, work.protocol))
            failures = _run_open(work, context, workers, live)
        return Finished(failures=failures, tables=publish(context.out, work.protocol, work.data))


def _run_open(work: Work, context: Context, workers: int, live: bool) -> dict[str, str]:
    from robustness_bench.benchmark.plan.cost import passes
    from robustness_bench.benchmark.run.local import local_contexts, run_tasks
    from robustness_bench.benchmark.run.progress import Progress
    from robustness_bench.benchmark.run.watching.watch import Watch

    contexts = local_contexts(context, workers, work.chains)
    estimates = {task.id: passes(task) for task in work.todo}
    with Progress(work.todo, estimates, live=live) as progress, Watch(context, progress):
        return run_tasks(work.todo, contexts, progress)


def choose_device(wanted: str) -> str:
    """Return the torch device for ``--device``; "auto" takes CUDA if there is a GPU.

    Raises:
        BenchError: the name is unknown, or CUDA was requested and is absent.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise BenchError(f"--device must be auto, cpu or cuda, got {wanted!r}")
    if wanted == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise BenchError("--device cuda: torch sees no CUDA GPU here; use --device cpu, or fix the driver")
    return "cpu"
