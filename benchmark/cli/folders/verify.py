"""`bench verify`: evaluate again the adversarial images that a run kept."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustness_bench.benchmark.cli.shared.labelled import (
    DataDir,
    Device,
    Fit,
    Json,
    TrustModel,
    locate_labelled,
    takes_urls,
)
from robustness_bench.benchmark.mirror import local_folder

if TYPE_CHECKING:
    from robustness_bench.benchmark.measure.verification import Verdict


@takes_urls
def verify(
    records: Annotated[
        list[Path], typer.Argument(help="Records (.parquet) or folders of them.", parser=local_folder)
    ],
    data_dir: DataDir = Path("data"),
    fit: Fit = "",
    model_dir: Annotated[Path, typer.Option("--model-dir", help="RobustBench's cache of models.")] = Path(
        "models"
    ),
    trust_code: TrustModel = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Evaluate kept adversarial images again: do they fool the model within the budget and the pixel box?

    Takes records of a run with --keep-examples whose weights are still in the store. Status 1 if an image
    fails.
    """
    from robustness_bench.benchmark.context import Context, choose_device
    from robustness_bench.benchmark.measure.verification import verify_record

    on = choose_device(device)

    def look(path: Path) -> "Verdict":
        store = path.resolve().parents[5]
        context = Context(out=store, device=on, model_dir=model_dir, trust_code=trust_code)
        return verify_record(path.resolve(), context, lambda spec: locate_labelled(spec, data_dir, fit))

    verdicts = [look(path) for path in _found(records)]
    if as_json:
        print(json.dumps([_entry(verdict) for verdict in verdicts], indent=1))
    else:
        for verdict in verdicts:
            _say(verdict)
    if any(verdict.faults for verdict in verdicts):
        raise typer.Exit(1)


def _entry(verdict: "Verdict") -> dict[str, Any]:
    record = verdict.record
    keys = ("dataset", "norm", "eps", "threat", "defense", "attack")
    return {
        "record": record.id,
        **{key: record.spec[key] for key in keys},
        "seed": record.seed,
        **{name: value for name, value in verdict._asdict().items() if name != "record"},
    }


def _say(verdict: "Verdict") -> None:
    spec, of = verdict.record.spec, f"{verdict.hold} of {verdict.images} images hold"
    title = f"{spec['dataset']} {spec['norm']} {spec['threat']}-box {spec['defense']} × {spec['attack']}"
    print(f"{title}, seed {verdict.record.seed}: {of}, {verdict.within} within ε = {spec['eps']:.4g}")
    for reason, count in verdict.faults.items():
        print(f"  {count} × {reason}")


def _found(named: list[Path]) -> list[Path]:
    """Return the named records, of a folder those with evidence; BenchError if there are none."""
    from robustness_bench.benchmark.errors import BenchError
    from robustness_bench.benchmark.store.evidence import evidence_of

    found = []
    for path in named:
        if path.is_dir():
            inside = sorted(path.resolve().rglob("records/**/*.parquet")) or sorted(path.rglob("*.parquet"))
            own = [each for each in inside if "records" in each.resolve().parts[-6:-5]]
            kept = [each for each in own if evidence_of(each.resolve()).is_file()]
            if not kept:
                raise BenchError(f"no record under {path} has kept images: run with --keep-examples")
            found += kept
        elif path.suffix == ".parquet" and path.resolve().parts[-6:-5] == ("records",):
            found.append(path)
        else:
            raise BenchError(f"{path} is no record: name a .parquet file below a store's records/")
    return found
