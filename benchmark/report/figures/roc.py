"""ROC curves of detectors as values, from detection records; ``drawing.roc`` draws them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.report.detectors.names import detector_label
from robustness_bench.benchmark.report.detectors.roc import RATES, auroc, roc, tpr_at
from robustness_bench.benchmark.report.figures.namid import NothingToDrawError
from robustness_bench.benchmark.report.figures.pairs import Pair, Panel, pair_up, panels_of
from robustness_bench.benchmark.statistics import MeanStd, mean_std
from robustness_bench.benchmark.store.detections import Detection

WORST_AT = 0.005
"""The false-positive rate at which a detector's worst κ is judged: the MI detectors' nominal rate."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One detector on one panel at one κ: mean over seeds, shares in [0, 1].

    Attributes:
        alias: the detector whose curve it is: one with the same score and possibly another threshold.
        natural_images: number of images in one seed.
        adversarial_images: number of images in all seeds together.
        points: TPR at each of ``FPRS``; empty without adversarial images.
        tprs: TPR at each of ``RATES``.
        fpr, tpr: rates at its own threshold.
        drawn: whether it is at the worst κ.
    """

    panel: Panel
    detector: str
    alias: str
    kappa: float
    seeds: int
    natural_images: int
    adversarial_images: int
    points: tuple[float, ...] = ()
    auroc: MeanStd | None = None
    tprs: tuple[MeanStd, ...] = ()
    fpr: MeanStd
    tpr: MeanStd | None = None
    drawn: bool = False
    remark: str


@dataclass(frozen=True, kw_only=True)
class RocFigure:
    """Everything a drawing needs, and nothing it has to decide.

    Attributes:
        kappas: the requested ones; empty means all. Each detector is drawn at its worst κ among them.
        curves: for every κ, in the order of the detectors; ``drawn`` says which are drawn.
        notes: what is missing, and remarks.
    """

    dataset: str
    kappas: tuple[float, ...]
    curves: tuple[Curve, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"roc-{self.dataset}{suffix(self.kappas)}"

    @property
    def title(self) -> str:
        """The title above the legend."""
        return f"Detectors on {self.dataset}, {which(self.kappas)}"

    @property
    def panels(self) -> list[Panel]:
        return list(dict.fromkeys(curve.panel for curve in self.curves if curve.drawn))

    @property
    def detectors(self) -> list[str]:
        """The entries of the legend, in order."""
        return list(dict.fromkeys(curve.alias for curve in self.curves if curve.drawn))

    def label(self, detector: str) -> str:
        """Return the legend's label, with a dagger if the notes have a remark on it."""
        remarked = any(curve.remark for curve in self.curves if curve.alias == detector)
        return f"{detector_label(detector)} †" if remarked else detector_label(detector)


def suffix(kappas: Sequence[float]) -> str:
    """Return the suffix of a file name."""
    return "-".join(["", "kappa", *(f"{kappa:g}" for kappa in kappas)]) if kappas else ""


def which(kappas: Sequence[float]) -> str:
    """Return the κ of a figure in few words."""
    if len(kappas) == 1:
        return f"κ = {kappas[0]:g}"
    return f"worst κ of {', '.join(f'{kappa:g}' for kappa in kappas)}" if kappas else "worst κ"


def roc_figure(dataset: str, detections: Sequence[Detection], kappas: Sequence[float] = ()) -> RocFigure:
    """Return each detector's curve per attack, at its worst κ.

    Args:
        detections: cells of ``dataset``.
        kappas: these alone; all unless given.

    Raises:
        NothingToDrawError: no detector has natural and adversarial images.
        BenchError: no cell has one of ``kappas``, or cells contradict each other.
    """
    pairs, notes = pair_up(detections, kappas)
    curves = [_curve(each) for panel in panels_of(pairs) for each in _grouped(pairs, panel)]
    curves = _marked(curves)
    if not any(curve.drawn for curve in curves):
        raise NothingToDrawError("; ".join([f"nothing to draw in roc of {dataset}", *notes]))
    notes += dict.fromkeys(
        f"no image under {curve.panel.label} at κ = {curve.kappa:g} fools the classifier"
        for curve in curves
        if not curve.points
    )
    notes += dict.fromkeys(
        f"† {detector_label(curve.detector)}: {curve.remark}" for curve in curves if curve.remark
    )
    return RocFigure(dataset=dataset, kappas=tuple(kappas), curves=tuple(curves), notes=tuple(notes))


def _grouped(pairs: Sequence[Pair], panel: Panel) -> list[list[Pair]]:
    """Group a panel's pairs by detector and κ, one group per set of seeds."""
    own = [pair for pair in pairs if pair.panel == panel]
    return list(grouped(own, lambda pair: (pair.detector, pair.kappa)).values())


def _curve(seeds: list[Pair]) -> Curve:
    first, full = seeds[0], [pair for pair in seeds if len(pair.adversarial)]
    curve = Curve(
        panel=first.panel,
        detector=first.detector,
        alias=first.alias,
        kappa=first.kappa,
        seeds=len(full),
        natural_images=len(first.natural),
        adversarial_images=sum(len(pair.adversarial) for pair in full),
        fpr=mean_std([pair.fpr for pair in seeds]),
        remark="; ".join(dict.fromkeys(pair.remark for pair in seeds if pair.remark)),
    )
    if not full:
        return curve
    each = [roc(pair.natural, pair.adversarial) for pair in full]
    return replace(
        curve,
        points=tuple(math.fsum(at) / len(at) for at in zip(*each, strict=True)),
        auroc=mean_std([auroc(pair.natural, pair.adversarial) for pair in full]),
        tprs=tuple(mean_std([tpr_at(p.natural, p.adversarial, fpr) for p in full]) for fpr in RATES),
        fpr=mean_std([pair.fpr for pair in full]),
        tpr=mean_std([pair.tpr for pair in full]),
    )


def _marked(curves: list[Curve]) -> list[Curve]:
    """Mark the curves to draw: per panel and score the κ with the lowest TPR, then the lowest AUROC."""
    worst: dict[tuple[Panel, str], tuple[float, float, float]] = {}
    for curve in curves:
        if curve.auroc is not None:
            key = (curve.panel, curve.alias)
            rank = (curve.tprs[RATES.index(WORST_AT)].mean, curve.auroc.mean, curve.kappa)
            worst[key] = min(rank, worst.get(key, rank))
    at = {key: rank[-1] for key, rank in worst.items()}
    return [replace(c, drawn=bool(c.points) and c.kappa == at.get((c.panel, c.alias))) for c in curves]
