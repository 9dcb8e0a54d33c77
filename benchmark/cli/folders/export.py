"""`bench export`: results as one file, to move to another machine."""

from pathlib import Path
from typing import Annotated

import typer

from robustness_bench.benchmark.cli.shared.labelled import takes_urls
from robustness_bench.benchmark.cli.shared.options import Names, split
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.mirror import local_folder, place


@takes_urls
def export(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[STORE] ARCHIVE.zip",
            help="Folder of results (default: results); file to write, unless --hf is given.",
            parser=local_folder,
        ),
    ] = None,
    with_weights: Annotated[bool, typer.Option("--with-weights", help="Include trained weights.")] = False,
    with_images: Annotated[
        bool, typer.Option("--with-images", help="Include crafted images and evidence (--keep-examples).")
    ] = False,
    hf: Annotated[
        Path | None,
        typer.Option("--hf", metavar="DIR", help="Write folders for the Hugging Face hub, not an archive."),
    ] = None,
    benchmark: Annotated[
        str, typer.Option("--benchmark", metavar="ORG/NAME", help="With --hf: the records' name on the hub.")
    ] = "",
    defense: Annotated[
        Names, typer.Option("--defense", help="With --hf: only models of these; default: all.")
    ] = None,
) -> None:
    """Pack records, estimates, diagnoses, thresholds, training cards and example images into one file.

    The same results give the same bytes on every machine. Tables are not packed; bench run rebuilds them.
    A run may be in progress: only finished results are packed.

    With --hf DIR, write instead a folder per model (weights, config.json, model card, .eval_results), which
    --weights takes again, and DIR/records, a data set with a Croissant file. hf upload pushes each.
    """
    from robustness_bench.benchmark.exchange.sources import given
    from robustness_bench.benchmark.exchange.writing import export as write

    paths = paths or []
    if hf is not None:
        if paths[1:] or with_weights or with_images:
            raise BenchError("bench export --hf DIR takes one folder of results, and neither of --with-…")
        _to_hub(paths[0] if paths else Path("results"), hf, benchmark, split(defense or []))
        return
    if benchmark or defense:
        raise BenchError("--benchmark and --defense are for bench export --hf DIR: add it, or leave them out")
    if not 1 <= len(paths) <= 2:
        raise BenchError(f"bench export takes a folder and an archive, got {len(paths)} names")
    store, archive = (Path("results"), *paths)[-2:]
    if archive.suffix != ".zip" or place(archive) != str(archive):
        raise BenchError(f"the archive must be a file named like results.zip, got {place(archive)}")
    done = write(given(store, weights=with_weights, images=with_images), archive)
    verb = "was there already" if done.existed else "written"
    print(f"{archive} {verb}: {done.files} files of {place(store)}, {done.size / 2**20:.1f} MiB")
    print(f"digest {done.digest}")
    flags = {"--with-weights": with_weights, "--with-images": with_images}
    if left := [flag for flag, given_ in flags.items() if not given_]:
        print(f"without what {' and '.join(left)} would add")


def _to_hub(store: Path, folder: Path, benchmark: str, defenses: list[str]) -> None:
    from robustness_bench.benchmark.exchange.hub.export import RECORDS, export_to_hub

    written = export_to_hub(store, folder, benchmark, defenses)
    for title, reason in written.left_out.items():
        print(f"left out: {title}: {reason}")
    for path in written.models:
        print(f"{path}: hf upload ORG/{path.name} {path}")
    upload = f"hf upload {benchmark} {folder / RECORDS} --repo-type dataset"
    print(f"{folder / RECORDS}, {written.rows} rows: {upload}")
