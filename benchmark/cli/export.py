"""`bench export`: results as one file, to move to another machine."""

from pathlib import Path
from typing import Annotated

import typer

from robustness_bench.benchmark.errors import BenchError


def export(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[STORE] ARCHIVE.zip", help="Folder of results (default: results); file to write."
        ),
    ],
    with_weights: Annotated[bool, typer.Option("--with-weights", help="Include trained weights.")] = False,
    with_images: Annotated[
        bool, typer.Option("--with-images", help="Include crafted images and evidence (--keep-examples).")
    ] = False,
) -> None:
    """Pack records, estimates, diagnoses, thresholds, training cards and example images into one file.

    The same results give the same bytes on every machine. Tables are not packed; bench run rebuilds them.
    A run may be in progress: only finished results are packed.
    """
    from robustness_bench.benchmark.exchange.sources import given
    from robustness_bench.benchmark.exchange.writing import export as write

    if len(paths) > 2:
        raise BenchError(f"bench export takes a folder and an archive, got {len(paths)} names")
    store, archive = (Path("results"), *paths)[-2:]
    if archive.suffix != ".zip":
        raise BenchError(f"the archive must be named like results.zip, got {archive}")
    done = write(given(store, weights=with_weights, images=with_images), archive)
    verb = "was there already" if done.existed else "written"
    print(f"{archive} {verb}: {done.files} files of {store}, {done.size / 2**20:.1f} MiB")
    print(f"digest {done.digest}")
    flags = {"--with-weights": with_weights, "--with-images": with_images}
    if left := [flag for flag, given_ in flags.items() if not given_]:
        print(f"without what {' and '.join(left)} would add")
