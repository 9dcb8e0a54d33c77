"""`bench merge` and `bench import`: join folders of results, and archives of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustness_bench.benchmark.cli.shared.labelled import takes_urls
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.mirror import local_folder, place

if TYPE_CHECKING:
    from robustness_bench.benchmark.exchange.merging import Merged

KeepWhich = Annotated[
    str, typer.Option("--keep", help="ours or theirs, where results of one cell differ; default: reject.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check all, say what would be added, and stop.")]


@takes_urls
def merge(
    stores: Annotated[
        list[Path], typer.Argument(metavar="STORE...", help="Folders of results.", parser=local_folder)
    ],
    out: Annotated[
        Path, typer.Option("--out", help="One of them, or another or new folder.", parser=local_folder)
    ],
    keep: KeepWhich = "",
    dry_run: DryRun = False,
) -> None:
    """Check every file of several folders of results, then add their new results to one folder.

    The rules are those of bench import; "ours" is the folder named first, with --out before all others.
    """
    from robustness_bench.benchmark.exchange.merging import merge as join
    from robustness_bench.benchmark.exchange.sources import given

    others = [given(store) for store in dict.fromkeys(stores) if store.resolve() != out.resolve()]
    tell(join(others, out, keep=keep, dry_run=dry_run), out, dry_run)


def tell(merged: "Merged", out: Path, dry_run: bool) -> None:
    """Print what was added, and what to do next."""
    counts = {
        "new": merged.new,
        "same": merged.same,
        "replaced": merged.replaced,
        "left out (what is here was kept)": len(merged.left_out),
    }
    said = ", ".join(f"{count} {what}" for what, count in counts.items())
    print(f"{'would come ' if dry_run else ''}into {place(out)}: {said}")
    if not dry_run and merged.taken:
        print(
            f"bench run --out {place(out)} with the --config of these results rebuilds results.csv and tables"
        )


@takes_urls
def import_(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE.zip", help="Written by bench export.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder of results to add to, or a new one.", parser=local_folder)
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
