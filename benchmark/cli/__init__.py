"""The command ``bench``: one file per verb, heavy imports inside the verbs."""

import os
import sys
from typing import Annotated

import typer

from robustness_bench.attacks.registry import PresetError
from robustness_bench.benchmark.cli import (
    compare,
    doctor,
    estimate_mi,
    figure,
    leaderboard,
    list_,
    perf,
    run,
    tables,
)
from robustness_bench.benchmark.cli.folders import export, mend, merge, status, verify
from robustness_bench.benchmark.cli.shared.options import PanelCommand
from robustness_bench.benchmark.cli.submit import check, images
from robustness_bench.benchmark.cli.submit import run as submit_run
from robustness_bench.benchmark.errors import BenchError

app = typer.Typer(
    name="bench",
    help="Train defenses, attack them, and see what survives.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("run", cls=PanelCommand)(run.run)
app.command("plan", cls=PanelCommand)(run.plan)
app.command("estimate-mi", cls=PanelCommand)(estimate_mi.estimate_mi)
app.command("compare", cls=PanelCommand)(compare.compare)
app.command("figure", cls=PanelCommand)(figure.figure)
app.command("tables", cls=PanelCommand)(tables.tables)
app.command("perf", cls=PanelCommand)(perf.perf)
app.command("export")(export.export)
app.command("import")(merge.import_)
app.command("merge")(merge.merge)
app.command("mend")(mend.mend)
app.command("verify")(verify.verify)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
check.app.command("run")(submit_run.run)
check.app.command("attack")(images.attack)
app.add_typer(leaderboard.app, name="leaderboard")
app.add_typer(check.app, name="submit")
app.add_typer(list_.app, name="list")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"bench {version('robustness-bench')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train defenses, attack them, and see what survives."""


def main() -> None:
    """Entry point: an error that the user can fix gives one line and exit status 2."""
    # Set before torch is imported: waiting threads must not spin, because on a machine with other work
    # that halves the speed or worse. Worker processes inherit it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except (BenchError, PresetError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        sys.exit(2)
