"""Mutual information in nats: mi.csv and a table per data set and objective."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustness_bench.attacks.registry import NORMS, attack_names, attack_presets
from robustness_bench.benchmark.data import Located
from robustness_bench.benchmark.files import write_atomic
from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.plan.protocol import OBJECTIVES, Protocol, Settings
from robustness_bench.benchmark.plan.tasks import make_mi_plan
from robustness_bench.benchmark.report.lines.results import position
from robustness_bench.benchmark.report.rendering.csv import csv_text, number, numbers
from robustness_bench.benchmark.report.rendering.table import Cell, Column, Row, Table, spread
from robustness_bench.benchmark.report.rendering.wording import NORM_SYMBOLS, count
from robustness_bench.benchmark.statistics import MeanStd, mean_std
from robustness_bench.benchmark.store.information import MIRecord, find_mi_records, read_mi_record
from robustness_bench.defenses.registry import defense_presets

LABELS = {
    "natural_of_x": "E_n(x; h(x))",
    "natural_of_x_adv": "E_n(x; h(x̃))",
    "adversarial_of_x": "E_a(n; h(x))",
    "adversarial_of_x_adv": "E_a(n; h(x̃))",
    "standard_of_x": "Ê(x; h(x))",
    "standard_of_x_adv": "Ê(x̃; h(x̃))",
    "standard_across": "Ê(x; h(x̃))",
}
COLUMNS = (
    *("dataset", "norm", "eps", "defense", "attack", "objective", "estimate", "mean", "std"),
    *("seeds", "images", "per_seed", "selected_mean", "selected_images", "setting"),
)


@dataclass(frozen=True, kw_only=True)
class MILine:
    """One estimate of one model family under one attack, in nats.

    Attributes:
        all: mean ± sample standard deviation over seeds of the mean over images.
        per_seed: seed -> mean over images.
        selected: the mean over the images of equation 6 (right when natural, wrong when attacked) of
            all seeds together; None if there are none.
        images: number per seed; ``selected_images``: number over all seeds.
    """

    dataset: str
    norm: str
    eps: float
    defense: str
    attack: str
    objective: str
    estimate: str
    all: MeanStd
    per_seed: dict[int, float]
    selected: float | None
    images: int
    selected_images: int
    setting: str


def mi_lines(records: Iterable[MIRecord]) -> list[MILine]:
    """Return a line per family and estimate, in the order of the registries."""
    families = grouped(records, lambda record: record.family)
    lines = [_line(members, name) for members in families.values() for name in members[0].estimates]
    return sorted(lines, key=_order)


def _line(records: list[MIRecord], estimate: str) -> MILine:
    records = sorted(records, key=lambda record: record.seed)
    spec = records[0].spec
    per_seed = {record.seed: float(record.rows[estimate].mean(dtype=np.float64)) for record in records}
    selected = np.concatenate([record.rows[estimate][_selected(record)] for record in records])
    return MILine(
        **{name: spec[name] for name in ("dataset", "norm", "eps", "defense", "attack", "objective")},
        estimate=estimate,
        all=mean_std(list(per_seed.values())),
        per_seed=per_seed,
        selected=float(selected.mean(dtype=np.float64)) if len(selected) else None,
        images=len(records[0].rows[estimate]),
        selected_images=len(selected),
        setting=records[0].family,
    )


def _selected(record: MIRecord) -> NDArray[np.bool_]:
    right = record.rows["clean_prediction"] == record.rows["label"]
    return np.asarray(right & (record.rows["adversarial_prediction"] != record.rows["label"]))


def _order(line: MILine) -> tuple[object, ...]:
    return (
        line.dataset,
        NORMS.index(line.norm),
        line.eps,
        OBJECTIVES.index(line.objective),
        position(line.defense, list(defense_presets())),
        position(line.attack, attack_names()),
        line.setting,
        list(LABELS).index(line.estimate),
    )


def to_csv(lines: Iterable[MILine]) -> str:
    rows = [
        [
            *(line.dataset, line.norm, f"{line.eps:.6g}", line.defense, line.attack, line.objective),
            *(line.estimate, *numbers(line.all, 5), line.all.n, line.images),
            " ".join(f"{seed}:{value:.5f}" for seed, value in line.per_seed.items()),
            *(number(line.selected, 5), line.selected_images, line.setting),
        ]
        for line in lines
    ]
    return csv_text(COLUMNS, rows)


def publish_mi(out: Path, protocol: Protocol, data: dict[str, Located]) -> list[Table]:
    """Write mi.csv with all estimates of a store, and tables of those that fit ``protocol``."""
    records = [read_mi_record(path) for path in find_mi_records(out)]
    write_atomic(out / "mi.csv", to_csv(mi_lines(records)).encode())
    tables = []
    for settings in protocol.settings:
        lines = mi_lines(fitting(settings, data, records))
        for objective in OBJECTIVES:
            if own := [line for line in lines if line.objective == objective]:
                tables.append(_table(own, data[settings.dataset].label))
    return tables


def fitting(settings: Settings, data: dict[str, Located], records: Sequence[MIRecord]) -> list[MIRecord]:
    """Return the estimates that a request with these settings would include."""
    presets = attack_presets(settings.attack_set)
    met = {(record.spec["norm"], record.spec["attack"]) for record in records}
    attacks = {norm: tuple(name for name in presets if (norm, name) in met) for norm in NORMS}
    widest = Protocol(
        defenses=tuple(defense_presets()),
        norms=NORMS,
        threats=("white",),
        seeds=max((record.seed for record in records), default=0) + 1,
        settings=(settings.model_copy(update={"attacks": attacks}),),
    )
    by_id = {record.id: record for record in records}
    return [by_id[task.id] for task in make_mi_plan(widest, data, OBJECTIVES) if task.id in by_id]


def _table(lines: list[MILine], label: str) -> Table:
    columns = list(dict.fromkeys((line.norm, line.attack, line.estimate) for line in lines))
    defenses = list(dict.fromkeys(line.defense for line in lines))
    by_cell = {(line.defense, line.norm, line.attack, line.estimate): line for line in lines}
    presets = defense_presets()
    objective = lines[0].objective
    seeds = max(line.all.n for line in lines)
    over = ", mean ± sample standard deviation over seeds" if seeds > 1 else ""
    return Table(
        name=f"{label}-mi-{objective}",
        title=f"Mutual information ({objective}), {label}",
        caption=(
            f"Lower bounds in nats on {lines[0].images} test images, {count(seeds, 'training seed')}{over}."
            f" Estimators trained on each model by {objective}; n is the attack's noise. Bounds of "
            "different models come from different estimators: compare within a row."
        ),
        measure="mi",
        columns=tuple(
            Column(group=f"{NORM_SYMBOLS[norm]}, {attack}", label=LABELS[estimate])
            for norm, attack, estimate in columns
        ),
        rows=tuple(
            Row(
                group=presets[defense].group,
                label=presets[defense].label,
                cells=tuple(
                    Cell(text=spread(*line.all[:2], 2) if (line := by_cell.get((defense, *column))) else "–")
                    for column in columns
                ),
            )
            for defense in defenses
        ),
    )
