"""Write the results of a store's detection records: two CSV files and the tables of each data set."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from robustness_bench.benchmark.files import write_atomic
from robustness_bench.benchmark.report.detectors.checks import check_settings, check_unions
from robustness_bench.benchmark.report.detectors.csv import detections_csv, detectors_csv
from robustness_bench.benchmark.report.detectors.decomposition import decomposition
from robustness_bench.benchmark.report.detectors.lines import detection_lines
from robustness_bench.benchmark.report.detectors.rates import Validation, detector_lines
from robustness_bench.benchmark.report.detectors.tables import every_table, found, worst_table
from robustness_bench.benchmark.report.rendering.formats import to_html, to_latex
from robustness_bench.benchmark.report.rendering.table import Table
from robustness_bench.benchmark.store.detections import Detection


def publish_detections(
    out: Path,
    records: Sequence[Detection],
    validation: Validation,
    labels: Mapping[str, str],
    shown: Sequence[Detection] | None = None,
) -> list[Table]:
    """Write detections.csv and detectors.csv of all records, and the tables of those ``shown``.

    Args:
        labels: data set -> its name in the records, in the order of the tables.
        shown: the records of one setting; all by default.

    Returns:
        The tables; those to be shown on a terminal have the measure "accuracy". None without records.

    Raises:
        StoreError: records that contradict each other, or two settings among those shown.
    """
    if not records:
        return []
    shown = records if shown is None else shown
    check_unions(records)
    check_settings(detection_lines(shown))
    write_atomic(out / "detections.csv", detections_csv(detection_lines(records)).encode())
    write_atomic(out / "detectors.csv", detectors_csv(detector_lines(records, validation)).encode())
    tables = detection_tables(shown, validation, labels)
    for table in tables:
        write_atomic(out / "tables" / f"{table.name}.html", to_html(table).encode())
        write_atomic(out / "tables" / f"{table.name}.tex", to_latex(table).encode())
    return tables


def detection_tables(
    records: Sequence[Detection], validation: Validation, labels: Mapping[str, str]
) -> list[Table]:
    """Return for each data set with records: the worst κ, every κ, what each part withstands."""
    lines, detectors = detection_lines(records), detector_lines(records, validation)
    tables: list[Table | None] = []
    for dataset, label in labels.items():
        there = found(label, lines, detectors)
        tables += [worst_table(there)] if there.lines else []
        tables += [every_table(there), decomposition(there, dataset)] if there.attacks else []
    return [table for table in tables if table]
