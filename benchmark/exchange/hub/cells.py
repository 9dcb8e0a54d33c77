"""The cells of a store as the hub's benchmarks have them: tasks with one value per model."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from robustness_bench.attacks.registry import EXACT
from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.report.lines.results import (
    Line,
    particulars,
    precision_of,
    summarize,
    surrogates_of,
)
from robustness_bench.benchmark.report.lines.worst_case import worst_case
from robustness_bench.benchmark.store.cells import Record


class Value(NamedTuple):
    """One model's accuracy on one task."""

    task: str
    """The task's id: data set, and of an attacked cell threat, norm, ε, attack (how made) and images."""
    line: Line
    accuracy: float
    """In percent."""
    date: str
    """When it was measured; empty for records from before that was kept."""


def values(records: Sequence[Record], seed: int) -> list[Value]:
    """Return what one seed of a model family reached, each task once; failed cells have no value.

    Args:
        records: of the family, all seeds.
    """
    found: dict[str, Value] = {}
    for line in [*summarize(records), *worst_case(records, "strict"), *worst_case(records, "paper")]:
        accuracy = line.per_seed.get(seed)
        if accuracy is not None:
            dates = [
                record.environment.get("date", "") for record in records if record.family == line.setting
            ]
            found.setdefault(task_id(line), Value(task_id(line), line, accuracy, max(dates, default="")))
    return list(found.values())


def task_id(line: Line) -> str:
    """Return the name of what a line measures, the same for every model."""
    if line.attack == "none":
        return f"{line.dataset}-natural-{line.images}"
    attack_set = "" if "strict" in line.sets or not line.sets else line.sets[0]
    on = "-".join(["on", *line.surrogates]).replace(":", "-") if line.surrogates else ""
    attack = "-".join(filter(None, [line.attack, attack_set, line.precision, on]))
    return f"{line.dataset}-{line.threat}-{line.norm}-{line.eps:.4g}-{attack}-{line.images}"


def told(line: Line) -> str:
    """Return a line's setting for people."""
    if line.attack == "none":
        return f"natural accuracy, {line.images} test images"
    sets = [f"parameters {' and '.join(line.sets)}"] if line.sets else []
    attack = ", ".join([line.attack, *sets, *particulars(line)])
    return f"{line.threat} box, {line.norm}, ε = {line.eps:.4g}, {attack}, {line.images} test images"


def by_model(records: Sequence[Record]) -> dict[tuple[str, int], list[Record]]:
    """Return (model family, seed) -> the records of the family, for every model that has records."""
    families = grouped(records, lambda record: record.model_family)
    return {
        (family, seed): members
        for family, members in families.items()
        for seed in sorted({record.seed for record in members})
    }


def columns(records: Sequence[Record]) -> dict[str, list[Any]]:
    """Return a row per cell and test image, column by column; failed cells have no rows."""
    facts = ("dataset", "norm", "threat", "defense", "attack")
    table: dict[str, list[Any]] = {
        name: [] for name in ("record", *facts, "surrogates", "precision", "eps", "seed")
    }
    for record in (each for each in records if each.status == "ok"):
        count = len(record.rows["sample"])
        own = {"record": record.id, "seed": record.seed, "eps": float(record.spec["eps"])}
        own |= {name: record.spec[name] for name in facts}
        own["surrogates"] = " ".join(surrogates_of(record))
        own["precision"] = precision_of([record]) or EXACT
        for name, value in own.items():
            table[name] += [value] * count
        for name, column in {**record.rows, "robust": record.robust}.items():
            if name != "way":  # how one attack came by its outcome
                table.setdefault(name, []).extend(column.tolist())
    return table
