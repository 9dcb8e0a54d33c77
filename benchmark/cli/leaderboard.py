"""`bench leaderboard`: a static site of stored results."""

from pathlib import Path
from typing import Annotated

import typer

from robustness_bench.benchmark.cli.shared.labelled import takes_urls
from robustness_bench.benchmark.mirror import local_folder

app = typer.Typer(help="A static site of results: build it, view it.", no_args_is_help=True)


@app.command()
@takes_urls
def build(
    stores: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[STORE]...",
            help="Folders of results; default: results and every folder in it that has records.",
            parser=local_folder,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the site; replaces an earlier site.")] = (
        Path("site")
    ),
) -> None:
    """Write the site: boards, pages of defenses and detectors, downloads.

    The site opens from disk and loads nothing from the network.
    """
    from robustness_bench.benchmark.errors import BenchError
    from robustness_bench.benchmark.report.rendering.wording import count
    from robustness_bench.benchmark.site.build import build
    from robustness_bench.benchmark.site.contents.reading import default_stores

    found = stores or default_stores(Path("results"))
    if not found:
        raise BenchError("no records in results: run `bench run` first, or name a folder it wrote into")
    built = build(found, out)
    pages = f", {count(built.detectors, 'page')} of detectors" if built.detectors else ""
    print(
        f"{count(built.boards, 'board')}, {count(built.defenses, 'defense')}, {count(built.cells, 'cell')}"
        f"{pages}: {out / 'index.html'} ({built.seconds:.1f} s)"
    )


@app.command()
def serve(
    site: Annotated[Path, typer.Argument(help="Folder of the site.")] = Path("site"),
    port: Annotated[int, typer.Option("--port", help="0 = any free port.")] = 8000,
) -> None:
    """Serve a site to browsers on this machine until Ctrl-C."""
    from robustness_bench.benchmark.site.serve import server

    with server(site, port) as running:
        print(f"http://{running.server_address[0]!s}:{running.server_port}/ (Ctrl-C ends it)", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print()
