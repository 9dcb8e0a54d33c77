"""`bench figure roc`, `scores` and `generated`: figures of detectors from stored results."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from robustness_bench.benchmark.cli.shared.drawing import Drawable
from robustness_bench.benchmark.cli.shared.options import Request, split
from robustness_bench.benchmark.cli.shared.remedy import command_line, flag, given
from robustness_bench.benchmark.errors import BenchError, check_known

if TYPE_CHECKING:
    from robustness_bench.benchmark.store.detections import Detection

KINDS = ("roc", "scores", "generated")
_SYSTEMS = ["magnet", "mi-magnet"]  # the systems in the remedy unless the user named some
_WHERE = ("dataset", "config", "out", "data_dir")  # data_dir: an environment variable may set it
_OF_SCORES = ("defense", "attacks", "kappa", "seeds", "n_examples")


def detection_figures(request: Request, kind: str) -> Iterator[Drawable | BenchError]:
    """Yield every requested figure, or why there is none.

    Raises:
        BenchError: options that the figure does not use.
    """
    _check(request, kind)
    if kind == "generated":
        yield from _generated(request)
        return
    from robustness_bench.benchmark.report.detectors.store import detections
    from robustness_bench.benchmark.report.figures.namid import NothingToDrawError

    everything = detections(request.out)
    met = sorted({each.spec["dataset"] for each in everything})
    for dataset in _asked(request) or met or _default():
        own = [each for each in everything if each.spec["dataset"] == dataset]
        try:
            yield from _of_scores(kind, dataset, _kept(request, own), sorted(set(request.kappas())))
        except NothingToDrawError as error:
            yield _nothing(request, dataset, str(error))


def _of_scores(
    kind: str, dataset: str, detections: "list[Detection]", kappas: list[float]
) -> Iterator[Drawable]:
    from robustness_bench.benchmark.report.figures import roc_words, scores
    from robustness_bench.benchmark.report.figures.drawing.histograms import draw_scores
    from robustness_bench.benchmark.report.figures.drawing.roc import draw_roc
    from robustness_bench.benchmark.report.figures.roc import roc_figure

    if kind == "roc":
        roc = roc_figure(dataset, detections, kappas)
        csv, table = roc_words.to_csv(roc), roc_words.to_table(roc)
        yield Drawable(roc.name, csv, table, roc.notes, partial(draw_roc, roc))
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
    for dataset in _asked(request) or met or _default():
        paths = find_conditional_examples(request.out, dataset)
        for path in paths:
            generator = path.name.removesuffix(SUFFIX)
            figure = generated_figure(dataset, generator, read_conditional_examples(path))
            drawing = partial(draw_generated, figure)
            yield Drawable(figure.name, to_csv(figure), to_table(figure), figure.notes, drawing)
        if not paths:
            yield _nothing(request, dataset, f"nothing to draw in generated of {dataset}")


def _asked(request: Request) -> list[str]:
    """Return the named data sets by their names in results; an empty list means all in the store."""
    if request.dataset:
        return list(dict.fromkeys(split(request.dataset)))
    if request.config is None:
        return []
    from robustness_bench.benchmark.plan.protocol import load_protocol

    return [settings.dataset for settings in load_protocol(request.config).settings]


def _default() -> list[str]:
    """Return the data sets of a run that names none."""
    from robustness_bench.benchmark.plan.protocol import load_protocol

    return [settings.dataset for settings in load_protocol().settings]


def _kept(request: Request, detections: "list[Detection]") -> "list[Detection]":
    """Return the detections that the options select.

    Raises:
        BenchError: a system or an attack that the store does not hold.
    """
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


def _check(request: Request, kind: str) -> None:
    used = (*_WHERE, *(() if kind == "generated" else _OF_SCORES))
    for each in given(request):
        if each.name not in used:
            raise BenchError(f"figure {kind} draws stored results: leave {flag(each.type)} out")


def _nothing(request: Request, dataset: str, why: str) -> BenchError:
    """Return the error with the command that produces the results."""
    run = replace(request, defense=request.defense or _SYSTEMS, dataset=[dataset])
    return BenchError(f"{why}: run {command_line(run, 'run')}")
