"""detections.csv and detectors.csv: per cell a line over all seeds (seed "all"), then one per seed."""

from collections.abc import Iterable, Iterator

from robustness_bench.benchmark.report.detectors.lines import FIGURES, NATURAL, DetectionLine, Outcome
from robustness_bench.benchmark.report.detectors.names import confidence
from robustness_bench.benchmark.report.detectors.rates import DetectorLine, Reading
from robustness_bench.benchmark.report.detectors.roc import RATES
from robustness_bench.benchmark.report.rendering.csv import csv_text, number
from robustness_bench.benchmark.statistics import Interval, MeanStd, widened

_CELL = ("dataset", "system", "setting", "attack", "confidence", "beta")
COLUMNS = (*_CELL, "seed", "seeds", "n", *FIGURES, "std", "low", "high", "status", "family")
"""``std``, ``low`` and ``high`` belong to ``both``."""
_AT = tuple(f"tpr@{100 * rate:g}" for rate in RATES)
DETECTOR_COLUMNS = (
    *("dataset", "system", "detector", "setting", "attack", "confidence", "beta", "seed", "seeds"),
    *("successful", "tpr", "auroc", *_AT),
    *("natural", "fpr", "fpr_low", "fpr_high", "nominal_fpr", "threshold", "remark", "family"),
)


def detections_csv(lines: Iterable[DetectionLine]) -> str:
    """Return CSV text; shares in percent; the same lines give the same bytes."""
    return csv_text(COLUMNS, (row for line in lines for row in _rows(line)))


def detectors_csv(lines: Iterable[DetectorLine]) -> str:
    """Return CSV text; shares in percent, AUROC from 0 to 1; "union" is all of a system's detectors."""
    return csv_text(DETECTOR_COLUMNS, (row for line in lines for row in _detector_rows(line)))


def _cell(line: DetectionLine) -> list[str]:
    beta = "" if line.beta is None else f"{line.beta:g}"
    return [line.setting, line.attack, confidence(line.confidence), beta]


def _rows(line: DetectionLine) -> Iterator[list[str]]:
    place = [line.dataset, line.system, *_cell(line)]
    figures = [line.figure(name) for name in FIGURES]
    both = line.figure("both")
    yield [
        *(*place, "all", str(len(line.per_seed)), str(line.n or "")),
        *("ERROR" if line.error else number(figure.mean if figure else None) for figure in figures),
        *(number(both.std if both else None), *_interval(line.interval())),
        *(line.error or "; ".join(line.remarks) or "ok", line.family),
    ]
    for seed, outcome in line.per_seed.items():
        yield [*place, str(seed), "1", *_outcome(outcome), line.family]


def _outcome(outcome: Outcome | None) -> list[str]:
    if outcome is None:
        return ["", *["ERROR"] * len(FIGURES), "", "", "", "error"]
    shares = [number(value) for value in outcome[2:]]
    interval = None if outcome.both is None else widened(MeanStd(outcome.both, None, 1), outcome.n)
    return [str(outcome.n), *shares, "", *_interval(interval), "ok"]


def _detector_rows(line: DetectorLine) -> Iterator[list[str]]:
    cell = line.cell
    place = [cell.dataset, cell.system, line.detector, *_cell(cell)]
    attacked = "" if cell.setting == NATURAL else str(line.successful)
    mean = [_mean(line.figure(name)) for name in ("tpr", "auroc")]
    rates = [_mean(line.figure("tprs", index)) for index in range(len(RATES))]
    yield [
        *(*place, "all", str(len(line.per_seed)), attacked, *mean, *rates),
        *(str(line.natural or ""), _mean(line.figure("fpr")), *_interval(line.false_positives())),
        *(_mean(line.figure("nominal")), "", line.remark, cell.family),
    ]
    for seed, reading in line.per_seed.items():
        yield [*place, str(seed), "1", *_reading(reading, bool(attacked)), "", cell.family]


def _reading(reading: Reading | None, attacked: bool) -> list[str]:
    if reading is None:
        return ["", *["ERROR"] * (2 + len(RATES)), "", "ERROR", "", "", "", ""]
    fpr = reading.fpr
    interval = None if fpr is None else widened(MeanStd(fpr, None, 1), reading.natural)
    return [
        *(str(reading.successful) if attacked else "", number(reading.tpr), number(reading.auroc)),
        *(number(rate) for rate in reading.tprs),
        *(str(reading.natural or ""), number(fpr), *_interval(interval), number(reading.nominal)),
        "" if reading.threshold is None else f"{reading.threshold:.9g}",
    ]


def _mean(figure: MeanStd | None) -> str:
    return number(figure.mean if figure else None)


def _interval(interval: Interval | None) -> list[str]:
    return [number(each) for each in interval or (None, None)]
