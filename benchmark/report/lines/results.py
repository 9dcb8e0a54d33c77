"""One line per data set × norm × ε × threat × defense × attack, from the records of its seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustness_bench.attacks.registry import EXACT, SETS, attack_place, attack_preset
from robustness_bench.benchmark.errors import last_line
from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.report.rendering.csv import csv_text, number, numbers
from robustness_bench.benchmark.statistics import MeanStd, audit_words, mean_std
from robustness_bench.benchmark.store.cells import Record
from robustness_bench.benchmark.store.diagnoses import EARLIER, NOT_DIAGNOSED, SIGNS_ONLY
from robustness_bench.benchmark.store.flags import FLAGS, black_beats_white
from robustness_bench.defenses.registry import defense_presets

COLUMNS = (
    *("dataset", "norm", "eps", "threat", "defense", "attack", "set", "mean", "std", "seeds"),
    *("images", "per_seed", "unbounded_mean", "unbounded_std", "median_distance", "forwards"),
    *("backwards", "flags", "status", "setting"),
)
COST_COLUMNS = (
    *("dataset", "norm", "eps", "threat", "defense", "attack", "seed", "images", "forwards"),
    *("backwards", "seconds", "hardware", "setting"),
)


def flags_by_family(records: Sequence[Record]) -> dict[str, tuple[str, ...]]:
    """Return family -> the flags of any of its seeds, in the order of ``FLAGS``.

    Adds ``black-beats-white`` to the model's own flags if a black-box cell's images fool the model more
    often than the same attack with the model's own gradients.
    """
    white = {_attack_on_model(r): r for r in records if r.status == "ok" and r.spec["threat"] == "white"}
    raised: dict[str, set[str]] = {}
    for record in records:
        flags = raised.setdefault(record.family, set())
        flags.update(record.diagnosis.flags if record.diagnosis else ())
        # Images that are no longer adversarial once stored say nothing of gradients.
        direct = None if "storage" in record.spec else white.get(_attack_on_model(record))
        if direct and record.status == "ok" and record.spec["threat"] == "black":
            shares = float(direct.robust.mean()), float(record.robust.mean())
            if black_beats_white(*shares, len(record.robust)):
                flags.add("black-beats-white")
    return {family: tuple(name for name in FLAGS if name in flags) for family, flags in raised.items()}


def looked_at(records: Sequence[Record]) -> str:
    """Return what was not checked for the models of a line's records, in the words of ``store.diagnoses``.

    Seeds are named if it does not apply to all.
    """
    said = []
    for words in (NOT_DIAGNOSED, SIGNS_ONLY, EARLIER):
        if seeds := sorted({record.seed for record in records if _lack(record) == words}):
            everyone = len(seeds) == len({record.seed for record in records})
            said.append(words if everyone else f"{words} (seed {', '.join(map(str, seeds))})")
    return "; ".join(said)


def _lack(record: Record) -> str:
    if record.diagnosis is None:
        return NOT_DIAGNOSED
    if record.diagnosis.is_earlier:
        return EARLIER
    return SIGNS_ONLY if record.diagnosis.signs_only else ""


def _attack_on_model(record: Record) -> tuple[str, str, float, str]:
    spec = record.spec
    return spec["parents"]["model"], spec["attack"], spec["eps"], str(spec["parameters"])


@dataclass(frozen=True, kw_only=True)
class Line:
    """The results of one cell over its seeds; accuracies in percent.

    Attributes:
        bounded: accuracy counting only images within ε; None if any seed failed.
        unbounded: accuracy at any distance, for minimum-norm attacks.
        sets: the parameter sets in which the attack has these parameters.
        median_distance: over images that fool, of samples classified correctly before; mean over seeds.
        forwards, backwards: passes per image, mean over images and seeds, without those for crafting
            black-box images.
        flags: signs of hidden gradients that any seed's model shows.
        per_seed: seed -> accuracy, None for a seed that failed.
        error: last line of the first failed seed's traceback, or what a worst case lacks.
        setting: identifies everything but the seed that decided the result.
        unlooked: what was not checked for the models (``looked_at``).
    """

    dataset: str
    norm: str
    eps: float
    threat: str
    defense: str
    attack: str
    sets: tuple[str, ...]
    kind: str
    bounded: MeanStd | None
    unbounded: MeanStd | None = None
    median_distance: float | None = None
    forwards: float | None = None
    backwards: float | None = None
    flags: tuple[str, ...] = ()
    per_seed: dict[int, float | None]
    images: int
    error: str
    setting: str
    unlooked: str = ""
    reading: str = ""
    """How given weights were run, and why (``readings.Chosen.note``)."""
    precision: str = ""
    """Of the attack's gradients (``precision_of``)."""
    surrogates: tuple[str, ...] = ()
    """The models of an ensemble that its images were crafted on (``surrogates_of``)."""
    audit: str = ""
    """What the attack's own audit says of the accuracy (``statistics.audit_words``)."""
    missing: bool = False
    """True if there is no number because a cell never ran, not because one failed."""


def summarize(records: Sequence[Record]) -> list[Line]:
    """Return a line per family, in the order of the registries, then by setting."""
    families = grouped(records, lambda record: record.family)
    raised = flags_by_family(records)
    return ordered(_line(members, raised[family]) for family, members in families.items())


def ordered(lines: Iterable[Line]) -> list[Line]:
    """Return the lines in the order of the tables, then by setting."""
    return sorted(lines, key=_order)


def _line(records: list[Record], flags: tuple[str, ...]) -> Line:
    records = sorted(records, key=lambda record: record.seed)
    spec = records[0].spec
    failed = [record for record in records if record.status == "error"]
    whole, audits = not failed, [audit for record in records if (audit := record.audit)]
    open_ended = spec["kind_of_attack"] == "minimum-norm"
    per_seed = {
        record.seed: None if record.status == "error" else percent(record.robust) for record in records
    }
    return Line(
        **{name: spec[name] for name in ("dataset", "norm", "eps", "threat", "defense")},
        attack=spec["attack"],
        sets=sets_of(spec),
        kind=spec["kind_of_attack"],
        bounded=mean_std([value for value in per_seed.values() if value is not None]) if whole else None,
        unbounded=mean_std([percent(r.withstood) for r in records]) if whole and open_ended else None,
        median_distance=median_distance(records) if whole and open_ended else None,
        forwards=_mean(records, "forwards") if whole else None,
        backwards=_mean(records, "backwards") if whole else None,
        flags=flags,
        per_seed=per_seed,
        images=spec["n_examples"],
        error=last_line(failed[0].error) if failed else "",
        setting=records[0].family,
        unlooked=looked_at(records),
        reading=str(records[0].environment.get("input", "")),
        precision=precision_of(records),
        surrogates=surrogates_of(records[0]),
        audit=audit_words(audits, spec["n_examples"]) if whole and audits else "",
    )


def sets_of(spec: dict[str, Any]) -> tuple[str, ...]:
    """Return the parameter sets whose attack of this name has a cell's parameters, at any precision."""
    fitting, precision = [], spec["parameters"].get("precision", EXACT)
    for name in SETS:
        preset = attack_preset(spec["attack"], name)
        if preset is None or spec["norm"] not in preset.norms:
            continue
        if preset.identity(spec["norm"], spec["eps"], precision) == spec["parameters"]:
            fitting.append(name)
    return tuple(fitting)


def percent(mask: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> float:
    """Return the share of true values in percent."""
    return 100.0 * float(mask.mean())


def _mean(records: list[Record], column: str) -> float:
    return float(np.mean([record.rows[column].mean() for record in records]))


def median_distance(records: Sequence[Record]) -> float | None:
    """Return the median distance of the images that a minimum-norm attack fooled, mean over seeds."""
    medians = []
    for record in records:
        fell = record.clean & ~record.withstood
        if fell.any():
            medians.append(float(np.median(record.distance[fell])))
    return sum(medians) / len(medians) if medians else None


def _order(line: Line) -> tuple[object, ...]:
    defenses = list(defense_presets())
    return (
        line.dataset,
        line.norm != "linf",
        line.norm,
        line.threat != "white",
        position(line.defense, defenses),
        attack_place(line.attack),
        line.sets,
        line.eps,
        line.setting,
    )


def position(name: str, names: Sequence[str]) -> tuple[int, str]:
    """Return a sort key: known names in their order, then the others."""
    return (names.index(name) if name in names else len(names), name)


def to_csv(lines: Iterable[Line]) -> str:
    """Return the lines as CSV text with a header; the same records give the same bytes."""
    return csv_text(COLUMNS, map(_row, lines))


def _row(line: Line) -> list[object]:
    mean, std = numbers(line.bounded)
    return [
        *(line.dataset, line.norm, f"{line.eps:.6g}", line.threat, line.defense, line.attack),
        " ".join(line.sets),
        *(mean or _absent(line), std),
        *(len(line.per_seed), line.images),
        " ".join(f"{seed}:{number(v) or _absent(line)}" for seed, v in line.per_seed.items()),
        *numbers(line.unbounded),
        *(number(value) for value in (line.median_distance, line.forwards, line.backwards)),
        "; ".join(filter(None, [" ".join(line.flags), line.unlooked, *particulars(line), line.audit])),
        *(line.error or "ok", line.setting),
    ]


def precision_of(records: Iterable[Record]) -> str:
    """Return what gradients were taken in, where it is another precision than float32 for any."""
    return max((record.spec["parameters"].get("precision", "") for record in records), default="")


def surrogates_of(record: Record) -> tuple[str, ...]:
    """Return the ensemble on whose mean logits a cell's images were crafted; empty if on one model."""
    return tuple(record.spec.get("surrogates", ()))


def particulars(line: Line) -> list[str]:
    """Return in words what tells a line from others of the same attack."""
    lowered = [f"gradients in {line.precision}"] if line.precision else []
    on = [f"crafted on {' and '.join(line.surrogates)}"] if line.surrogates else []
    return [*lowered, *on]


def _absent(line: Line) -> str:
    """Return what replaces a missing number."""
    return "missing" if line.missing else "ERROR"


def costs(records: Sequence[Record]) -> str:
    """Return ``costs.csv``, a line per record; passes are per image, seconds per cell.

    Separate from ``results.csv``, because seconds differ from run to run.
    """
    return csv_text(COST_COLUMNS, (_cost_row(record) for record in records if record.status == "ok"))


def _cost_row(record: Record) -> list[object]:
    spec = record.spec
    return [
        *(spec["dataset"], spec["norm"], f"{spec['eps']:.6g}"),
        *(spec["threat"], spec["defense"], spec["attack"]),
        *(record.seed, spec["n_examples"]),
        *(f"{record.rows[name].mean():.2f}" for name in ("forwards", "backwards")),
        *(f"{record.seconds:.3f}", record.environment["hardware"], record.family),
    ]
