"""Write the CSV files and the tables of a store."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from robustness_bench.attacks.registry import NORMS, SETS, parsed
from robustness_bench.benchmark.data import Located
from robustness_bench.benchmark.files import write_atomic
from robustness_bench.benchmark.plan.protocol import THREATS, Protocol
from robustness_bench.benchmark.report.detectors.csv import detections_csv, detectors_csv
from robustness_bench.benchmark.report.detectors.lines import detection_lines
from robustness_bench.benchmark.report.detectors.rates import Validation, detector_lines
from robustness_bench.benchmark.report.detectors.store import (
    check_settings,
    check_unions,
    detections,
    validation_scores,
)
from robustness_bench.benchmark.report.detectors.store import fitting as fit
from robustness_bench.benchmark.report.detectors.tables import decomposition, every_table, found, worst_table
from robustness_bench.benchmark.report.lines.curves import curves
from robustness_bench.benchmark.report.lines.results import costs, ordered, summarize, to_csv
from robustness_bench.benchmark.report.lines.selection import fitting
from robustness_bench.benchmark.report.lines.trained import find_trainings, learning
from robustness_bench.benchmark.report.lines.worst_case import SUBMITTED, worst_case
from robustness_bench.benchmark.report.literature.citations import references
from robustness_bench.benchmark.report.rendering.formats import to_html, to_latex
from robustness_bench.benchmark.report.rendering.table import Table
from robustness_bench.benchmark.report.tables.threats import threat_tables
from robustness_bench.benchmark.store.cells import Record, read_records
from robustness_bench.benchmark.store.detections import Detection


def publish(out: Path, protocol: Protocol, data: dict[str, Located]) -> list[Table]:
    """Write the CSV files and references.bib of the whole store; tables and curves for ``protocol``.

    A table shows the store's results under the protocol's settings (images, budgets, width, recipe,
    parameter set), whichever run made them; results.csv has every setting. A submission has rows once it
    is registered as a defense, as ``submit.board.entries.publish`` does.

    Returns:
        The tables of accuracies; per data set, white box before black box.
    """
    records = read_records(out)
    worst = [line for each in SETS for line in worst_case(records, each)]
    write_atomic(out / "results.csv", to_csv(ordered([*summarize(records), *worst])).encode())
    write_atomic(out / "costs.csv", costs(records).encode())
    write_atomic(out / "learning.csv", learning(find_trainings(out)).encode())
    detected = detections(out)
    write_atomic(out / "references.bib", _references([*records, *detected]).encode())
    by_id = {record.id: record for record in records}
    tables: list[Table] = []
    shown: list[Record] = []
    budgets: dict[str, set[float]] = {norm: set() for norm in NORMS}
    for settings in protocol.settings:
        own = fitting(settings, data, by_id)
        shown += own
        label = data[settings.dataset].label
        for norm, eps in settings.eps.items():
            budgets[norm] |= {eps, *(eps * factor for factor in settings.budgets)}
        nominal = [record for record in own if record.spec["eps"] == settings.eps[record.spec["norm"]]]
        nominal += _sent_against(nominal, records)
        lines = [*summarize(nominal), *worst_case(nominal, settings.attack_set)]
        for threat in THREATS:
            for table in threat_tables(threat, lines, settings, label):
                _write(out, table)
                tables.append(table)
    if text := curves(shown, {norm: sorted(values) for norm, values in budgets.items()}):
        write_atomic(out / "curves.csv", text.encode())
    tables += _publish_detectors(out, protocol, data, detected)
    return [table for table in tables if table.measure == "accuracy"]


def _references(records: Sequence[Record | Detection]) -> str:
    """Return BibTeX of the papers behind the rows and columns of all records."""
    specs = [record.spec for record in records]
    rows = {spec.get("system") or spec["defense"] for spec in specs}
    return references(rows, {parsed(spec["attack"])[0] for spec in specs})


def _publish_detectors(
    out: Path, protocol: Protocol, data: dict[str, Located], records: Sequence[Detection]
) -> list[Table]:
    """Write the CSV files of all detectors, and the tables of those that fit the settings."""
    if not records:
        return []
    shown = [each for settings in protocol.settings for each in fit(protocol, settings, data, records)]
    labels = {settings.dataset: data[settings.dataset].label for settings in protocol.settings}
    return publish_detections(out, records, validation_scores(out), labels, shown)


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
        _write(out, table)
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


def _write(out: Path, table: Table) -> None:
    write_atomic(out / "tables" / f"{table.name}.html", to_html(table).encode())
    write_atomic(out / "tables" / f"{table.name}.tex", to_latex(table).encode())


def _sent_against(nominal: list[Record], records: list[Record]) -> list[Record]:
    """Return the records of submitted images against the models of ``nominal``."""
    cells = {_cell(record) for record in nominal}
    sent = [record for record in records if record.spec["kind_of_attack"] == SUBMITTED]
    return [record for record in sent if _cell(record) in cells]


def _cell(record: Record) -> tuple[object, ...]:
    spec = record.spec
    return (spec["parents"]["model"], *(spec[key] for key in ("norm", "eps", "threat", "n_examples")))
