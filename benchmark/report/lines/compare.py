"""Two defenses on the same images under the same attack, ε and threat model, and what may be claimed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from robustness_bench.attacks.registry import in_order, is_bounded
from robustness_bench.benchmark.report.lines.trained import Epochs, Trained, differ, sentence
from robustness_bench.benchmark.report.lines.worst_case import NAME as WORST_CASE
from robustness_bench.benchmark.statistics import (
    Difference,
    Interval,
    MeanStd,
    Outcomes,
    differences,
    mcnemar_exact,
    mean_std,
    resample,
    wilson,
)
from robustness_bench.benchmark.store.cells import Record, robust_to_all

LEVEL = 0.95

Seeds = Mapping[int, Outcomes]
"""Which images withstand, per training seed: seed -> (n,)."""


class McNemar(NamedTuple):
    """For two models with the same seed: images that only one withstands, and the exact p."""

    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True, kw_only=True)
class Where:
    """The setting in which two defenses are compared; ``dataset`` is the data's label."""

    dataset: str
    norm: str
    eps: float
    threat: str


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """One defense's accuracy in percent, with the Wilson interval of the mean, and how it was trained."""

    defense: str
    per_seed: dict[int, float]
    summary: MeanStd
    interval: Interval
    trained: Trained


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison under one attack.

    Attributes:
        union: for a worst case, the attacks it is made of.
        difference: first minus second in points, with its bootstrap interval.
        matched: both sides have the same seeds, which are resampled together.
        wide: the same difference with an interval that holds for all shown comparisons at once.
        tests: one per seed that both sides have.
    """

    where: Where
    attack: str
    union: tuple[str, ...]
    images: int
    first: Accuracy
    second: Accuracy
    difference: Difference
    matched: bool
    wide: Difference
    tests: dict[int, McNemar]

    @property
    def claim(self) -> str:
        """One sentence without its full stop; it says so if the two were trained for different epochs."""
        verdict = {1: "is better than", -1: "is worse than", 0: "is not shown to be better or worse than"}
        return (
            f"{self.first.defense} {verdict[side(self.difference)]} {self.second.defense}: difference "
            f"{points(self.difference.mean)} points, 95 % interval {span(self.difference)}"
            + (f"; not trained alike: {self.trained}" if self.unlike else "")
        )

    @property
    def unlike(self) -> bool:
        """Whether the two are known to have been trained for different numbers of epochs."""
        return differ(self.first.trained, self.second.trained)

    @property
    def trained(self) -> str:
        """The epochs that each side trained, in words."""
        return sentence((each.defense, each.trained) for each in (self.first, self.second))


@dataclass(frozen=True, kw_only=True)
class Cells:
    """A store's cells of one defense under one threat model: attack -> seed -> record.

    Attributes:
        epochs: checkpoint id -> how it was trained, if known.
    """

    defense: str
    records: dict[str, dict[int, Record]]
    epochs: Mapping[str, Epochs]

    def trained(self, attacks: Sequence[str], seeds: Iterable[int]) -> Trained:
        """Return how the models with these seeds that faced the attacks were trained."""
        faced = self.records[attacks[0]]
        return {seed: self.epochs.get(faced[seed].spec["parents"].get("model", "")) for seed in seeds}

    def outcomes(self, attacks: Sequence[str]) -> Seeds:
        """Return which images withstand all of these attacks, for the seeds that faced them all."""
        faced = [self.records.get(attack, {}) for attack in attacks]
        seeds = sorted(set(faced[0]).intersection(*faced[1:]))
        return {seed: robust_to_all(cells[seed] for cells in faced) for seed in seeds}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two defenses under one threat model."""

    where: Where
    first: Cells
    second: Cells

    def common(self) -> list[str]:
        """Return the attacks that both have faced, and the worst case over those that ε bounds."""
        order = [*in_order(self.first.records), WORST_CASE]
        return [name for name in order if not self.lacking(name, ())]

    def made_of(self, attack: str) -> tuple[str, ...]:
        """Return the attack itself; for the worst case, the bounded attacks that both have faced."""
        if attack != WORST_CASE:
            return (attack,)
        return tuple(name for name in in_order(self.first.records) if self._bounded(name)) or (attack,)

    def lacking(self, attack: str, seeds: Iterable[int]) -> list[str]:
        """Return the defenses that lack it for one of these seeds or, if none is named, for every seed."""
        wanted, attacks = set(seeds), self.made_of(attack)
        sides = [(each.defense, each.outcomes(attacks).keys()) for each in (self.first, self.second)]
        return [defense for defense, there in sides if not there or not wanted <= there]

    def _bounded(self, attack: str) -> bool:
        sides = (self.first.records.get(attack, {}), self.second.records.get(attack, {}))
        return all(cells and all(is_bounded(record.spec) for record in cells.values()) for cells in sides)


def pair_of(
    where: Where,
    first: str,
    second: str,
    records: Sequence[Record],
    seeds: Iterable[int],
    epochs: Mapping[str, Epochs],
) -> Pair:
    """Return both defenses' successful cells from records of one setting; only these seeds, if any is named.

    Args:
        epochs: checkpoint id -> how it was trained (``trainings``).
    """
    wanted = set(seeds)
    own = [
        record
        for record in records
        if record.status == "ok" and _place(record) == where and (not wanted or record.seed in wanted)
    ]
    return Pair(where=where, first=_cells(first, own, epochs), second=_cells(second, own, epochs))


def _place(record: Record) -> Where:
    spec = record.spec
    return Where(dataset=spec["dataset"], norm=spec["norm"], eps=spec["eps"], threat=spec["threat"])


def _cells(defense: str, records: Iterable[Record], epochs: Mapping[str, Epochs]) -> Cells:
    found: dict[str, dict[int, Record]] = {}
    for record in records:
        if record.spec["defense"] == defense:
            found.setdefault(record.spec["attack"], {})[record.seed] = record
    return Cells(defense=defense, records=found, epochs=epochs)


def compare(pair: Pair, attack: str, *, among: int = 1) -> Comparison:
    """Compare both defenses under ``attack``, which neither lacks.

    Args:
        among: number of comparisons that are shown together.
    """
    attacks = pair.made_of(attack)
    taken = [r for each in (pair.first, pair.second) for name in attacks for r in each.records[name].values()]
    if not all(np.array_equal(record.rows["sample"], taken[0].rows["sample"]) for record in taken):
        raise ValueError("a comparison needs the same images in the same order on both sides")
    ours, theirs = pair.first.outcomes(attacks), pair.second.outcomes(attacks)
    matched = ours.keys() == theirs.keys()
    drawn, other = resample([_stack(ours), _stack(theirs)])
    difference, wide = (
        in_points(differences(drawn, [other], matched=[matched], level=level)[0])
        for level in (LEVEL, 1 - (1 - LEVEL) / among)
    )
    return Comparison(
        where=pair.where,
        attack=attack,
        union=attacks if attack == WORST_CASE else (),
        images=_stack(ours).shape[1],
        first=_accuracy(pair.first, attacks, ours),
        second=_accuracy(pair.second, attacks, theirs),
        difference=difference,
        matched=matched,
        wide=wide,
        tests={seed: paired(ours[seed], theirs[seed]) for seed in ours if seed in theirs},
    )


def _accuracy(cells: Cells, attacks: Sequence[str], seeds: Seeds) -> Accuracy:
    per_seed = {seed: 100 * float(kept.mean()) for seed, kept in seeds.items()}
    kept = _stack(seeds)
    interval = wilson(int(kept.sum()) / len(kept), kept.shape[1], LEVEL)
    return Accuracy(
        defense=cells.defense,
        per_seed=per_seed,
        summary=mean_std(list(per_seed.values())),
        interval=Interval(100 * interval.low, 100 * interval.high),
        trained=cells.trained(attacks, seeds),
    )


def paired(first: Outcomes, second: Outcomes) -> McNemar:
    """Return McNemar's test of two models: (n,), (n,)."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return McNemar(only_first, only_second, mcnemar_exact(only_first, only_second))


def _stack(seeds: Seeds) -> Outcomes:
    return np.stack(list(seeds.values()))


def in_points(difference: Difference) -> Difference:
    return Difference(*(100 * value for value in difference))


def side(difference: Difference) -> int:
    """Return 1 if the first is shown to be better, -1 if it is shown to be worse, else 0."""
    return int(difference.low > 0) - int(difference.high < 0)


def points(value: float) -> str:
    """Format with a real minus sign; to the tenth, or with as many digits as needed to differ from zero."""
    text = f"{value:.1f}" if abs(value) >= 0.05 or value == 0 else f"{value:.2g}"
    return text.replace("-", "−")


def p_text(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def span(of: Difference | Interval) -> str:
    return f"[{points(of.low)}, {points(of.high)}]"
