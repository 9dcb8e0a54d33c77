"""`bench tables`: the tables of Zhou et al. 2022 and Hsu et al. 2018 from stored results."""

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from robustness_bench.attacks.registry import attack_names
from robustness_bench.benchmark.cli.shared.options import Names, Request, split, takes_request
from robustness_bench.benchmark.cli.shared.remedy import command_line, flag, given
from robustness_bench.benchmark.errors import BenchError, unknown

if TYPE_CHECKING:
    from robustness_bench.benchmark.report.literature.layout import Layout
    from robustness_bench.benchmark.report.paper.magnet.cells import MagnetCell
    from robustness_bench.benchmark.report.paper.namid.cells import PaperCell
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
    from robustness_bench.benchmark.report.detectors.store import detections
    from robustness_bench.benchmark.report.paper.magnet import tables as magnet
    from robustness_bench.benchmark.report.paper.namid import tables as paper

    known = [*paper.NUMBERS, *magnet.NUMBERS]
    asked = _chosen(table, known, "table") if table else []
    wanted = _chosen(formats, list(_FORMATS), "format")
    _check(request)
    records = detections(request.out)
    asked = asked or _with_results(request, records)
    made = [
        *_defenses(request, [name for name in asked if name in paper.NUMBERS], published),
        *_detectors(request, [name for name in asked if name in magnet.NUMBERS], published, records),
    ]
    empty = [
        f"no results for Table {each.number} in {request.out}: run {' and '.join(each.commands)}"
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


def _with_results(request: Request, records: "Sequence[Detection]") -> list[str]:
    """Return the tables that a store has results for; Tables 1 to 6 if it has none."""
    from robustness_bench.benchmark.report.paper.magnet import tables as magnet
    from robustness_bench.benchmark.report.paper.namid import tables as paper
    from robustness_bench.benchmark.store.cells import find_records

    labels = {record.spec["dataset"] for record in records}
    own = [name for name in magnet.NUMBERS if labels & set(magnet.magnet_layout(name).datasets)]
    defenses = paper.NUMBERS if find_records(request.out) or not records else ()
    return [*defenses, *((own or magnet.NUMBERS[:1]) if records else ())]


def _defenses(request: Request, numbers: Sequence[str], published: bool) -> Iterator[_Set]:
    """Yield Tables 1 to 6."""
    from robustness_bench.benchmark.report.paper.namid import tables as paper
    from robustness_bench.benchmark.report.paper.namid.csv import to_csv
    from robustness_bench.benchmark.report.paper.namid.store import blocks

    if not numbers:
        return
    protocol = request.protocol()
    there = blocks(protocol, request.out, request.data_dir, request.download, needed=not published)

    def remedy(cells: "Sequence[PaperCell]") -> str:
        return command(request, cells, protocol.seeds)

    for number in numbers:
        shape = paper.paper_layout(number)
        cells = paper.cells_of(shape, there, beside=published)
        made, commands = None, [remedy(gap) for gap in paper.gaps(cells, protocol.seeds)]
        if any(cell.line or cell.published for cell in cells):
            made = paper.paper_table(shape, cells, seeds=protocol.seeds, beside=published, remedy=remedy)
        yield _Set(number, made, to_csv(cells), commands)


def _detectors(
    request: Request, numbers: Sequence[str], published: bool, records: "Sequence[Detection]"
) -> Iterator[_Set]:
    """Yield magnet-1 and magnet-2."""
    from robustness_bench.benchmark.report.paper.magnet import tables as magnet
    from robustness_bench.benchmark.report.paper.magnet.csv import to_csv
    from robustness_bench.benchmark.report.paper.magnet.store import blocks

    for number in numbers:
        shape = magnet.magnet_layout(number)
        protocol = _placed(request, shape, records).protocol()
        there = blocks(protocol, records, request.data_dir, request.download, needed=not published)

        def remedy(cells: "Sequence[MagnetCell]", seeds: int = protocol.seeds) -> str:
            return detector_command(request, cells, seeds)

        cells = magnet.cells_of(shape, there, beside=published)
        made, commands = None, [remedy(gap) for gap in magnet.gaps(cells, protocol.seeds)]
        if any(cell.line or cell.published for cell in cells):
            made = magnet.magnet_table(shape, cells, seeds=protocol.seeds, beside=published, remedy=remedy)
        yield _Set(number, made, to_csv(cells), commands)


def _placed(request: Request, shape: "Layout", records: "Sequence[Detection]") -> Request:
    """Return the request with a table's data sets if none is named: those in the store, or the paper's."""
    from robustness_bench.benchmark.data import DATASETS
    from robustness_bench.benchmark.report.literature.published import published

    if request.dataset or request.config:
        return request
    elsewhere = {figure.dataset for figure in published("magnet")} - set(shape.datasets)
    held = {record.spec["dataset"] for record in records} - elsewhere
    return dataclasses.replace(request, dataset=[n for n in DATASETS if n in held] or list(shape.datasets))


def _chosen(given: Names, known: Sequence[str], kind: str) -> list[str]:
    """Return the requested names in order, each once; all if none was requested."""
    asked = split(given or list(known))
    for name in asked:
        if name not in known:
            raise unknown(kind, name, known)
    return [name for name in known if name in asked]


def _check(request: Request) -> None:
    """Reject options that would change the paper's rows and columns."""
    if strange := [flag(each.type) for each in given(request) if each.name in _THE_PAPERS]:
        raise BenchError(f"the tables have the paper's rows and columns: leave {', '.join(strange)} out")


def command(request: Request, cells: "Sequence[PaperCell]", seeds: int) -> str:
    """Return the command line that runs cells of one data set, norm and threat, with all other options."""
    first = cells[0]
    attacks = {cell.column.key for cell in cells}
    options = {
        "--defense": (cell.row.key for cell in cells),
        "--dataset": [first.block.settings.dataset],
        "--norm": [first.column.group],
        "--attacks": (name for name in attack_names() if name in attacks),
        "--threat": [first.threat],
        "--seeds": [seeds],
    }
    return command_line(request, "run", options)


def detector_command(request: Request, cells: "Sequence[MagnetCell]", seeds: int) -> str:
    """Return the command line that runs cells of one data set, with all other options."""
    options = {
        "--defense": (cell.column.group for cell in cells),
        "--dataset": [cells[0].block.dataset],
        "--kappa": (cell.row for cell in cells),
        "--seeds": [seeds],
    }
    return command_line(request, "run", options)


def _write(request: Request, made: "Table", csv: str, formats: Sequence[str]) -> None:
    """Write the files atomically, and print the table and its paths."""
    from robustness_bench.benchmark.files import write_atomic
    from robustness_bench.benchmark.report.rendering.formats import to_html, to_latex, to_text
    from robustness_bench.benchmark.report.rendering.markdown import to_markdown

    setting = {"html": to_html, "latex": to_latex, "markdown": to_markdown}
    files = []
    for name in formats:
        file = request.out / "tables" / f"{made.name}.{_FORMATS[name]}"
        write_atomic(file, (setting[name](made) if name in setting else csv).encode())
        files.append(str(file))
    head, _, rows = to_text(made).partition("\n\n")
    print("\n".join(textwrap.fill(line, 100) for line in head.splitlines()), end=f"\n\n{rows}")
    print(f"{', '.join(files)}\n")
