"""`bench submit run`: a defense through the full protocol it claims, or an attack on listed defenses."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustness_bench.benchmark.cli.shared.execution import end_with, execute
from robustness_bench.benchmark.cli.shared.labelled import (
    DataDir,
    Device,
    Fit,
    TrustSubmission,
    locate_labelled,
    takes_urls,
)
from robustness_bench.benchmark.cli.shared.options import Request, split, typed
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.mirror import local_folder, place

if TYPE_CHECKING:
    from robustness_bench.benchmark.submit.attacks.campaign import Campaign
    from robustness_bench.benchmark.submit.board.entries import Entry


@takes_urls
def run(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder, .zip, .tar or .tar.gz.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="A first look at 20 images; never counts as verified.")
    ] = False,
    trust_code: TrustSubmission = False,
    defense: Annotated[
        list[str] | None,
        typer.Option("--defense", help="For an attack: only against these, repeated or comma-separated."),
    ] = None,
    keep_examples: Annotated[
        bool,
        typer.Option("--keep-examples", help="For a defense: keep images that fool it, for bench verify."),
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the results, or its URL.", parser=local_folder)
    ] = Path("results"),
    data_dir: DataDir = Path("data"),
    fit: Fit = "",
    device: Device = "auto",
    workers: Annotated[
        int,
        typer.Option("--workers", help="For a defense: tasks at once; 0 = one per GPU, or per core up to 4."),
    ] = 0,
) -> None:
    """Check a submission, then run it unless a check fails. If killed, the same command resumes.

    A defense is attacked in the white box by the strict set, under the threat model it claims. Its claims are
    then shown next to the measurements; it is verified once every attack of the full protocol has run. An
    attack runs against every model in the store that has white-box results and weights, and lowers their
    worst cases by what it finds. Attacks, and models that came as code, run only confined.
    """
    from robustness_bench.benchmark.run.work import prepare
    from robustness_bench.benchmark.submit.board.entries import add_entry, entry_of, publish
    from robustness_bench.benchmark.submit.board.standing import protocol_of
    from robustness_bench.benchmark.submit.intake.reading import unpacked
    from robustness_bench.benchmark.submit.manifest.attack import is_attack
    from robustness_bench.benchmark.submit.manifest.defense import read_manifest

    request = Request(
        out=out,
        data_dir=data_dir,
        fit=fit,
        device=device,
        workers=workers,
        trust_code=trust_code,
        keep_examples=keep_examples,
        weights_accept_low=True,  # its accuracy is compared with its claims instead
    )
    with unpacked(path) as folder:
        if is_attack(folder):
            _refuse("a defense", {"--workers": workers != 0, "--keep-examples": keep_examples})
            _check(folder, request)
            run_attack(folder, request, defense or [], quick=quick)
            return
        _refuse("an attack", {"--defense": defense is not None, "--fit": bool(fit)})
        _check(folder, request)
        entry = entry_of(read_manifest(folder), folder)
        work = prepare(protocol_of(entry, folder, quick=quick), out, data_dir)
        add_entry(out, entry)
        try:
            execute(work, request, publish, "the submission's records")
        finally:
            _show(entry, out)


def _refuse(of: str, given: dict[str, bool]) -> None:
    """Raise BenchError for an option of the other kind of submission."""
    for option, is_given in given.items():
        if is_given:
            raise BenchError(f"{option} is for {of}, which this submission is not: leave it out")


def _check(folder: Path, request: Request) -> None:
    from robustness_bench.benchmark.context import choose_device
    from robustness_bench.benchmark.submit.checks.submission import Settings, checks

    settings = Settings(
        trust_code=request.trust_code, data_dir=request.data_dir, device=choose_device(request.device)
    )
    found = [each for each in checks(folder, settings) if each.status != "ok"]
    for each in found:
        print(f"{each.status:<8} {each.name:<17} {each.text}")
    if any(each.status == "skipped" and "--trust-code" in each.text for each in found):
        (code,) = (each.name for each in folder.glob("*.py"))
        raise BenchError(f"the submission has code: read its {code}, then add --trust-code")
    if any(each.status == "FAILED" for each in found):
        raise typer.Exit(1)
    print(f"checks passed, {len(found)} flagged" if found else "all checks passed")


def _show(entry: "Entry", out: Path) -> None:
    """Print the claims next to the measurements, and what is missing for verification."""
    from robustness_bench.benchmark.store.cells import read_records
    from robustness_bench.benchmark.submit.board.standing import standing

    found = standing(entry, read_records(out))
    claimed = {
        ("none" if name == "natural" else name): value for name, value in entry.submission.claimed.items()
    }
    print(f"\n{entry.submission.name}: {found.status}, {found.images} images")
    for name in dict.fromkeys([*found.measured, *claimed]):
        ours, theirs = found.measured.get(name), claimed.get(name)
        texts = (f"{value:.1f} %" if value is not None else "–" for value in (ours, theirs))
        print(f"  {name:<12} measured {next(texts):>7}   claimed {next(texts):>7}")
    if found.missing:
        print(f"  not measured: {', '.join(found.missing)}")
    elif found.status == "partial":
        print("  a first look: without --quick the full protocol runs")


def run_attack(folder: Path, request: Request, defenses: list[str], *, quick: bool) -> None:
    """Run the checked attack in ``folder``, then print its effect on each worst case.

    Raises:
        typer.Exit: 130 after Ctrl-C, 1 if a cell failed.
        BenchError: there is nothing to attack.
    """
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
    _show_effect(attack.name, campaign, request.out)
    end_with(failures, "cells")


def _run(campaign: "Campaign", request: Request) -> dict[str, str]:
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


def _show_effect(name: str, campaign: "Campaign", out: Path) -> None:
    from robustness_bench.benchmark.report.rendering.formats import to_text
    from robustness_bench.benchmark.store.cells import find_records, read_record
    from robustness_bench.benchmark.submit.attacks.campaign import campaign_tables
    from robustness_bench.benchmark.submit.board.entries import register_entries

    register_entries(out)
    records = [read_record(path) for path in find_records(out)]
    for table in campaign_tables(name, campaign.wanted, records):
        print(f"\n{to_text(table)}")
    print(f"records are in {place(out)}; bench run with the store's protocol brings its tables up to date")
