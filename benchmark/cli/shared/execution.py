"""Execution of a verb's planned work, with progress for the user."""

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import typer

from robustness_bench.benchmark.cli.shared.options import Request
from robustness_bench.benchmark.errors import last_line

if TYPE_CHECKING:
    from robustness_bench.benchmark.report.rendering.table import Table
    from robustness_bench.benchmark.run.work import Work


def execute(work: "Work", request: Request, publish: "Callable[..., list[Table]]", left: str) -> None:
    """Run the open tasks with progress, print what ``publish`` makes of all results, and list failures.

    Args:
        left: what the run leaves in the folder of results, in words.

    Raises:
        typer.Exit: 130 after Ctrl-C, 1 if a task failed.
    """
    from robustness_bench.benchmark.mirror import place
    from robustness_bench.benchmark.report.rendering.formats import to_text
    from robustness_bench.benchmark.run.work import run

    device, engine = "cpu", request.chosen_engine()
    if work.todo:
        device = engine.device(request.device)
        work = work.in_shards(request.shard_size, request.context(device))
        print(f"{work.open_cells} of {work.cells} cells to do, {len(work.todo)} tasks on {device}")
        if work.open_cells and (diagnoses := sum(task.how.afterwards for task in work.todo)):
            print(f"{diagnoses} of them diagnoses, at a share of the cells' cost; --no-diagnosis skips them")
    else:
        print(f"nothing to do: all {work.cells} cells are done")
    live = sys.stdout.isatty()
    try:
        finished = run(
            work, request.context(device), publish, workers=request.workers, live=live, engine=engine
        )
    except KeyboardInterrupt:
        print("\nbench: interrupted; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130) from None
    for table in finished.tables:
        print(f"\n{to_text(table)}")
    print(f"{left} are in {place(request.out)}/")
    end_with(finished.failures, "tasks")


def end_with(failures: Mapping[str, str], kind: str) -> None:
    """List failures, title -> traceback, by their last lines.

    Raises:
        typer.Exit: 1 if there are any.
    """
    if failures:
        print(f"\n{len(failures)} {kind} failed:", file=sys.stderr)
        for title, story in failures.items():
            print(f"  {title}: {last_line(story)}", file=sys.stderr)
        raise typer.Exit(1)
