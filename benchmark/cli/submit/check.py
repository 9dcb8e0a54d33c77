"""`bench submit`: submissions, from the template to a checked folder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustness_bench.benchmark.cli.shared.labelled import DataDir, Device, Json, TrustSubmission
from robustness_bench.benchmark.errors import BenchError

if TYPE_CHECKING:
    from robustness_bench.benchmark.submit.checks.submission import Check

app = typer.Typer(
    help="Submit a defense or an attack: write a template, check it, run it.", no_args_is_help=True
)
_WIDTH = 17


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    own: Annotated[bool, typer.Option("--own", help="Your own architecture: also write a model.py.")] = False,
    attack: Annotated[
        bool, typer.Option("--attack", help="An attack: write a manifest and a working attack.py.")
    ] = False,
) -> None:
    """Write the template of a submission; `bench submit check DIR` says what to fill in."""
    from robustness_bench.benchmark.submit.intake.template import write_template

    if own and attack:
        raise BenchError("--own is for a defense, --attack for an attack: give one of them")
    for path in write_template(folder, own=own, attack=attack):
        print(f"wrote {path}")
    code = "replace the steps of attack.py with yours" if attack else "put the weights next to it"
    print(f"fill it in, {code}, then: bench submit check {folder}")


@app.command()
def check(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder, .zip, .tar or .tar.gz.")],
    trust_code: TrustSubmission = False,
    data_dir: DataDir = Path("data"),
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Check a submission: a line for each check, with a remedy for each problem.

    Exit status 0 if every check is ok, 1 if one is not, 2 if the submission cannot be read.
    """
    from robustness_bench.benchmark.context import choose_device
    from robustness_bench.benchmark.submit.checks.submission import Settings, checks
    from robustness_bench.benchmark.submit.intake.reading import unpacked

    settings = Settings(trust_code=trust_code, data_dir=data_dir, device=choose_device(device))
    found = []
    with unpacked(path) as folder:
        for each in checks(folder, settings):
            found.append(each)
            if not as_json:
                print(f"{each.status:<8} {each.name:<{_WIDTH}} {each.text}", flush=True)
    complete = all(each.status == "ok" for each in found)
    if as_json:
        print(json.dumps({"complete": complete, "checks": [each._asdict() for each in found]}, indent=1))
    else:
        print(_summary(found, complete))
    raise typer.Exit(0 if complete else 1)


def _summary(found: "list[Check]", complete: bool) -> str:
    counts = {
        status: sum(each.status == status for each in found) for status in ("FAILED", "flagged", "skipped")
    }
    if complete:
        return "all checks passed"
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    if counts["FAILED"]:
        return f"{told}: fix what FAILED and check again"
    if counts["skipped"]:
        return f"{told}: not fully checked"
    return f"{told}: it can be submitted, and will be shown with these flags"


@app.command("import-external")
def import_external(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="model_info JSON files of RobustBench.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of results to add to.")] = Path("results"),
    norm: Annotated[
        str, typer.Option("--norm", help="linf or l2; default: the name of the file's folder (Linf, L2).")
    ] = "",
) -> None:
    """Add rows that others published: external, unverified, never ranked with rows measured here."""
    from robustness_bench.benchmark.submit.board.external import write_external
    from robustness_bench.benchmark.submit.board.model_info import read_model_info

    refused = 0
    for path in files:
        try:
            written = write_external(out, read_model_info(path, norm))
        except BenchError as error:
            refused += 1
            print(f"refused  {error}")
        else:
            print(f"wrote    {written}")
    if refused:
        print(f"{refused} of {len(files)} files rejected")
        raise typer.Exit(1)
