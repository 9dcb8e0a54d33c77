"""`bench figure`: Figures 2, 4, 5 and 7 of Zhou et al. 2022, and of detectors, from what the store holds."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from robustness_bench.benchmark.cli.detector_figure import KINDS, detection_figures
from robustness_bench.benchmark.cli.shared.drawing import Drawable, write
from robustness_bench.benchmark.cli.shared.options import Names, Request, split, takes_request
from robustness_bench.benchmark.cli.shared.remedy import spelled
from robustness_bench.benchmark.errors import BenchError, unknown

if TYPE_CHECKING:
    from robustness_bench.benchmark.data import Located
    from robustness_bench.benchmark.plan.protocol import Protocol
    from robustness_bench.benchmark.report.figures.namid import Figure, Gap, Question

_FROM_GAP = ("defense", "dataset", "norm", "threat", "attacks", "seeds", "curve")


@takes_request
def figure(
    request: Request,
    number: Annotated[str, typer.Argument(metavar="N", help="2, 4, 5, 7, roc, scores or generated.")],
    formats: Annotated[
        Names, typer.Option("--format", help="png, svg, pdf, repeated or comma-separated; all unless given.")
    ] = None,
    columns: Annotated[
        int, typer.Option("--columns", help="Width on a page: 1 column (3.3 in) or 2 (7 in).")
    ] = 1,
) -> None:
    """Draw a figure from the results that are there; trains and attacks nothing.

    2, 4, 5, 7: of the NAMID paper, one per data set and norm (linf unless --norm says). --defense (2 and 4)
    and --attacks replace the figure's own. Writes figures/figure-N-DATASET-NORM .csv, .png, .svg and .pdf,
    with the set's name in it unless that is strict.

    roc, scores, generated: of detectors, one per data set that the store holds. --dataset, --defense (a
    system of detectors), --attacks, --kappa, --seeds and --n-examples leave out all else; of several κ the
    worst one of each detector is drawn. Writes
    figures/roc-DATASET, scores-DATASET-ATTACK, generated-DATASET-GENERATOR .csv, .png, .svg and .pdf.
    """
    from robustness_bench.benchmark.report.figures.drawing.namid import FORMATS, WIDTHS
    from robustness_bench.benchmark.report.figures.namid import NUMBERS

    if number not in (*NUMBERS, *KINDS):
        raise unknown("figure", number, [*NUMBERS, *KINDS])
    if request.kappa and number in NUMBERS:
        raise BenchError(f"figure {number} has no κ to choose: leave --kappa out")
    wanted = list(dict.fromkeys(split(formats or list(FORMATS))))
    for name in wanted:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    if columns not in WIDTHS:
        raise BenchError(f"--columns must be 1 or 2, got {columns}")
    empty = []
    figures = detection_figures(request, number) if number in KINDS else _figures(request, number)
    for found in figures:
        if isinstance(found, BenchError):
            empty.append(str(found))
        else:
            write(found, request.out / "figures", wanted, columns)
    if empty:
        raise BenchError("; ".join(empty))


def _figures(request: Request, number: str) -> Iterator[Drawable | BenchError]:
    """Every figure asked for, or why there is none."""
    from robustness_bench.benchmark.data import locate
    from robustness_bench.benchmark.report.figures.drawing.namid import draw
    from robustness_bench.benchmark.report.figures.namid import NothingToDrawError, to_csv, to_table

    protocol = request.protocol()
    data = {
        settings.dataset: locate(
            settings.dataset, request.data_dir, download=request.download, fit=settings.fit
        )
        for settings in protocol.settings
    }
    for question in _questions(request, protocol, data, number):
        try:
            drawn = _draw_up(request, question, data)
        except NothingToDrawError as error:
            yield error
        else:
            yield Drawable(drawn.name, to_csv(drawn), to_table(drawn), drawn.notes, partial(draw, drawn))


def _questions(
    request: Request, protocol: "Protocol", data: "dict[str, Located]", number: str
) -> "list[Question]":
    """Per data set and norm.

    Raises:
        BenchError: options that the figure has no use for.
    """
    from robustness_bench.attacks.registry import attack_presets
    from robustness_bench.benchmark.report.figures.namid import ESTIMATED, Question

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
    from robustness_bench.benchmark.report.figures.namid import ESTIMATED, accuracy_figure, mi_figure
    from robustness_bench.benchmark.report.lines import information
    from robustness_bench.benchmark.report.lines.selection import fitting
    from robustness_bench.benchmark.store.cells import find_records, read_record
    from robustness_bench.benchmark.store.information import find_mi_records, read_mi_record

    def remedy(gap: "Gap") -> str:
        return command(request, gap)

    if question.number in ESTIMATED:
        estimates = [read_mi_record(path) for path in find_mi_records(request.out)]
        return mi_figure(question, information.fitting(question.settings, data, estimates), remedy)
    records = [read_record(path) for path in find_records(request.out)]
    by_id = {record.id: record for record in records}
    return accuracy_figure(question, fitting(question.settings, data, by_id), remedy)


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
