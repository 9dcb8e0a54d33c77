"""Write results.csv and the tables of a store."""

import dataclasses
from pathlib import Path

from attacks.registry import attack_presets
from benchmark.atomic import write_atomic
from benchmark.datasets import Located
from benchmark.plan import make_plan
from benchmark.protocol import NORMS, THREATS, Protocol, Settings
from benchmark.records import Record, find_records, read_record
from benchmark.report.render import to_html, to_latex
from benchmark.report.results import summarize, to_csv
from benchmark.report.table import Table
from benchmark.report.tables import threat_table
from defenses.registry import defense_presets


def publish(out: Path, protocol: Protocol, data: dict[str, Located]) -> list[Table]:
    """Write ``results.csv`` of every record, and the tables of all records that fit ``protocol``.

    A table shows what the store holds under the protocol's settings (images, budgets, width,
    recipe), whichever run made it; results.csv has every setting.

    Returns:
        The tables, per data set white box before black box.
    """
    records = [read_record(path) for path in find_records(out)]
    write_atomic(out / "results.csv", to_csv(summarize(records)).encode())
    by_id = {record.id: record for record in records}
    tables = []
    for settings in protocol.settings:
        lines = summarize(_fitting(settings, data, by_id))
        label = data[settings.dataset].label
        for threat in THREATS:
            if table := threat_table(threat, lines, settings, label):
                write_atomic(out / "tables" / f"{table.name}.html", to_html(table).encode())
                write_atomic(out / "tables" / f"{table.name}.tex", to_latex(table).encode())
                tables.append(table)
    return tables


def _fitting(settings: Settings, data: dict[str, Located], by_id: dict[str, Record]) -> list[Record]:
    """The records that any run with these settings would count as its own."""
    every_attack = {
        norm: tuple(name for name, preset in attack_presets().items() if norm in preset.norms)
        for norm in NORMS
    }
    widest = Protocol(
        defenses=tuple(defense_presets()),
        norms=NORMS,
        threats=THREATS,
        seeds=max((record.seed for record in by_id.values()), default=0) + 1,
        settings=(dataclasses.replace(settings, attacks=every_attack),),
    )
    return [by_id[task.id] for task in make_plan(widest, data) if task.id in by_id]
