"""How well each detector separates adversarial from natural images, from the records of its seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from robustness_bench.benchmark.errors import last_line
from robustness_bench.benchmark.plan.detectors import CALIBRATION
from robustness_bench.benchmark.report.detectors.lines import (
    DetectionLine,
    by_family,
    detection_lines,
    natural_cells,
    percent,
    remarks,
    scores_of,
    successful,
)
from robustness_bench.benchmark.report.detectors.names import detector_names
from robustness_bench.benchmark.report.detectors.roc import RATES, Scores, at_rates, auroc
from robustness_bench.benchmark.report.lines.results import position
from robustness_bench.benchmark.statistics import Interval, MeanStd, mean_std, widened
from robustness_bench.benchmark.store.detections import Detection, Mask

UNION = "union"  # in place of a detector's name: all of the system's detectors
Validation = Mapping[str, Scores]
"""Calibration id -> the scores of held-out natural images that set its threshold."""


class Reading(NamedTuple):
    """One detector of one seed. Shares in percent; None if no image counts.

    Attributes:
        threshold: it flags scores from this value on; None for the union.
        nominal: share of the held-out images that it flags; for the union the sum over its detectors,
            an upper bound.
        natural: number of natural test images; ``fpr`` is the flagged share of them.
        successful: number of images that fool the bare classifier; ``tpr`` is the flagged share of them.
        auroc: 0 to 1, of the successful ones against the natural test images.
        tprs: flagged share of the successful ones at the thresholds that flag ``RATES`` of the held-out
            images; None where these are too few, or tied.
    """

    threshold: float | None
    nominal: float | None
    natural: int
    fpr: float | None
    successful: int
    tpr: float | None
    auroc: float | None
    tprs: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class DetectorLine:
    """One detector of one cell; ``remark`` is a remark on it."""

    detector: str
    cell: DetectionLine
    per_seed: dict[int, Reading | None]
    remark: str

    @property
    def natural(self) -> int:
        """The number of natural test images, the smallest of any seed."""
        return min((reading.natural for reading in self.per_seed.values() if reading), default=0)

    @property
    def successful(self) -> int:
        """The number of successful images, of all seeds together."""
        return sum(reading.successful for reading in self.per_seed.values() if reading)

    def figure(self, name: str, index: int | None = None) -> MeanStd | None:
        """Return mean and spread over seeds that have it; None if a seed failed. ``index``: of ``tprs``."""
        if None in self.per_seed.values():
            return None
        found = [getattr(reading, name) for reading in self.per_seed.values()]
        picked = found if index is None else [each[index] for each in found]
        values = [value for value in picked if value is not None]
        return mean_std(values) if values else None

    def false_positives(self) -> Interval | None:
        figure = self.figure("fpr")
        return widened(figure, self.natural) if figure and self.natural else None


def detector_lines(records: Sequence[Detection], validation: Validation) -> list[DetectorLine]:
    """Return a line per cell and detector, and one for their union.

    False positives and AUROC use the natural cell of the same system.

    Raises:
        StoreError: a score is NaN.
    """
    natural = natural_cells(records, _calibrated)
    members = {each[0].family: each for each in by_family(records)}
    return [
        line
        for cell in detection_lines(records)
        for line in _of_cell(cell, members[cell.family], natural, validation)
    ]


def _calibrated(record: Detection) -> tuple[object, ...]:
    """Return everything that decides a system's answers to natural images."""
    parents = ((role, parent) for role, parent in record.spec["parents"].items() if role != "crafted")
    return record.spec["dataset"], record.spec["system"], record.seed, *sorted(parents)


def _of_cell(
    cell: DetectionLine,
    records: Sequence[Detection],
    natural: Mapping[tuple[object, ...], Detection],
    validation: Validation,
) -> list[DetectorLine]:
    names = dict.fromkeys(name for record in records for name in record.detectors)
    failed = [last_line(record.error) for record in records if record.status == "error"]
    said = remarks(records)
    return [
        DetectorLine(
            detector=name,
            cell=cell,
            per_seed={each.seed: _reading(each, name, natural, validation) for each in records},
            remark="; ".join(dict.fromkeys(filter(None, [said.get(name, ""), *failed]))),
        )
        for name in [*sorted(names, key=lambda name: position(name, detector_names())), UNION]
    ]


def _reading(
    record: Detection,
    name: str,
    calibrated: Mapping[tuple[object, ...], Detection],
    validation: Validation,
) -> Reading | None:
    if record.status == "error":
        return None
    fooled, natural = successful(record), calibrated.get(_calibrated(record))
    everything = np.ones(len(natural.rows["label"]) if natural else 0, bool)
    shares = [_nominal(record, each, validation) for each in record.detectors]
    known = [share for share in shares if share is not None]
    union = Reading(
        threshold=None,
        nominal=sum(known) if len(known) == len(shares) else None,
        natural=len(everything),
        fpr=percent(_flags(natural, name), everything) if natural else None,
        successful=int(fooled.sum()),
        tpr=percent(_flags(record, name), fooled),
        auroc=None,
        tprs=(None,) * len(RATES),
    )
    if name == UNION:
        return union
    caught = scores_of(record, name)[fooled]
    ordinary = scores_of(natural, name) if natural else caught[:0]
    return union._replace(
        threshold=record.thresholds[name],
        nominal=_nominal(record, name, validation),
        auroc=auroc(ordinary, caught) if caught.size and ordinary.size else None,
        tprs=at_rates(caught, _held_out(record, name, validation)),
    )


def _flags(record: Detection, name: str) -> Mask:
    return record.flagged if name == UNION else record.flags(name)


def _held_out(record: Detection, name: str, validation: Validation) -> Scores | None:
    return validation.get(record.spec["parents"].get(CALIBRATION + name, ""))


def _nominal(record: Detection, name: str, validation: Validation) -> float | None:
    scores = _held_out(record, name, validation)
    return None if scores is None else 100.0 * float((scores >= record.thresholds[name]).mean())
