"""`bench tables`: the tables of Zhou et al. 2022 and Hsu et al. 2018 from stored results."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from robustness_bench.benchmark.cli.shared.drawing import write_files
from robustness_bench.benchmark.cli.shared.options import Names, Request, split, takes_request
from robustness_bench.benchmark.cli.shared.remedy import command_line, flag, given
from robustness_bench.benchmark.errors import BenchError, check_known
from robustness_bench.benchmark.mirror import place

if TYPE_CHECKING:
    from robustness_bench.benchmark.report.paper.cells import PaperCell
    from robustness_bench.benchmark.report.paper.tables import Paper
    from robustness_bench.benchmark.report.rendering.table import Table
    from robustness_bench.benchmark.store.detections import Detection

_FORMATS = {"csv": "csv", "html": "html", "latex": "tex", "markdown": "md"}
_WEIGHTS = ("weights", "weights_input", "weights_plain", "weights_entry", "weights_accept_low")
_THE_PAPERS = ("defense", "norm", "threat", "attacks", "curve", "kappa", *_WEIGHTS, "plugin")


class _Set(NamedTuple):
    """A table, or the commands that produce its results if there are none."""

    number: str
    table: "Table | None"
    csv: str
    commands: list[str]


@takes_request
def tables(
    request: Request,
    table: Annotated[
        Names,
        typer.Option(
            "--table",
            help="1 to 6, magnet-1, magnet-2, repeated or comma-separated; default: all that have "
            "results, or 1 to 6.",
        ),
    ] = None,
    formats: Annotated[
        Names,
        typer.Option(
            "--format", help="csv, html, latex, markdown, repeated or comma-separated; default: all."
        ),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Show the paper's numbers next to ours, and how they compare.")
    ] = False,
) -> None:
    """Write the papers' tables from stored results; trains and attacks nothing.

    Tables 1 to 6 are those of the NAMID paper; magnet-1 and magnet-2 are Tables 1 and 2 of Hsu et al. 2018,
    on detectors. Writes tables/table-N-DATASET .csv, .html, .tex and .md, with the attack set in the name
    unless it is strict; several data sets can share one table and file name. Cells that never ran are blank,
    with the command that runs them. With --published a table needs no results of ours.
    """
    from robustness_bench.benchmark.report.paper.magnet import MAGNET
    from robustness_bench.benchmark.report.paper.namid import NAMID

    asked = _chosen(table, [*NAMID.numbers, *MAGNET.numbers], "table") if table else []
    wanted = _chosen(formats, list(_FORMATS), "format")
    if strange := [flag(each.type) for each in given(request) if each.name in _THE_PAPERS]:
        raise BenchError(f"the tables have the paper's rows and columns: leave {', '.join(strange)} out")
    detections = MAGNET.records(request.out)
    asked = asked or _with_results(request, detections)
    defenses = [name for name in asked if name in NAMID.numbers]
    detectors = [name for name in asked if name in MAGNET.numbers]
    made = [
        *_made(request, NAMID, defenses, published, NAMID.records(request.out) if defenses else []),
        *(
            each
            for name in detectors
            for each in _made(_placed(request, name, detections), MAGNET, [name], published, detections)
        ),
    ]
    empty = [
        f"no results for Table {each.number} in {place(request.out)}: run {' and '.join(each.commands)}"
        for each in made
        if each.table is None
    ]
    if len(empty) == len(made):
        raise BenchError("; ".join(empty))
    for each in made:
        if each.table is not None:
            _write(request, each.table, each.csv, wanted)
    for line in empty:
        print(line)


def _with_results(request: Request, detections: "Sequence[Detection]") -> list[str]:
    """Return the tables that a store has results for; Tables 1 to 6 if it has none."""
    from robustness_bench.benchmark.report.paper.magnet import MAGNET
    from robustness_bench.benchmark.report.paper.namid import NAMID
    from robustness_bench.benchmark.store.cells import find_records

    labels = {record.spec["dataset"] for record in detections}
    own = [name for name in MAGNET.numbers if labels & set(MAGNET.layout(name).datasets)]
    defenses = NAMID.numbers if find_records(request.out) or not detections else ()
    return [*defenses, *((own or MAGNET.numbers[:1]) if detections else ())]


def _made(
    request: Request, paper: "Paper[Any]", numbers: Sequence[str], published: bool, records: Sequence[Any]
) -> Iterator[_Set]:
    from robustness_bench.benchmark.report.paper.tables import (
        cells_of,
        gaps,
        paper_table,
        read_blocks,
        to_csv,
    )

    if not numbers:
        return
    protocol = request.protocol()
    there = read_blocks(paper, protocol, records, request.data_dir, request.download, needed=not published)

    def remedy(cells: "Sequence[PaperCell[Any]]") -> str:
        return command(request, paper, cells, protocol.seeds)

    for number in numbers:
        shape = paper.layout(number)
        cells = cells_of(paper, shape, there, beside=published)
        made, commands = None, [remedy(gap) for gap in gaps(paper, cells, protocol.seeds)]
        if any(cell.line or cell.published for cell in cells):
            made = paper_table(paper, shape, cells, seeds=protocol.seeds, beside=published, remedy=remedy)
        yield _Set(number, made, to_csv(paper, cells), commands)


def _placed(request: Request, number: str, detections: "Sequence[Detection]") -> Request:
    """Return the request with a table's data sets if none is named: those in the store, or the paper's."""
    from robustness_bench.benchmark.data import DATASETS
    from robustness_bench.benchmark.report.literature.published import published
    from robustness_bench.benchmark.report.paper.magnet import MAGNET

    if request.dataset or request.config:
        return request
    own = MAGNET.layout(number).datasets
    elsewhere = {figure.dataset for figure in published("magnet")} - set(own)
    held = {record.spec["dataset"] for record in detections} - elsewhere
    return dataclasses.replace(request, dataset=[n for n in DATASETS if n in held] or list(own))


def _chosen(given: Names, known: Sequence[str], kind: str) -> list[str]:
    """Return the requested names in order, each once; all if none was requested."""
    asked = split(given or list(known))
    check_known(kind, asked, known)
    return [name for name in known if name in asked]


def command(request: Request, paper: "Paper[Any]", cells: "Sequence[PaperCell[Any]]", seeds: int) -> str:
    """Return the command line that runs the cells of one gap (``gaps``), with all other options."""
    options = paper.options(cells) | {"--seeds": str(seeds)}
    return command_line(request, "run", {name: [value] for name, value in options.items()})


def _write(request: Request, made: "Table", csv: str, formats: Sequence[str]) -> None:
    """Write the files, and print the table and its paths."""
    from robustness_bench.benchmark.report.rendering.formats import to_html, to_latex, to_markdown

    setting = {"csv": lambda _: csv, "html": to_html, "latex": to_latex, "markdown": to_markdown}
    files = {_FORMATS[name]: setting[name](made).encode() for name in formats}
    paths = write_files(request.out / "tables" / made.name, files, made)
    print(f"{paths.replace(str(request.out), place(request.out))}\n")
