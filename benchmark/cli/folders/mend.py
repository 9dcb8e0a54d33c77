"""`bench mend`: move damaged files of a folder of results aside."""

from pathlib import Path
from typing import Annotated

import typer

from robustness_bench.benchmark.cli.shared.labelled import takes_urls
from robustness_bench.benchmark.mirror import local_folder, place


@takes_urls
def mend(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder of results, or its URL.", parser=local_folder)
    ] = Path("results"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Name what is damaged, and stop.")] = False,
) -> None:
    """Check every file of a folder of results, and move damaged ones aside, into OUT/damaged.

    The next bench run makes again what it needs: a finished cell needs no model. Status 1 if --dry-run finds
    damage.
    """
    from robustness_bench.benchmark.exchange.mending import ASIDE
    from robustness_bench.benchmark.exchange.mending import mend as move

    count, faults, moved = move(out, dry_run=dry_run)
    for fault in faults.values():
        print(fault)
    if not faults:
        print(f"all {count} files of {place(out)} are whole")
    elif dry_run:
        print(f"{len(faults)} damaged; bench mend {place(out)} would move {len(moved)} files aside")
        raise typer.Exit(1)
    else:
        print(f"{len(moved)} files are in {place(out)}/{ASIDE} now; the same bench run makes what it needs")
