"""`bench submit run` for an attack: against every listed defense whose models the store holds."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.mirror import place

if TYPE_CHECKING:
    from robustness_bench.benchmark.cli.shared.options import Request
    from robustness_bench.benchmark.submit.attacks.campaign import Campaign


def run_attack(folder: Path, request: "Request", defenses: list[str], *, quick: bool) -> None:
    """Run the checked attack in ``folder``, then print its effect on each worst case.

    Raises:
        typer.Exit: 130 after Ctrl-C, 1 if a cell failed.
        BenchError: there is nothing to attack.
    """
    from robustness_bench.benchmark.cli.shared.execution import end_with
    from robustness_bench.benchmark.cli.shared.labelled import locate_labelled
    from robustness_bench.benchmark.cli.shared.options import split
    from robustness_bench.benchmark.files import file_hash
    from robustness_bench.benchmark.sandbox.remote_attack import Code, at_hand
    from robustness_bench.benchmark.store.folder import locked
    from robustness_bench.benchmark.submit.attacks.campaign import Aim, plan_campaign
    from robustness_bench.benchmark.submit.intake.static import ATTACK_FILE
    from robustness_bench.benchmark.submit.manifest.attack import read_attack_manifest

    attack, code = read_attack_manifest(folder), folder / ATTACK_FILE
    sha256 = file_hash(code)
    aim = Aim(request.out, split(defenses), quick)
    campaign = plan_campaign(
        attack, sha256, aim, lambda spec: locate_labelled(spec, request.data_dir, request.fit or "")
    )
    for line in campaign.skipped.values():
        print(f"skipped  {line}")
    if not campaign.wanted:
        raise BenchError(
            f"nothing to attack: each model of {place(request.out)} lacks something, see above; fix one"
        )
    with locked(request.out), at_hand(sha256, Code(code, attack.allowance)):
        failures = _run(campaign, request)
    _show(attack.name, campaign, request.out)
    end_with(failures, "cells")


def _run(campaign: "Campaign", request: "Request") -> dict[str, str]:
    from robustness_bench.benchmark.cli.shared.options import typed
    from robustness_bench.benchmark.context import Context, choose_device
    from robustness_bench.benchmark.submit.attacks.campaign import run_campaign

    cells = len(campaign.wanted)
    if not campaign.todo:
        print(f"nothing to do: all {cells} cells are done")
        return {}
    device = choose_device(request.device)
    print(f"{len(campaign.todo)} of {cells} cells to do on {device}")
    context = Context(
        out=request.out, device=device, gallery=0, keep_examples=True, trust_code=True, command=typed()
    )
    try:
        return run_campaign(campaign.todo, context, live=sys.stdout.isatty())
    except KeyboardInterrupt:
        print("\nbench: interrupted; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130) from None


def _show(name: str, campaign: "Campaign", out: Path) -> None:
    from robustness_bench.benchmark.report.rendering.formats import to_text
    from robustness_bench.benchmark.store.cells import find_records, read_record
    from robustness_bench.benchmark.submit.attacks.campaign_table import campaign_tables
    from robustness_bench.benchmark.submit.board.entries import register_entries

    register_entries(out)
    records = [read_record(path) for path in find_records(out)]
    for table in campaign_tables(name, campaign.wanted, records):
        print(f"\n{to_text(table)}")
    print(f"records are in {place(out)}; bench run with the store's protocol brings its tables up to date")
