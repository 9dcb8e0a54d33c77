"""The plots of the pages of defenses and of detectors, each with the table of its numbers."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from markupsafe import Markup

from robustness_bench.benchmark.report.detectors.names import detector_label
from robustness_bench.benchmark.report.detectors.roc import FPRS
from robustness_bench.benchmark.report.figures.pairs import Panel
from robustness_bench.benchmark.report.figures.roc import (
    HEADS,
    Curve,
    RocFigure,
    chosen,
    claim,
    seeds_in_words,
    texts,
)
from robustness_bench.benchmark.report.rendering.table import spread
from robustness_bench.benchmark.report.rendering.wording import NORM_SYMBOLS, count
from robustness_bench.benchmark.site.contents import names
from robustness_bench.benchmark.site.contents.boards import Board, Row
from robustness_bench.benchmark.site.contents.families import Family
from robustness_bench.benchmark.site.drawing.svg import (
    Axis,
    Plot,
    Series,
    draw,
    log_axis,
    percent_axis,
    swatch,
)
from robustness_bench.benchmark.statistics import mean_std
from robustness_bench.benchmark.store.cells import Record

_GRID = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
ByEps = dict[float, list[float]]
Points = list[tuple[float, float]]


class Chart(NamedTuple):
    """A plot, its legend, and its numbers as text."""

    title: str
    note: str
    drawing: Markup
    legend: list[tuple[Markup, str]]
    head: list[str]
    rows: list[list[str]]


def robustness(family: Family, board: Board) -> Chart | None:
    """Plot accuracy against ε for every attack that ran at several ε, or serves every ε in one run."""
    records = [record for record in family.records if _same_threat(record, board)]
    natural = [r for r in records if r.spec["kind_of_attack"] == "natural" and r.status == "ok"]
    start = {0.0: [100.0 * float(record.robust.mean()) for record in natural]} if natural else {}
    curves: dict[str, ByEps] = {}
    for record in records:
        if record.spec["kind_of_attack"] != "natural" and record.status == "ok":
            curve = curves.setdefault(names.attack(record.spec["attack"]).label, {})
            open_ended = record.spec["kind_of_attack"] == "minimum-norm"
            for eps in [f * board.eps for f in _GRID] if open_ended else [record.spec["eps"]]:
                curve.setdefault(eps, []).append(100.0 * float(record.robust_at(eps).mean()))
    several = {label: {**start, **curve} for label, curve in sorted(curves.items()) if len(curve) > 1}
    if not several:
        return None
    title = f"Accuracy against ε, {NORM_SYMBOLS.get(board.norm, board.norm)}, {names.threat(board.threat)}"
    lines = {label: [(eps, fmean(curve[eps])) for eps in sorted(curve)] for label, curve in several.items()}
    series = [Series(label, points, style) for style, (label, points) in enumerate(lines.items())]
    widest = max(eps for curve in several.values() for eps in curve)
    plot = Plot(
        ident="curve-" + board.slug,
        title=title,
        description=f"Mean over seeds. {_ends(series, 'ε')}",
        x=Axis("ε", 0.0, widest),
        y=percent_axis("accuracy, %"),
        series=series,
    )
    budgets = sorted({eps for curve in several.values() for eps in curve})
    rows = [
        [f"{eps:.4g}", *(_mean_text(curve.get(eps, ())) for curve in several.values())] for eps in budgets
    ]
    return Chart(title, "Mean over seeds.", draw(plot), _legend(series), ["ε", *several], rows)


def _same_threat(record: Record, board: Board) -> bool:
    wanted = {"data": board.data, "n_examples": board.images, "norm": board.norm, "threat": board.threat}
    return wanted.items() <= record.spec.items()


def learning(family: Family) -> Chart | None:
    """Plot accuracy on held-out training images per epoch."""
    kinds = {"held_out_natural": "natural", "held_out_pgd": "under the training's own PGD"}
    series, columns = [], {}
    for style, (key, label) in enumerate(kinds.items()):
        for seed, card in family.cards.items():
            history = card.get("history", ())
            points = [(float(n), entry[key]) for n, entry in enumerate(history, 1) if key in entry]
            if points:
                series.append(Series(label, points, style))
                columns[f"{label}, seed {seed}"] = dict(points)
    if not series:
        return None
    epochs = max(x for each in series for x, _ in each.points)
    plot = Plot(
        ident="learning",
        title="Held-out accuracy against epochs",
        description=f"A line per seed. {_ends(series, 'epoch')}",
        x=Axis("epoch", 0.0, epochs),
        y=percent_axis("held-out accuracy, %"),
        series=series,
    )
    numbers = sorted({x for values in columns.values() for x in values})
    rows = [
        [f"{n:g}", *(f"{values[n]:.1f}" if n in values else "–" for values in columns.values())]
        for n in numbers
    ]
    legend = _legend([next(s for s in series if s.label == label) for label in {s.label: 0 for s in series}])
    note = "On held-out training images, a line per seed."
    return Chart("Learning curves", note, draw(plot), legend, ["epoch", *columns], rows)


def training_cost(board: Board, row: Row, families: dict[str, Family]) -> Chart | None:
    """Plot worst-case accuracy against seconds of training, this row among the others of its board."""
    points = {}
    for other in board.rows:
        seconds = families[other.family].seconds
        if seconds and other.worst and other.worst.figure:
            points[other.family] = (seconds, other.worst.figure.mean)
    if row.family not in points or len(points) < 2:
        return None
    own = points[row.family]
    plot = Plot(
        ident="cost-" + board.slug,
        title=f"Worst-case accuracy against training time, {board.threat_model}",
        description=f"This defense: {own[1]:.1f} % after {own[0]:.3g} s; "
        f"{count(len(points) - 1, 'other')} around it.",
        x=log_axis("seconds of training", [seconds for seconds, _ in points.values()]),
        y=percent_axis("worst case, %"),
        series=[Series("this defense", [own], 0)],
        crowd=[point for family, point in sorted(points.items()) if family != row.family],
    )
    near = sorted(points, key=lambda family: (abs(points[family][1] - own[1]), family))[:13]
    rows = [
        [families[family].label, f"{points[family][0]:.1f}", f"{points[family][1]:.1f}"]
        for family in sorted(near, key=lambda family: -points[family][1])
    ]
    note = "Wall-clock time of one training, mean over seeds, on varying machines. Dots are other defenses."
    head = ["defense (nearest in accuracy)", "seconds", "worst case, %"]
    return Chart(f"What the training cost, {board.threat_model}", note, draw(plot), [], head, rows)


def attack_cost(board: Board, row: Row) -> Chart | None:
    """Plot accuracy under each attack against the passes it took."""
    found = []
    for column in board.columns:
        cell = row.cells.get(column.key)
        passes = cell.passes() if cell else None
        if cell and cell.figure and passes and sum(passes) > 0:
            found.append((sum(passes), cell.figure.mean, column.label, passes))
    if len(found) < 2:
        return None
    bounded = {column.label for column in board.required}
    groups = {
        "counts towards the worst case": [(x, y) for x, y, label, _ in found if label in bounded],
        "does not": [(x, y) for x, y, label, _ in found if label not in bounded],
    }
    series = [
        Series(label, points, style, False) for style, (label, points) in enumerate(groups.items()) if points
    ]
    plot = Plot(
        ident="passes-" + board.slug,
        title=f"Accuracy against passes per attack, {board.threat_model}",
        description="; ".join(f"{label}: {y:.1f} % with {x:.0f} passes" for x, y, label, _ in found) + ".",
        x=log_axis("forward + backward passes per image", [x for x, *_ in found]),
        y=percent_axis("accuracy, %"),
        series=series,
        names=[(x, y, label) for x, y, label, _ in found],
    )
    rows = [
        [label, f"{passes[0]:.1f}", f"{passes[1]:.1f}", f"{y:.1f}"]
        for _, y, label, passes in sorted(found, key=lambda each: each[0])
    ]
    note = "Mean over images and seeds; an attack spends no further passes on an image that it has fooled."
    head = ["attack", "forward passes", "backward passes", "accuracy, %"]
    return Chart(
        f"What each attack spent, {board.threat_model}", note, draw(plot), _legend(series), head, rows
    )


def _legend(series: Sequence[Series]) -> list[tuple[Markup, str]]:
    return [(swatch(each.style), each.label) for each in series]


def _ends(series: Sequence[Series], x: str) -> str:
    said: dict[str, str] = {}
    for each in series:
        (first, start), (last, end) = each.points[0], each.points[-1]
        said.setdefault(
            each.label, f"{each.label}: {start:.1f} % at {x} {first:g}, {end:.1f} % at {x} {last:.4g}"
        )
    return "; ".join(said.values()) + "."


def _mean_text(values: Sequence[float]) -> str:
    return spread(*mean_std(values)[:2], 1) if values else "–"


def roc_charts(figure: RocFigure) -> list[Chart]:
    """Return a chart per attack, or per system and attack if the attack is adaptive."""
    return [_chart(figure, panel, number) for number, panel in enumerate(figure.panels, 1)]


def roc_note(figure: RocFigure) -> str:
    """Return the explanation needed to read the charts."""
    drawn = [curve for curve in figure.curves if curve.drawn]
    return " ".join(
        [
            "Share of adversarial images that fool the classifier and are flagged (TPR) against the share of "
            f"natural test images that are flagged (FPR), for all thresholds; {chosen(figure.kappas)}.",
            "Symbols: the thresholds in use, set on held-out natural images; at the left edge "
            "those of an FPR of 0.1 % or less.",
            seeds_in_words([curve.seeds for curve in drawn]),
            *claim(figure.panels),
        ]
    )


def _chart(figure: RocFigure, panel: Panel, number: int) -> Chart:
    curves = [curve for curve in figure.curves if curve.drawn and curve.panel == panel]
    series = []
    for alias in dict.fromkeys(curve.alias for curve in curves):
        own = [curve for curve in curves if curve.alias == alias]
        series.append(_series(figure, alias, own))
    images = curves[0].natural_images
    plot = Plot(
        ident=f"roc-{number}",
        title=f"ROC of detectors under {panel.label}",
        description="; ".join(f"{detector_label(c.detector)}: AUROC {texts(c)[1]}" for c in curves) + ".",
        x=Axis("FPR, %", 100 * FPRS[0], 100.0, True),
        y=percent_axis("TPR, %"),
        series=series,
    )
    legend = [(swatch(each.style), each.label) for each in series]
    attacked = min(curve.adversarial_images for curve in curves)
    note = f"{images} natural images, {attacked} adversarial ones of all seeds."
    rows = [[f"{detector_label(c.detector)}{' †' if c.remark else ''}", *texts(c)] for c in curves]
    return Chart(panel.label, note, draw(plot), legend, ["Detector", *HEADS], rows)


def _series(figure: RocFigure, alias: str, curves: Sequence[Curve]) -> Series:
    """Return the line of one score, with a symbol for every threshold on it, moved inside the axis."""
    marked = [(100 * max(curve.fpr.mean, FPRS[0]), 100 * curve.tpr.mean) for curve in curves if curve.tpr]
    return Series(figure.label(alias), _steps(curves[0].points), figure.detectors.index(alias), marked=marked)


def _steps(points: Sequence[float]) -> Points:
    """Return the corners of the step curve with these values at ``FPRS``, in percent."""
    corners: Points = []
    for fpr, tpr in zip(FPRS, points, strict=True):
        if not corners or 100 * tpr != corners[-1][1]:
            corners += [(100 * fpr, corners[-1][1])] if corners else []
            corners.append((100 * fpr, 100 * tpr))
    return [*corners, (100 * FPRS[-1], 100 * points[-1])]
