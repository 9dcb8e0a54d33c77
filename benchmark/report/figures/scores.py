"""Histograms of the detectors' scores under one attack, as values; ``drawing.detectors`` draws them."""

from collections.abc import Sequence
from dataclasses import dataclass

from robustness_bench.benchmark.report.detectors.names import detector_label
from robustness_bench.benchmark.report.figures.bins import Scale, scale_of
from robustness_bench.benchmark.report.figures.pairs import Pair, Panel, pair_up
from robustness_bench.benchmark.report.figures.roc import (
    Curve,
    RocFigure,
    chosen,
    claim,
    roc_figure,
    suffix,
    which,
)
from robustness_bench.benchmark.report.rendering.csv import csv_text
from robustness_bench.benchmark.report.rendering.table import Table, plain_table
from robustness_bench.benchmark.store.detections import Detection

COLUMNS = (
    *("figure", "dataset", "setting", "attack", "system", "detector", "kappa", "seed", "scale"),
    *("bin_low", "bin_high", "natural", "adversarial"),
    *("thresholds", "natural_images", "adversarial_images"),
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A threshold, and the shares of natural and of adversarial images that it flags."""

    detector: str
    threshold: float
    fpr: float
    tpr: float


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """The scores of one detector.

    Attributes:
        natural, adversarial: share of the images in each bin of ``scale``.
        lines: its threshold, and the thresholds of detectors with the same score.
    """

    detector: str
    kappa: float
    seed: int
    scale: Scale
    natural: tuple[float, ...]
    adversarial: tuple[float, ...]
    natural_images: int
    adversarial_images: int
    lines: tuple[Line, ...]
    remark: str

    @property
    def label(self) -> str:
        """The heading, with a dagger if the notes have a remark on it."""
        return f"{detector_label(self.detector)}{' †' if self.remark else ''}"


@dataclass(frozen=True, kw_only=True)
class ScoresFigure:
    """Everything a drawing needs; it decides nothing itself."""

    dataset: str
    panel: Panel
    kappas: tuple[float, ...]
    histograms: tuple[Histogram, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its files, without extension."""
        setting, attack, system = self.panel
        where = f"{attack}-{setting}-{system}" if system else attack
        return f"scores-{self.dataset}-{where}{suffix(self.kappas)}"

    @property
    def title(self) -> str:
        """The title above the legend."""
        return f"Scores on {self.dataset}, {self.panel.label}, {which(self.kappas)}"


def scores_figures(
    dataset: str, detections: Sequence[Detection], kappas: Sequence[float] = ()
) -> list[ScoresFigure]:
    """Return a figure per attack, for the first seed, with each detector at the κ that ``roc_figure`` draws.

    Raises:
        NothingToDrawError, BenchError: as ``roc_figure``.
    """
    chosen = roc_figure(dataset, detections, kappas)
    pairs, _ = pair_up(detections, kappas)
    return [
        ScoresFigure(
            dataset=dataset,
            panel=panel,
            kappas=tuple(kappas),
            histograms=tuple(_histogram(curve, pairs) for curve in _distinct(chosen, panel)),
            notes=chosen.notes,
        )
        for panel in chosen.panels
    ]


def _distinct(figure: RocFigure, panel: Panel) -> list[Curve]:
    """Return the first detector of each score."""
    first: dict[str, Curve] = {}
    for curve in figure.curves:
        if curve.drawn and curve.panel == panel:
            first.setdefault(curve.alias, curve)
    return list(first.values())


def _histogram(curve: Curve, pairs: Sequence[Pair]) -> Histogram:
    place = (curve.panel, curve.alias, curve.kappa)
    own = [p for p in pairs if (p.panel, p.alias, p.kappa) == place and len(p.adversarial)]
    seed = min(pair.seed for pair in own)
    own = [pair for pair in own if pair.seed == seed]
    natural, adversarial = own[0].natural, own[0].adversarial
    scale = scale_of(natural, adversarial, [pair.threshold for pair in own])
    return Histogram(
        detector=curve.detector,
        kappa=curve.kappa,
        seed=seed,
        scale=scale,
        natural=scale.shares(natural),
        adversarial=scale.shares(adversarial),
        natural_images=len(natural),
        adversarial_images=len(adversarial),
        lines=tuple(Line(detector=p.detector, threshold=p.threshold, fpr=p.fpr, tpr=p.tpr) for p in own),
        remark="; ".join(dict.fromkeys(pair.remark for pair in own if pair.remark)),
    )


def caption(figure: ScoresFigure) -> str:
    """Return the caption: everything needed to read the histograms."""
    seeds = sorted({histogram.seed for histogram in figure.histograms})
    where = chosen(figure.kappas)
    return " ".join(
        [
            f"Scores of natural test images of {figure.dataset} and of adversarial images that fool the "
            f"classifier ({figure.panel.label}); {where}. Height: share of the images in a bin, all of them "
            "equally wide as drawn; what lies beyond an axis is in its last bin.",
            "Lines: the thresholds in use, set on held-out natural images; above each panel the shares of "
            "natural | adversarial images from there on, which are flagged.",
            f"Seed {', '.join(map(str, seeds))}.",
            *claim([figure.panel]),
        ]
    )


def to_csv(figure: ScoresFigure) -> str:
    """Return CSV text with a header and a line per detector and bin; shares in [0, 1]."""
    return csv_text(COLUMNS, [row for each in figure.histograms for row in _rows(figure, each)])


def _rows(figure: ScoresFigure, each: Histogram) -> list[list[object]]:
    edges = each.scale.edges()
    marks = " ".join(f"{line.detector}:{line.threshold:.9g}" for line in each.lines)
    return [
        [
            *("scores", figure.dataset, *figure.panel, each.detector, f"{each.kappa:g}", each.seed),
            *(each.scale.kind, f"{low:.9g}", f"{high:.9g}", f"{natural:.5f}", f"{adversarial:.5f}"),
            *(marks, each.natural_images, each.adversarial_images),
        ]
        for low, high, natural, adversarial in zip(
            edges[:-1], edges[1:], each.natural, each.adversarial, strict=True
        )
    ]


def to_table(figure: ScoresFigure) -> Table:
    """Return what each threshold flags."""
    return plain_table(
        name=figure.name,
        title=figure.title,
        caption=caption(figure),
        measure="mi",
        heads=[(figure.panel.label, head) for head in ("κ", "threshold", "FPR", "TPR")],
        rows=[
            (
                detector_label(line.detector),
                [
                    *(f"{each.kappa:g}", f"{line.threshold:.4g}"),
                    *(f"{100 * share:.1f} %" for share in (line.fpr, line.tpr)),
                ],
            )
            for each in figure.histograms
            for line in each.lines
        ],
    )
