"""One line per data set × norm × threat × defense × attack, from the records of its seeds."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from attacks.registry import attack_presets
from benchmark.records import Record
from benchmark.statistics import MeanStd, mean_std
from defenses.registry import defense_presets

COLUMNS = (
    "dataset",
    "norm",
    "eps",
    "threat",
    "defense",
    "attack",
    "mean",
    "std",
    "seeds",
    "images",
    "per_seed",
    "unbounded_mean",
    "unbounded_std",
    "median_distance",
    "status",
    "setting",
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """What the seeds of one cell say together; accuracies in percent.

    Attributes:
        bounded: accuracy counting only images within ε; None if any seed failed.
        unbounded: accuracy at any distance, for minimum-norm attacks.
        median_distance: of the images that fooled a correctly classified sample, mean over seeds.
        per_seed: seed -> accuracy, None for a seed that failed.
        error: last line of the first failed seed's traceback.
        setting: names everything but the seed that decided the result.
    """

    dataset: str
    norm: str
    eps: float
    threat: str
    defense: str
    attack: str
    kind: str
    bounded: MeanStd | None
    unbounded: MeanStd | None
    median_distance: float | None
    per_seed: dict[int, float | None]
    images: int
    error: str
    setting: str


def summarize(records: Iterable[Record]) -> list[Line]:
    """Group records by family; the order is that of the registries, then by setting."""
    families: dict[str, list[Record]] = {}
    for record in records:
        families.setdefault(record.family, []).append(record)
    return sorted(map(_line, families.values()), key=_order)


def _line(records: list[Record]) -> Line:
    records = sorted(records, key=lambda record: record.seed)
    spec = records[0].spec
    failed = [record for record in records if record.status == "error"]
    whole = not failed
    open_ended = spec["kind_of_attack"] == "minimum-norm"
    per_seed = {
        record.seed: None if record.status == "error" else _percent(record.robust) for record in records
    }
    return Line(
        dataset=spec["dataset"],
        norm=spec["norm"],
        eps=spec["eps"],
        threat=spec["threat"],
        defense=spec["defense"],
        attack=spec["attack"],
        kind=spec["kind_of_attack"],
        bounded=mean_std([value for value in per_seed.values() if value is not None]) if whole else None,
        unbounded=mean_std([_percent(r.withstood) for r in records]) if whole and open_ended else None,
        median_distance=_median_distance(records) if whole and open_ended else None,
        per_seed=per_seed,
        images=spec["n_examples"],
        error=failed[0].error.strip().splitlines()[-1] if failed else "",
        setting=records[0].family,
    )


def _percent(mask: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> float:
    return 100.0 * float(mask.mean())


def _median_distance(records: list[Record]) -> float | None:
    medians = []
    for record in records:
        rows = record.rows
        fell = record.clean & ~record.withstood
        if fell.any():
            medians.append(float(np.median(rows["distance"][fell])))
    return sum(medians) / len(medians) if medians else None


def _order(line: Line) -> tuple[object, ...]:
    defenses, attacks = list(defense_presets()), list(attack_presets())
    return (
        line.dataset,
        line.norm != "linf",
        line.norm,
        line.threat != "white",
        _position(line.defense, defenses),
        _position(line.attack, attacks),
        line.setting,
    )


def _position(name: str, names: list[str]) -> tuple[int, str]:
    return (names.index(name) if name in names else len(names), name)


def to_csv(lines: Iterable[Line]) -> str:
    """The lines as CSV text with a header; the same records give the same bytes."""
    import pandas as pd

    rows = []
    for line in lines:
        bounded, unbounded = line.bounded, line.unbounded
        rows.append(
            [
                line.dataset,
                line.norm,
                f"{line.eps:.6g}",
                line.threat,
                line.defense,
                line.attack,
                _number(bounded.mean) if bounded else "ERROR",
                _number(bounded.std if bounded else None),
                len(line.per_seed),
                line.images,
                " ".join(f"{seed}:{_number(v) or 'ERROR'}" for seed, v in line.per_seed.items()),
                _number(unbounded.mean if unbounded else None),
                _number(unbounded.std if unbounded else None),
                _number(line.median_distance),
                line.error or "ok",
                line.setting,
            ]
        )
    text: str = pd.DataFrame(rows, columns=COLUMNS, dtype=str).to_csv(index=False, lineterminator="\n")
    return text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
