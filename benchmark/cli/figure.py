"""`bench figure`: Figures 2, 4, 5 and 7 of Zhou et al. 2022 from what the store holds."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.options import Names, Request, split, takes_request
from benchmark.cli.remedy import spelled
from benchmark.errors import BenchError, unknown

if TYPE_CHECKING:
    from benchmark.datasets import Located
    from benchmark.protocol import Protocol
    from benchmark.report.figures import Figure, Gap, Question

_FROM_GAP = ("defense", "dataset", "norm", "threat", "attacks", "seeds", "curve")


@takes_request
def figure(
    request: Request,
    number: Annotated[str, typer.Argument(metavar="N", help="2, 4, 5 or 7.")],
    formats: Annotated[
        Names, typer.Option("--format", help="png, svg, pdf, repeated or comma-separated; all unless given.")
    ] = None,
    columns: Annotated[
        int, typer.Option("--columns", help="Width on a page: 1 column (3.3 in) or 2 (7 in).")
    ] = 1,
) -> None:
    """Draw a figure of the NAMID paper from the results that are there; trains and attacks nothing.

    One per data set and norm (linf unless --norm says). --defense (figures 2 and 4) and --attacks replace
    the figure's own. Writes figures/figure-N-DATASET-NORM .csv, .png, .svg and .pdf, with the set's name in
    it unless that is strict.
    """
    from benchmark.report.drawing import FORMATS, WIDTHS
    from benchmark.report.figures import NUMBERS

    if number not in NUMBERS:
        raise unknown("figure", number, NUMBERS)
    wanted = list(dict.fromkeys(split(formats or list(FORMATS))))
    for name in wanted:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    if columns not in WIDTHS:
        raise BenchError(f"--columns must be 1 or 2, got {columns}")
    empty = []
    for found in _figures(request, number):
        if isinstance(found, BenchError):
            empty.append(str(found))
        else:
            _write(found, request.out / "figures", wanted, columns)
    if empty:
        raise BenchError("; ".join(empty))


def _figures(request: Request, number: str) -> "Iterator[Figure | BenchError]":
    """Every figure asked for, or why there is none."""
    from benchmark.datasets import locate
    from benchmark.report.figures import NothingToDrawError

    protocol = request.protocol()
    data = {
        settings.dataset: locate(settings.dataset, request.data_dir, download=request.download)
        for settings in protocol.settings
    }
    for question in _questions(request, protocol, data, number):
        try:
            yield _draw_up(request, question, data)
        except NothingToDrawError as error:
            yield error


def _questions(
    request: Request, protocol: "Protocol", data: "dict[str, Located]", number: str
) -> "list[Question]":
    """Per data set and norm.

    Raises:
        BenchError: options that the figure has no use for.
    """
    from attacks.registry import attack_presets
    from benchmark.report.figures import ESTIMATED, Question

    if "white" not in protocol.threats:
        raise BenchError("the figures show the white box: leave --threat out")
    named = protocol.defenses if request.defense or request.plugin else ()
    if named and number not in ESTIMATED:
        raise BenchError(f"figure {number} compares defenses of its own: leave --defense out")
    if len(named) > 1:
        raise BenchError(f"figure {number} shows one defense at a time, got {', '.join(named)}")
    norms = protocol.norms
    if request.norm is None and "linf" in norms:
        norms = ("linf",)
    asked = split(request.attacks or [])
    if number in ESTIMATED and "none" in asked:
        raise BenchError(f"figure {number} shows attacked images: leave none out of --attacks")
    return [
        Question(
            number=number,  # type: ignore[arg-type]
            settings=settings,
            label=data[settings.dataset].label,
            norm=norm,
            seeds=protocol.seeds,
            defense=named[0] if named else "",
            attacks=tuple(name for name in attack_presets(settings.attack_set) if name in asked),
        )
        for settings in protocol.settings
        for norm in norms
    ]


def _draw_up(request: Request, question: "Question", data: "dict[str, Located]") -> "Figure":
    from benchmark.mi_records import find_mi_records, read_mi_record
    from benchmark.records import find_records, read_record
    from benchmark.report import mi, publish
    from benchmark.report.figures import ESTIMATED, accuracy_figure, mi_figure

    def remedy(gap: "Gap") -> str:
        return command(request, gap)

    if question.number in ESTIMATED:
        estimates = [read_mi_record(path) for path in find_mi_records(request.out)]
        return mi_figure(question, mi.fitting(question.settings, data, estimates), remedy)
    records = [read_record(path) for path in find_records(request.out)]
    by_id = {record.id: record for record in records}
    return accuracy_figure(question, publish.fitting(question.settings, data, by_id), remedy)


def command(request: Request, gap: "Gap") -> str:
    """The command line that fills ``gap`` under everything else that was asked for."""
    options = {
        "--defense": ",".join(gap.defenses),
        "--dataset": gap.dataset,
        "--norm": gap.norm,
        "--attacks": ",".join(gap.attacks),
    }
    options |= {"--threat": "white"} if gap.verb == "run" else {"--objective": ",".join(gap.objectives)}
    return spelled(request, gap.verb, options | {"--seeds": str(gap.seeds)}, _FROM_GAP)


def _write(drawn: "Figure", folder: Path, formats: Sequence[str], columns: int) -> None:
    """The files, atomically; and on the terminal the numbers and the files."""
    from benchmark.atomic import write_atomic
    from benchmark.report.drawing import draw
    from benchmark.report.figures import to_csv, to_table
    from benchmark.report.render import to_text

    files = {"csv": to_csv(drawn).encode(), **{name: draw(drawn, name, columns) for name in formats}}
    for suffix, content in files.items():
        write_atomic(folder / f"{drawn.name}.{suffix}", content)
    head, _, rows = to_text(to_table(drawn)).partition("\n\n")
    print("\n".join(textwrap.fill(line, 100) for line in head.splitlines()), end=f"\n\n{rows}")
    for note in drawn.notes:
        print(f"  {note}")
    print(", ".join(str(folder / f"{drawn.name}.{suffix}") for suffix in files))
