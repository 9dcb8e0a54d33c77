"""What guarded classifiers withstand: one line per cell, from the records of its seeds."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustness_bench.benchmark.errors import StoreError, last_line
from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.report.detectors.names import known_attacks, system_names
from robustness_bench.benchmark.report.lines.results import position
from robustness_bench.benchmark.statistics import Interval, MeanStd, mean_std, widened
from robustness_bench.benchmark.store.detections import Detection, Mask

NATURAL, OBLIVIOUS, WHITE, GREY = SETTINGS = ("natural", "oblivious", "white", "grey")


class Outcome(NamedTuple):
    """One seed of one cell. Shares in percent; None if no image counts.

    Attributes:
        n: the images that count: under attack, those whose natural version the bare classifier gets right.
        successful: those of the n images on which the attack beats the bare classifier.
        none, det_only, ref_only, both: share withstood with these parts of the system switched on. On
            natural images, the accuracy with these parts; there a flag is an error.
        detected: share flagged by any detector, of the n images and of the successful ones.
        l1, l2: means over the successful ones.
        forwards, forwards_max: the attack's passes per image.
    """

    n: int
    successful: int
    attack_success: float | None
    none: float | None
    det_only: float | None
    ref_only: float | None
    both: float | None
    detected: float | None
    detected_successful: float | None
    l1: float | None
    l2: float | None
    forwards: float | None
    forwards_max: float | None


FIGURES = Outcome._fields[2:]


@dataclass(frozen=True, kw_only=True)
class DetectionLine:
    """The results of one cell over its seeds.

    Attributes:
        beta: weight of the L1 norm in the attack, if it has one.
        parameters: the attack's parameters.
        per_seed: seed -> outcome, None for a seed that failed.
        remarks: remarks on the system's detectors.
        error: last line of the first failed seed's traceback.
        family: identifies everything but the seed that decided the result.
    """

    dataset: str
    system: str
    setting: str
    attack: str
    confidence: float
    beta: float | None
    parameters: dict[str, Any]
    per_seed: dict[int, Outcome | None]
    remarks: tuple[str, ...]
    error: str
    family: str

    @property
    def key(self) -> tuple[str, str, str, str, float]:
        """What distinguishes a cell in the tables: data set, system, setting, attack, confidence."""
        return self.dataset, self.system, self.setting, self.attack, self.confidence

    @property
    def n(self) -> int:
        """The number of images that count, the smallest of any seed."""
        return min((outcome.n for outcome in self.per_seed.values() if outcome), default=0)

    def figure(self, name: str) -> MeanStd | None:
        """Return mean and spread over the seeds; None if any of them failed, or none has the number."""
        if self.error:
            return None
        found = [getattr(outcome, name) for outcome in self.per_seed.values()]
        values = [value for value in found if value is not None]
        return mean_std(values) if values else None

    def interval(self, name: str = "both") -> Interval | None:
        """Return the interval of a share of the n images, in percent: see ``widened``."""
        figure = self.figure(name)
        return widened(figure, self.n) if figure and self.n else None


def percent(mask: Mask, of: Mask) -> float | None:
    """Return the share of true values where ``of`` is true; None if it never is."""
    return 100.0 * float(mask[of].mean()) if of.any() else None


def detection_lines(records: Iterable[Detection]) -> list[DetectionLine]:
    """Return one line per family; data sets by name, then systems and attacks in the registries' order."""
    return sorted((_line(members) for members in by_family(records)), key=order)


def by_family(records: Iterable[Detection]) -> list[list[Detection]]:
    """Group the records that differ only in their seed, in its order."""
    ordered = sorted(records, key=lambda record: (record.seed, record.id))
    return list(grouped(ordered, lambda record: record.family).values())


def _line(records: list[Detection]) -> DetectionLine:
    spec = records[0].spec
    errors = [record.error for record in records if record.status == "error"]
    parameters = spec.get("parameters") or {}
    return DetectionLine(
        **{name: spec[name] for name in ("dataset", "system", "setting", "attack", "confidence")},
        beta=parameters.get("beta"),
        parameters=parameters,
        per_seed={each.seed: None if each.status == "error" else outcome(each) for each in records},
        remarks=tuple(f"{name}: {text}" for name, text in remarks(records).items()),
        error=last_line(errors[0]) if errors else "",
        family=records[0].family,
    )


def remarks(records: Sequence[Detection]) -> dict[str, str]:
    """Return detector -> the remarks of its seeds, with their number if not all have the remark."""
    names = dict.fromkeys(name for record in records for name, text in record.remarks.items() if text)
    said = {}
    for name in names:
        texts = [text for record in records if (text := record.remarks.get(name))]
        some = f" ({len(texts)} of {len(records)} seeds)" if len(texts) < len(records) else ""
        said[name] = "; ".join(dict.fromkeys(texts)) + some
    return said


def name_of(record: Detection) -> str:
    """Return a cell's name in messages."""
    spec = record.spec
    if spec["setting"] == NATURAL:
        return f"{spec['system']} on natural images, seed {record.seed}"
    where = f"{spec['attack']} ({spec['setting']}) at κ = {spec['confidence']:g}"
    return f"{spec['system']} under {where}, seed {record.seed}"


def scores_of(record: Detection, detector: str) -> NDArray[np.float64]:
    """Return a detector's score of each image: (n,).

    Raises:
        StoreError: a score is NaN.
    """
    scores = record.scores(detector)
    if np.isnan(scores).any():
        raise StoreError(
            f"a score of {detector} of {name_of(record)} is not a number: delete the cell {record.id} and "
            "run the same command again"
        )
    return scores


def natural_cells(
    records: Iterable[Detection], calibrated: Callable[[Detection], tuple[object, ...]]
) -> dict[tuple[object, ...], Detection]:
    """Return each calibrated system's natural cell; if there are several, the one with the most images."""
    found = [each for each in records if each.status == "ok" and each.spec["setting"] == NATURAL]
    ordered = sorted(found, key=lambda each: (len(each.rows["label"]), each.id))
    return {calibrated(each): each for each in ordered}


def successful(record: Detection) -> Mask:
    """Return the selected images on which the attack beats the bare classifier; none on natural images."""
    return np.zeros_like(record.fooled) if record.spec["setting"] == NATURAL else record.fooled


def outcome(record: Detection) -> Outcome:
    """Compute the numbers of one seed that did not fail."""
    natural = record.spec["setting"] == NATURAL
    over = np.ones(len(record.rows["label"]), bool) if natural else record.selected
    kept = record.right & ~record.flagged if natural else record.defended(reformer=False)
    fooled = successful(record)
    return Outcome(
        n=int(over.sum()),
        successful=int(fooled.sum()),
        attack_success=None if natural else percent(fooled, over),
        none=percent(record.right, over),
        det_only=percent(kept, over),
        ref_only=percent(record.reformed_right, over),
        both=percent(record.accepted if natural else record.defended(), over),
        detected=percent(record.flagged, over),
        detected_successful=None if natural else percent(record.flagged, fooled),
        l1=_mean(record.rows["l1"], fooled),
        l2=_mean(record.rows["l2"], fooled),
        forwards=None if natural else _mean(record.rows["forwards"], over),
        forwards_max=None if natural or not over.any() else float(record.rows["forwards"][over].max()),
    )


def _mean(values: NDArray[Any], over: Mask) -> float | None:
    return float(np.asarray(values, np.float64)[over].mean()) if over.any() else None


def order(line: DetectionLine) -> tuple[object, ...]:
    """Return a sort key for the order of the tables."""
    return (
        line.dataset,
        position(line.system, system_names()),
        position(line.setting, SETTINGS),
        position(line.attack, known_attacks()),
        line.confidence,
        line.family,
    )
