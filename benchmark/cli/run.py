"""`bench run`: train what is missing, attack, evaluate, and write the tables."""

from typing import Annotated

import typer

from robustness_bench.benchmark.cli.shared.execution import work_off
from robustness_bench.benchmark.cli.shared.options import HOW, Request, show_plan, takes_request


@takes_request
def run(
    request: Request,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run, and stop.", rich_help_panel=HOW)
    ] = False,
) -> None:
    """Train what is missing, attack it, and write records, results.csv and tables.

    The same command again resumes where it stopped, or finds nothing to do; with more seeds, attacks
    or defenses only the new cells run.
    """
    from robustness_bench.benchmark.submit.board.publish import publish

    work = request.prepare()
    if dry_run:
        show_plan(work, request)
        return
    work_off(work, request, publish, "records, results.csv and tables")
