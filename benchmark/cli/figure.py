"""`bench figure`: Figures 2, 4, 5, 7 of Zhou et al. 2022, and figures of detectors, from stored results."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from robustness_bench.benchmark.cli.shared.drawing import Drawable, write
from robustness_bench.benchmark.cli.shared.options import Names, Request, split, takes_request
from robustness_bench.benchmark.cli.shared.remedy import command_line, flag, given
from robustness_bench.benchmark.errors import BenchError, check_known

if TYPE_CHECKING:
    from robustness_bench.benchmark.data import Located
    from robustness_bench.benchmark.plan.protocol import Protocol
    from robustness_bench.benchmark.report.figures.namid import Figure, Gap, Question
    from robustness_bench.benchmark.store.detections import Detection

KINDS = ("roc", "scores", "generated")
_SYSTEMS = ["magnet", "mi-magnet"]  # the systems in the remedy unless the user named some
_WHERE = ("dataset", "config", "out", "data_dir")  # data_dir: an environment variable may set it
_OF_SCORES = ("defense", "attacks", "kappa", "seeds", "n_examples")


@takes_request
def figure(
    request: Request,
    number: Annotated[str, typer.Argument(metavar="N", help="2, 4, 5, 7, roc, scores or generated.")],
    formats: Annotated[
        Names, typer.Option("--format", help="png, svg, pdf, repeated or comma-separated; default: all.")
    ] = None,
    columns: Annotated[
        int, typer.Option("--columns", help="Width on a page: 1 column (3.3 in) or 2 (7 in).")
    ] = 1,
) -> None:
    """Draw a figure from stored results; trains and attacks nothing.

    2, 4, 5, 7: figures of the NAMID paper, one per data set and norm (default: linf). --defense (2 and 4)
    and --attacks replace the figure's defaults. Writes figures/figure-N-DATASET-NORM .csv, .png, .svg and
    .pdf, with the attack set in the name unless it is strict.

    roc, scores, generated: figures of detectors, one per data set in the store. --dataset, --defense (a
    system of detectors), --attacks, --kappa, --seeds and --n-examples select what is drawn; of several κ,
    each detector's worst one is drawn. Writes
    figures/roc-DATASET, scores-DATASET-ATTACK, generated-DATASET-GENERATOR .csv, .png, .svg and .pdf.
    """
    from robustness_bench.benchmark.report.figures.drawing.namid import FORMATS, WIDTHS
    from robustness_bench.benchmark.report.figures.namid import NUMBERS

    check_known("figure", [number], [*NUMBERS, *KINDS])
    if request.kappa and number in NUMBERS:
        raise BenchError(f"figure {number} has no κ to choose: leave --kappa out")
    wanted = list(dict.fromkeys(split(formats or list(FORMATS))))
    check_known("format", wanted, FORMATS)
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
    """Yield every requested figure, or why there is none."""
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
            drawn = _drawn(request, question, data)
        except NothingToDrawError as error:
            yield error
        else:
            yield Drawable(drawn.name, to_csv(drawn), to_table(drawn), drawn.notes, partial(draw, drawn))


def _questions(
    request: Request, protocol: "Protocol", data: "dict[str, Located]", number: str
) -> "list[Question]":
    """Return what to draw, per data set and norm; BenchError for options that the figure does not use."""
    from robustness_bench.attacks.registry import attack_presets, parsed
    from robustness_bench.benchmark.report.figures.namid import ESTIMATED, Question

    if "white" not in protocol.threats:
        raise BenchError("the figures show the white box: leave --threat out")
    named = protocol.defenses if request.defense or request.plugin else ()
    if named and number not in ESTIMATED:
        raise BenchError(f"figure {number} has a fixed list of defenses: leave --defense out")
    if len(named) > 1:
        raise BenchError(f"figure {number} shows one defense at a time, got {', '.join(named)}")
    norms = protocol.norms
    if request.norm is None and "linf" in norms:
        norms = ("linf",)
    asked = split(request.attacks or [])
    if number in ESTIMATED and "none" in asked:
        raise BenchError(f"figure {number} shows attacked images: leave none out of --attacks")
    if stored := [name for name in asked if parsed(name)[1]]:
        raise BenchError(f"figure {number} shows images as attacks make them: leave {', '.join(stored)} out")
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


def _drawn(request: Request, question: "Question", data: "dict[str, Located]") -> "Figure":
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
    """Return the command line that fills ``gap``, with all other given options."""
    cells: dict[str, Iterable[object]] = {
        "--defense": gap.defenses,
        "--dataset": [gap.dataset],
        "--norm": [gap.norm],
        "--attacks": gap.attacks,
    }
    cells |= {"--threat": ["white"]} if gap.verb == "run" else {"--objective": gap.objectives}
    return command_line(request, gap.verb, cells | {"--seeds": [gap.seeds]})


def detection_figures(request: Request, kind: str) -> Iterator[Drawable | BenchError]:
    """Yield every requested figure, or why there is none; BenchError for options that it does not use."""
    used = (*_WHERE, *(() if kind == "generated" else _OF_SCORES))
    for each in given(request):
        if each.name not in used:
            raise BenchError(f"figure {kind} draws stored results: leave {flag(each.type)} out")
    if kind == "generated":
        yield from _generated(request)
        return
    from robustness_bench.benchmark.report.detectors.store import detections
    from robustness_bench.benchmark.report.figures.namid import NothingToDrawError

    everything = detections(request.out)
    met = sorted({each.spec["dataset"] for each in everything})
    for dataset in _datasets(request, met):
        own = [each for each in everything if each.spec["dataset"] == dataset]
        try:
            yield from _of_scores(kind, dataset, _kept(request, own), sorted(set(request.kappas())))
        except NothingToDrawError as error:
            yield _nothing(request, dataset, str(error))


def _of_scores(
    kind: str, dataset: str, detections: "list[Detection]", kappas: list[float]
) -> Iterator[Drawable]:
    from robustness_bench.benchmark.report.figures import roc, scores
    from robustness_bench.benchmark.report.figures.drawing.detectors import draw_roc, draw_scores

    if kind == "roc":
        curves = roc.roc_figure(dataset, detections, kappas)
        csv, table = roc.to_csv(curves), roc.to_table(curves)
        yield Drawable(curves.name, csv, table, curves.notes, partial(draw_roc, curves))
        return
    for figure in scores.scores_figures(dataset, detections, kappas):
        csv, table = scores.to_csv(figure), scores.to_table(figure)
        yield Drawable(figure.name, csv, table, figure.notes, partial(draw_scores, figure))


def _generated(request: Request) -> Iterator[Drawable | BenchError]:
    """Yield one per generator."""
    from robustness_bench.benchmark.report.figures.drawing.grids import draw_generated
    from robustness_bench.benchmark.report.figures.generated import generated_figure, to_csv, to_table
    from robustness_bench.benchmark.store.generated import (
        SUFFIX,
        find_conditional_examples,
        read_conditional_examples,
    )

    folders = sorted(path.name for path in (request.out / "checkpoints").glob("*") if path.is_dir())
    met = [name for name in folders if find_conditional_examples(request.out, name)]
    for dataset in _datasets(request, met):
        paths = find_conditional_examples(request.out, dataset)
        for path in paths:
            generator = path.name.removesuffix(SUFFIX)
            figure = generated_figure(dataset, generator, read_conditional_examples(path))
            drawing = partial(draw_generated, figure)
            yield Drawable(figure.name, to_csv(figure), to_table(figure), figure.notes, drawing)
        if not paths:
            yield _nothing(request, dataset, f"nothing to draw in generated of {dataset}")


def _datasets(request: Request, met: list[str]) -> list[str]:
    """Return the data sets that are named, else those ``met`` in the store, else those of a run."""
    if named := list(dict.fromkeys(split(request.dataset or []))):
        return named
    if met and request.config is None:
        return met
    from robustness_bench.benchmark.plan.protocol import load_protocol

    return [settings.dataset for settings in load_protocol(request.config).settings]


def _kept(request: Request, detections: "list[Detection]") -> "list[Detection]":
    """Return the detections that the options select; BenchError for names that the store does not hold."""
    if not detections:
        return []
    systems = _known("system", request.defense, {each.spec["system"] for each in detections})
    attacks = _known("attack", request.attacks, {each.spec["attack"] for each in detections} - {"none"})
    n_examples = request.n_examples
    return [
        each
        for each in detections
        if each.spec["system"] in systems
        and each.spec["attack"] in (*attacks, "none")
        and (request.seeds is None or each.seed < request.seeds)
        # Natural images are always all test images.
        and (not n_examples or each.spec["n_examples"] == n_examples or each.spec["setting"] == "natural")
    ]


def _known(kind: str, asked: list[str] | None, met: set[str]) -> set[str]:
    names = set(split(asked or []))
    check_known(f"{kind} in the detections of the store", sorted(names), sorted(met))
    return names or met


def _nothing(request: Request, dataset: str, why: str) -> BenchError:
    """Return the error with the command that produces the results."""
    run = replace(request, defense=request.defense or _SYSTEMS, dataset=[dataset])
    return BenchError(f"{why}: run {command_line(run, 'run')}")
