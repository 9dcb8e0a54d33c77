"""`bench import`: add results that `bench export` packed elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from robustness_bench.benchmark.cli.folders.merge import DryRun, KeepWhich, tell
from robustness_bench.benchmark.cli.shared.labelled import takes_urls
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.mirror import local_folder


@takes_urls
def import_(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE.zip", help="Written by bench export.")],
    out: Annotated[
        Path,
        typer.Option("--out", help="Folder of results to add to, or a new one.", parser=local_folder),
    ] = Path("results"),
    keep: KeepWhich = "",
    dry_run: DryRun = False,
    max_size: Annotated[float, typer.Option("--max-size", help="GiB; a larger archive is rejected.")] = 8.0,
) -> None:
    """Check every file of an archive, then add its new results to a folder of results.

    Nothing is written if anything is wrong. Existing results stay; a result replaces a failure; two
    different results of one cell are rejected unless --keep says which to keep.
    """
    from robustness_bench.benchmark.exchange.merging import merge
    from robustness_bench.benchmark.exchange.reading import GIB, Archive

    if not 0 < max_size < float("inf"):
        raise BenchError(f"--max-size must be a positive number of GiB, got {max_size}")
    with Archive(archive, int(max_size * GIB)) as source:
        print(f"{len(source.names)} files in {archive}, digest {source.whole}")
        merged = merge([source], out, keep=keep, dry_run=dry_run)
    tell(merged, out, dry_run)
