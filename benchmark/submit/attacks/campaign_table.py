"""Tables of a submitted attack's effect on the worst case of each model."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from robustness_bench.benchmark.report.lines.results import percent
from robustness_bench.benchmark.report.lines.worst_case import SUBMITTED, worst_case
from robustness_bench.benchmark.report.rendering.table import Cell, Column, Row, Table, spread
from robustness_bench.benchmark.report.rendering.wording import NORM_SYMBOLS, budget
from robustness_bench.benchmark.statistics import MeanStd, mean_std
from robustness_bench.benchmark.store.cells import Record
from robustness_bench.defenses.registry import defense_presets

_COLUMNS = ("Worst before", "This attack", "Worst after")


def campaign_tables(name: str, wanted: Mapping[str, Record], records: Sequence[Record]) -> list[Table]:
    """Return a table per data set and threat model, with a row per model.

    Args:
        name: the attack's name.
        wanted: id of each cell of the attack -> the natural-images record of its model.
        records: all records of the store, including those cells if they exist.
    """
    groups: dict[tuple[object, ...], dict[str, list[tuple[str, Record]]]] = {}
    for identity, natural in wanted.items():
        of = groups.setdefault(natural.threat_model, {})
        of.setdefault(natural.model_family, []).append((identity, natural))
    return [_table(name, of, records) for _, of in sorted(groups.items(), key=lambda item: str(item[0]))]


def _table(name: str, families: dict[str, list[tuple[str, Record]]], records: Sequence[Record]) -> Table:
    own = {identity for cells in families.values() for identity, _ in cells}
    natural = next(iter(families.values()))[0][1]
    faced = [r for r in records if r.threat_model == natural.threat_model and _counts(r)]
    sent = [r for r in records if r.id in own and _counts(r)]
    if sent:
        faced = [_restricted(record, sent[0]) for record in faced]
    spec, others = natural.spec, [record for record in faced if record.id not in own]
    rows = [
        _row(label, others, [r for r in sent if r.model_family == family], family, len(families[family]))
        for label, family in _labels(families)
    ]
    group = f"{NORM_SYMBOLS[spec['norm']]} (ε = {budget(spec['eps'])})"
    images = sent[0].spec["n_examples"] if sent else spec["n_examples"]
    return Table(
        name="campaign",
        title=f"{name}, {spec['dataset']}",
        caption=f"Accuracy in % on {images} test images, white box. Worst: survived every attack of the set "
        "strict within ε and every submission, sample by sample.",
        measure="accuracy",
        columns=tuple(Column(group=group, label=label) for label in _COLUMNS),
        rows=tuple(rows),
    )


def _counts(record: Record) -> bool:
    """Return whether a cell counts; a failed cell of a submission does not."""
    return record.status == "ok" or record.spec["kind_of_attack"] != SUBMITTED


def _restricted(record: Record, to: Record) -> Record:
    """Return the record restricted to the images of another."""
    kept = np.isin(record.rows["sample"], to.rows["sample"])
    rows = {name: column[kept] for name, column in record.rows.items()} if record.status == "ok" else {}
    spec = {**record.spec, "n_examples": to.spec["n_examples"]}
    return dataclasses.replace(record, spec=spec, rows=rows)


def _labels(families: dict[str, list[tuple[str, Record]]]) -> list[tuple[str, str]]:
    """Return (label, family) of every row in the order of the tables; equal labels get a distinction."""
    presets = defense_presets()
    names = {family: cells[0][1].spec["defense"] for family, cells in families.items()}
    order = list(presets)
    shown = {family: presets[name].label if name in presets else name for family, name in names.items()}
    twice = {label for label in shown.values() if list(shown.values()).count(label) > 1}
    ranked = sorted(
        names, key=lambda f: (order.index(names[f]) if names[f] in order else len(order), names[f], f)
    )
    return [(f"{shown[f]} ({f})" if shown[f] in twice else shown[f], f) for f in ranked]


def _row(label: str, faced: Sequence[Record], sent: Sequence[Record], family: str, seeds: int) -> Row:
    alone = mean_std([percent(record.robust) for record in sent]) if sent else None
    text = _text(alone) if alone else "ERROR"
    if alone and len(sent) < seeds:
        text += f" ({len(sent)} of {seeds} seeds)"
    texts = (_text(_worst(family, faced)), text, _text(_worst(family, [*faced, *sent])))
    return Row(group="", label=label, cells=tuple(Cell(text=text) for text in texts))


def _worst(family: str, records: Sequence[Record]) -> MeanStd | None:
    """Return the worst case of one model, over the attacks that all models have faced."""
    chosen = [r for r in records if r.model_family == family or r.spec["kind_of_attack"] != "natural"]
    lines = worst_case(chosen, "strict")
    return lines[0].bounded if lines else None


def _text(value: MeanStd | None) -> str:
    return "–" if value is None else spread(*value[:2], 1)
