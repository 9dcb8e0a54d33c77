"""`bench run`: train, attack and evaluate what is missing. `bench plan`: show what that is."""

from typing import Annotated

import typer

from robustness_bench.benchmark.cli.shared.execution import execute
from robustness_bench.benchmark.cli.shared.labelled import Json
from robustness_bench.benchmark.cli.shared.options import HOW, Request, show_plan, takes_request


@takes_request
def run(
    request: Request,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run, and stop.", rich_help_panel=HOW)
    ] = False,
) -> None:
    """Train missing models, attack them, and write records, results.csv and tables.

    Run the same command again to resume; if all is done, it does nothing. With more seeds, attacks or
    defenses, only the new cells run.
    """
    from robustness_bench.benchmark.submit.board.entries import publish

    work = request.prepare()
    if dry_run:
        show_plan(work, request)
        return
    execute(work, request, publish, "records, results.csv and tables")


@takes_request
def plan(request: Request, as_json: Json = False) -> None:
    """Show the cells of a run, done and to do, with a time estimate from a timed batch."""
    show_plan(request.prepare(), request, as_json=as_json)
