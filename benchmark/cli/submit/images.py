"""`bench submit attack`: adversarial images against a stored model, verified before they count."""

from pathlib import Path
from typing import Annotated

import typer

from robustness_bench.benchmark.cli.shared.labelled import DataDir, Device, Fit, TrustModel, locate_labelled
from robustness_bench.benchmark.cli.shared.options import typed


def attack(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .safetensors file with sample (K,) and x_adv (K,C,H,W).")
    ],
    against: Annotated[
        Path, typer.Option("--against", help="A record of the model; its threat model applies.")
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the attack.")],
    authors: Annotated[list[str], typer.Option("--author", help="Author; repeat for several.")],
    link: Annotated[str, typer.Option("--link", help="Paper or code.")] = "",
    data_dir: DataDir = Path("data"),
    fit: Fit = "",
    trust_code: TrustModel = False,
    device: Device = "auto",
) -> None:
    """Verify adversarial images that you found against a model; those that pass lower its worst case.

    Every image is evaluated: it must fool the model where the natural one does not, inside ε and the pixel
    box. The store keeps those that pass, with your name. Status 1 if none does.
    """
    from robustness_bench.benchmark.context import Context, choose_device
    from robustness_bench.benchmark.errors import BenchError
    from robustness_bench.benchmark.measure.verification import data_of
    from robustness_bench.benchmark.store.cells import read_record
    from robustness_bench.benchmark.store.folder import locked
    from robustness_bench.benchmark.submit.attacks.images import Credit, add_sent
    from robustness_bench.benchmark.submit.manifest.text import link as checked_link
    from robustness_bench.benchmark.submit.manifest.text import plain

    path = against.resolve()
    if path.suffix != ".parquet" or path.parts[-6:-5] != ("records",):
        raise BenchError(f"--against {against} is no record: name a .parquet file below a store's records/")
    try:
        credit = Credit(
            plain(name, 80), tuple(plain(each, 80) for each in authors), checked_link(link) if link else ""
        )
    except ValueError as error:
        raise BenchError(f"--name, --author and --link are shown to others: one {error}") from error
    record = read_record(path)
    if record.status == "error":
        raise BenchError(f"{against} is of a cell that failed: name another record of the model")
    data = data_of(record, path, lambda spec: locate_labelled(spec, data_dir, fit))
    store, on = path.parents[5], choose_device(device)
    context = Context(out=store, device=on, trust_code=trust_code, command=typed())
    with locked(store):
        found, written = add_sent(file, path, record, credit, context, data)
    hold = int(found.hold.sum())
    print(f"{hold} of {len(found.hold)} images hold against {record.spec['defense']}, seed {record.seed}")
    for reason, count in found.faults.items():
        print(f"  {count} × {reason}")
    if written is None:
        raise typer.Exit(1)
    print(f"kept as {written}; bench run with the store's protocol brings the tables up to date")
