"""`bench tables`: Tables 1 to 6 of Zhou et al. 2022 from what the store holds."""

import textwrap
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated

import typer

from attacks.registry import attack_names
from benchmark.cli.options import Names, Request, split, takes_request
from benchmark.cli.remedy import flag, spelled
from benchmark.errors import BenchError, unknown

if TYPE_CHECKING:
    from benchmark.report.paper_cells import PaperCell
    from benchmark.report.table import Table

_FORMATS = {"csv": "csv", "html": "html", "latex": "tex", "markdown": "md"}
_THE_PAPERS = ("defense", "norm", "threat", "attacks", "curve", "weights", "weights_plain", "plugin")
_FROM_CELLS = ("defense", "dataset", "norm", "threat", "attacks", "seeds", "curve")


@takes_request
def tables(
    request: Request,
    table: Annotated[
        Names, typer.Option("--table", help="1 to 6, repeated or comma-separated; all unless given.")
    ] = None,
    formats: Annotated[
        Names,
        typer.Option(
            "--format", help="csv, html, latex, markdown, repeated or comma-separated; all unless given."
        ),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Beside ours the paper's figures, and how they compare.")
    ] = False,
) -> None:
    """Set Tables 1 to 6 of the NAMID paper from the results that are there; trains and attacks nothing.

    Writes tables/table-N-DATASET .csv, .html, .tex and .md, with the set's name in it unless that is
    strict; several data sets share a table, and its name. What never ran is blank, with the command that
    runs it. With --published a table needs no results of ours.
    """
    from benchmark.report import paper
    from benchmark.report.paper_store import blocks

    numbers = _chosen(table, paper.NUMBERS, "table")
    wanted = _chosen(formats, list(_FORMATS), "format")
    _check(request)
    protocol = request.protocol()
    there = blocks(protocol, request.out, request.data_dir, request.download, needed=not published)

    def remedy(cells: "Sequence[PaperCell]") -> str:
        return command(request, cells, protocol.seeds)

    empty = []
    for number in numbers:
        shape = paper.paper_layout(number)
        cells = paper.cells_of(shape, there, beside=published)
        if any(cell.line or cell.published for cell in cells):
            made = paper.paper_table(shape, cells, seeds=protocol.seeds, beside=published, remedy=remedy)
            _write(request, made, cells, wanted)
        else:
            commands = " and ".join(remedy(gap) for gap in paper.gaps(cells, protocol.seeds))
            empty.append(f"nothing of Table {number} is in {request.out}: run {commands}")
    if len(empty) == len(numbers):
        raise BenchError("; ".join(empty))
    for line in empty:
        print(line)


def _chosen(given: Names, known: Sequence[str], kind: str) -> list[str]:
    """What was asked for, in order and once; all where nothing was."""
    asked = split(given or list(known))
    for name in asked:
        if name not in known:
            raise unknown(kind, name, known)
    return [name for name in known if name in asked]


def _check(request: Request) -> None:
    """Refuse options that would change the paper's rows and columns."""
    given = [
        flag(each.type)
        for each in fields(Request)
        if each.name in _THE_PAPERS and getattr(request, each.name) != each.default
    ]
    if given:
        raise BenchError(f"the tables have the paper's rows and columns: leave {', '.join(given)} out")


def command(request: Request, cells: "Sequence[PaperCell]", seeds: int) -> str:
    """The command line that runs cells of one data set, norm and threat, as everything else was asked for."""
    first = cells[0]
    attacks = {cell.column.key for cell in cells}
    options = {
        "--defense": ",".join(dict.fromkeys(cell.row.key for cell in cells)),
        "--dataset": first.block.settings.dataset,
        "--norm": first.column.group,
        "--attacks": ",".join(name for name in attack_names() if name in attacks),
        "--threat": first.threat,
        "--seeds": str(seeds),
    }
    return spelled(request, "run", options, _FROM_CELLS)


def _write(request: Request, made: "Table", cells: "Sequence[PaperCell]", formats: Sequence[str]) -> None:
    """The files, atomically; and on the terminal the table and where it is."""
    from benchmark.atomic import write_atomic
    from benchmark.report.markdown import to_markdown
    from benchmark.report.paper_csv import to_csv
    from benchmark.report.render import to_html, to_latex, to_text

    setting = {"html": to_html, "latex": to_latex, "markdown": to_markdown}
    files = []
    for name in formats:
        file = request.out / "tables" / f"{made.name}.{_FORMATS[name]}"
        write_atomic(file, (setting[name](made) if name in setting else to_csv(cells)).encode())
        files.append(str(file))
    head, _, rows = to_text(made).partition("\n\n")
    print("\n".join(textwrap.fill(line, 100) for line in head.splitlines()), end=f"\n\n{rows}")
    print(f"{', '.join(files)}\n")
