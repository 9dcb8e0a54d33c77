"""The columns of a board, and its cells: the outcomes of one attack for all seeds of a defense."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from robustness_bench.attacks.registry import is_bounded
from robustness_bench.benchmark.errors import last_line
from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.report.lines.results import median_distance
from robustness_bench.benchmark.site.contents import names
from robustness_bench.benchmark.statistics import (
    Interval,
    MeanStd,
    Outcomes,
    audit_words,
    mean_std,
    widened,
)
from robustness_bench.benchmark.store.cells import Record, robust_to_all


@dataclass(frozen=True, kw_only=True)
class Column:
    """One attack of a board.

    Attributes:
        key: unique on its board; the attack's name if that is unique.
        bounded: whether it stays inside ε and so counts in the worst case.
        surrogates: the models of an ensemble on which its images were crafted.
        any_distance: whether images beyond ε count, as for minimum-norm attacks in published tables.
    """

    key: str
    attack: str
    label: str
    kind: str
    bounded: bool
    surrogates: tuple[str, ...] = ()
    any_distance: bool = False


def _variant(record: Record) -> str:
    """Return what distinguishes attacks of one name: their parameters and, in a black box, the surrogate."""
    spec = record.spec
    crafted = spec["parents"].get("crafted", "") if spec["threat"] == "black" else ""
    return short_hash([spec["attack"], spec["parameters"], crafted])


def make_columns(members: Sequence[Record], attack_set: str) -> tuple[tuple[Column, ...], dict[str, str]]:
    """Return the columns, natural accuracy first, and record id -> column key."""
    alike = grouped(members, lambda record: (record.spec["attack"], _variant(record)))
    variants = Counter(attack for attack, _ in alike)
    columns: list[Column] = []
    keys: dict[str, str] = {}
    for (attack, variant), own in alike.items():
        column = _column(own[0], attack_set, f"·{variant[:4]}" if variants[attack] > 1 else "")
        columns.append(column)
        keys |= {record.id: column.key for record in own}
    columns.sort(key=lambda c: (c.kind != "natural", names.attack(c.attack).order, c.attack, c.key))
    return tuple(columns), keys


def _column(record: Record, attack_set: str, suffix: str) -> Column:
    attack, kind = record.spec["attack"], record.spec["kind_of_attack"]
    any_distance = kind == "minimum-norm" and attack_set == "paper"
    judged = {False: " ≤ε", True: " any"}[any_distance] if kind == "minimum-norm" else ""
    precision = record.spec["parameters"].get("precision", "")
    label = "Natural" if kind == "natural" else names.attack(attack).label
    return Column(
        key=f"{attack}{suffix}",
        attack=attack,
        label=f"{label}{precision and f' ({precision})'}{suffix}{judged}",
        kind=kind,
        bounded=is_bounded(record.spec),
        surrogates=tuple(record.spec.get("surrogates", ())),
        any_distance=any_distance,
    )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Which images withstood the attack, per seed.

    Attributes:
        outcomes: seed -> (n,), None where the cell failed; without seeds that never ran.
        lacking: seeds of the row that never ran.
        records: seed -> record; empty for a worst case.
        error: the last line of the first traceback.
    """

    outcomes: dict[int, Outcomes | None]
    lacking: tuple[int, ...] = ()
    records: tuple[Record, ...] = ()
    error: str = ""

    @cached_property
    def images(self) -> int:
        return next((len(outcome) for outcome in self.outcomes.values() if outcome is not None), 0)

    @cached_property
    def per_seed(self) -> dict[int, float | None]:
        """Seed -> accuracy in percent."""
        return {
            seed: None if outcome is None else 100.0 * float(outcome.mean())
            for seed, outcome in self.outcomes.items()
        }

    @cached_property
    def figure(self) -> MeanStd | None:
        """Mean and spread over the seeds that ran; None if there are none, or if one failed."""
        values = [value for value in self.per_seed.values() if value is not None]
        return mean_std(values) if values and len(values) == len(self.outcomes) else None

    @cached_property
    def interval(self) -> Interval | None:
        """The interval for the mean on other images of the same kind, in percent."""
        if self.figure is None:
            return None
        return widened(self.figure._replace(std=None), self.images)

    @property
    def audit(self) -> str:
        """What the attack's audits say of the figure; nothing without any."""
        audits = [audit for record in self.records if record.status == "ok" and (audit := record.audit)]
        return audit_words(audits, self.images) if audits else ""

    @property
    def whole(self) -> bool:
        """Whether every seed of the row has run without an error."""
        return self.figure is not None and not self.lacking

    @property
    def problem(self) -> str:
        """Which seeds failed or never ran; empty if none."""
        failed = [seed for seed, outcome in self.outcomes.items() if outcome is None]
        if failed:
            return f"failed (seed {_numbers(failed)})"
        return f"missing (seed {_numbers(self.lacking)})" if self.lacking else ""

    def passes(self) -> tuple[float, float] | None:
        """Return forward and backward passes per image, means over images and seeds."""
        if self.figure is None or not self.records:
            return None
        forwards, backwards = (
            float(np.mean([record.rows[name].mean() for record in self.records]))
            for name in ("forwards", "backwards")
        )
        return forwards, backwards

    def median_distance(self) -> float | None:
        """Return the median distance that fooled, mean over seeds; None unless the attack is minimum-norm."""
        if any(r.status == "error" or r.spec["kind_of_attack"] != "minimum-norm" for r in self.records):
            return None
        return median_distance(self.records)


def make_cell(records: Sequence[Record], seeds: Sequence[int], *, any_distance: bool) -> Cell:
    ordered = tuple(sorted(records, key=lambda record: record.seed))
    failed = [record for record in ordered if record.status == "error"]
    return Cell(
        outcomes={r.seed: _outcome(r, any_distance) for r in ordered},
        lacking=tuple(seed for seed in seeds if seed not in {record.seed for record in ordered}),
        records=ordered,
        error=last_line(failed[0].error) if failed else "",
    )


def _outcome(record: Record, any_distance: bool) -> Outcomes | None:
    if record.status == "error":
        return None
    return record.withstood if any_distance else record.robust


def worst_of(cells: Sequence[Cell], seeds: Sequence[int], sent: Sequence[Record] = ()) -> Cell:
    """Return the worst case: a sample is robust only if every record, also of submitted images, says so.

    Raises:
        ValueError: the records are not of the same samples.
    """
    faced = [*(record for cell in cells for record in cell.records), *sent]
    return Cell(outcomes={seed: robust_to_all(r for r in faced if r.seed == seed) for seed in seeds})


def _numbers(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
