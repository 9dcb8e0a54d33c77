"""Prepare and run what a protocol asks for, without a command line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from robustness_bench.benchmark.context import AUTO_BATCH, Context
from robustness_bench.benchmark.data import Located, locate
from robustness_bench.benchmark.mirror import mirror_of
from robustness_bench.benchmark.plan.protocol import Protocol, Settings, check_budgets
from robustness_bench.benchmark.plan.tasks import Task, make_plan
from robustness_bench.benchmark.report.rendering.table import Table
from robustness_bench.benchmark.store import cards
from robustness_bench.benchmark.store.folder import keep_protocol, locked, open_tasks, protocol_file
from robustness_bench.benchmark.store.parquet import read_story

if TYPE_CHECKING:
    from robustness_bench.benchmark.run.engines.base import Engine

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

    def in_shards(self, images: int, context: Context) -> "Work":
        """Return the same with attacks on many images split, see ``plan.shards``."""
        from robustness_bench.benchmark.plan.shards import in_shards

        batch_size = context.batch_size or AUTO_BATCH[context.device]
        return replace(self, todo=in_shards(self.todo, images, batch_size))

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
    return sum(task.is_cell for task in tasks)


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
    # Damaged checkpoints are found before any work, not hours into it.
    running = {task.id for task in todo}
    parents = {parent.path: parent for task in todo for parent in task.needs}
    for path, parent in sorted(parents.items()):
        if parent.id not in running:
            cards.verify(out / path)
    return Work(protocol=protocol, data=data, tasks=tasks, todo=todo)


def locate_for(settings: Settings, data_dir: Path, *, download: bool = False) -> Located:
    """Find the data set of some settings; BenchError if missing, or if budgets do not fit its images."""
    located = locate(settings.dataset, data_dir, download=download, fit=settings.fit)
    check_budgets(located.info, settings.eps, settings.budgets if any(settings.curve.values()) else ())
    return located


def run(
    work: Work,
    context: Context,
    publish: Publish,
    *,
    workers: int,
    live: bool,
    engine: "Engine | None" = None,
) -> Finished:
    """Run the open tasks, keep the protocol that their results name, then ``publish`` all records.

    Args:
        engine: where the tasks run; this machine unless given. It starts nothing if no task is open.

    Raises:
        BenchError: something only the user can fix; finished tasks are kept.
    """
    with locked(context.out):
        failures = {}
        if work.todo:
            context = replace(context, protocol=keep_protocol(context.out, work.protocol))
            failures = _run_open(work, context, workers, live, engine)
            if mirror := mirror_of(context.out):
                mirror.pull()  # what workers with disks of their own have made
        elif _lacks_protocol(context.out, work):
            keep_protocol(context.out, work.protocol)
        return Finished(failures=failures, tables=publish(context.out, work.protocol, work.data))


def _lacks_protocol(out: Path, work: Work) -> bool:
    """Return whether results name the protocol but its file is gone, as after `bench mend`."""
    file = protocol_file(out, work.protocol)
    return not file.is_file() and any(
        read_story(out / cell.path)["environment"].get("protocol") == file.stem
        for cell in work.tasks
        if cell.is_cell
    )


def _run_open(
    work: Work, context: Context, workers: int, live: bool, engine: "Engine | None"
) -> dict[str, str]:
    from robustness_bench.benchmark.plan.cost import passes
    from robustness_bench.benchmark.run.agenda import run_tasks
    from robustness_bench.benchmark.run.engines.local import Local
    from robustness_bench.benchmark.run.watching.progress import Progress
    from robustness_bench.benchmark.run.watching.watch import Watch

    engine = engine or Local()
    contexts = engine.seats(context, workers, work.chains)
    estimates = {task.id: passes(task) for task in work.todo}
    with Progress(work.todo, estimates, live=live) as progress, Watch(context, progress):
        return run_tasks(work.todo, contexts, progress, engine)
