"""`bench merge`: join folders of results."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustness_bench.benchmark.cli.shared.labelled import takes_urls
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
