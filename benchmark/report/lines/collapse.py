"""Seeds whose training collapsed, recognised by robust accuracies far from those of the other seeds."""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.report.lines.results import percent
from robustness_bench.benchmark.report.rendering.wording import NORM_SYMBOLS, budget
from robustness_bench.benchmark.statistics import mcnemar_exact
from robustness_bench.benchmark.store.cells import Record

_GAP = 10.0  # points below the other seeds
_GAP_OF_TWO = 20.0  # points below a single other seed
_DEVIATIONS = 4.0
_NORMAL = 1.4826  # from a median absolute deviation to a normal standard deviation
_HIGH, _SHARE = 10.0, 0.25  # accuracy under PGD at least this; accuracy under AA below this share of it
_CHANCE = 0.05
_PGD, _AUTOATTACK = "attacks.pgd:PGD", "attacks.autoattack:AutoAttack"  # as recorded, whatever their presets


class _Found(NamedTuple):
    family: str
    seed: int
    points: float
    """How far it stands out; only the largest is reported."""
    why: str


def collapsed_seeds(records: Sequence[Record]) -> dict[str, dict[int, str]]:
    """Return model family -> seed -> why its training seems to have failed; only seeds that stand out.

    Below its siblings: an accuracy more than 10 points and 4 deviations under the median of the other
    seeds. The deviation is their median absolute deviation (× 1.4826), so that neither the seed itself nor
    a second outlier widens it. With three seeds, the two others are often close by chance. So the deviation
    is at least the ordinary one, which is the median over the other defenses under the same attack, and at
    least the binomial standard error for that many images. With two seeds, nobody knows which is the
    outlier: the lower is named if they are 20 points (and 4 such deviations) apart.

    PGD alone: at least 10 % withstand a white-box PGD, AutoAttack leaves less than a quarter of that, and
    McNemar's test (5 %) shows that this is not chance.
    """
    usable = [record for record in records if record.status == "ok"]
    low, alone = _furthest(_below_siblings(usable)), _furthest(_pgd_alone(usable))
    reasons: dict[str, dict[int, str]] = {}
    for family, seed in sorted({*low, *alone}):
        both = [found[family, seed].why for found in (low, alone) if (family, seed) in found]
        reasons.setdefault(family, {})[seed] = "; ".join(both)
    return reasons


def _furthest(found: Iterable[_Found]) -> dict[tuple[str, int], _Found]:
    most: dict[tuple[str, int], _Found] = {}
    for each in found:
        key = each.family, each.seed
        if key not in most or each.points > most[key].points:
            most[key] = each
    return most


def _below_siblings(records: Iterable[Record]) -> Iterator[_Found]:
    for members in grouped(records, _column).values():
        families = grouped(members, lambda record: record.family).values()
        column = [{record.seed: record for record in own} for own in families]
        accuracies = [{s: percent(r.robust) for s, r in cell.items()} for cell in column]
        spreads = [_deviation(list(each.values())) if len(each) > 2 else None for each in accuracies]
        for place, (cell, per_seed) in enumerate(zip(column, accuracies, strict=True)):
            known = [each for each in [*spreads[:place], *spreads[place + 1 :]] if each is not None]
            ordinary = statistics.median(known) if known else 0.0
            for seed, record in cell.items():
                others = [value for sibling, value in per_seed.items() if sibling != seed]
                if others and _stands_out(per_seed[seed], others, ordinary, len(record.robust)):
                    gap = statistics.median(others) - per_seed[seed]
                    yield _Found(record.model_family, seed, gap, _low(record, per_seed[seed], others, gap))


def _column(record: Record) -> str:
    """Return what two cells share that differ only in the model."""
    return str({key: value for key, value in record.spec.items() if key not in ("defense", "parents")})


def _deviation(values: Sequence[float]) -> float:
    middle = statistics.median(values)
    return _NORMAL * statistics.median(abs(value - middle) for value in values)


def _stands_out(value: float, others: Sequence[float], ordinary: float, images: int) -> bool:
    middle = statistics.median(others)
    error = math.sqrt(middle * (100 - middle) / images)
    deviation = max(_deviation(others), ordinary, error)
    least = _GAP if len(others) > 1 else _GAP_OF_TWO
    return middle - value > max(least, _DEVIATIONS * deviation)


def _low(record: Record, value: float, others: Sequence[float], gap: float) -> str:
    if len(others) == 1:
        return f"the seeds differ by {gap:.1f} points {_under(record)}: {value:.1f} % is the lower"
    siblings = f"{min(others):.1f} to {max(others):.1f} %"
    return f"{value:.1f} % {_under(record)}, where the other seeds have {siblings}"


def _under(record: Record) -> str:
    spec = record.spec
    if spec["kind_of_attack"] == "natural":
        return "without an attack"
    return f"under {spec['attack']} ({_place(record)}, {spec['threat']} box)"


def _place(record: Record) -> str:
    return f"{NORM_SYMBOLS[record.spec['norm']]}, ε = {budget(record.spec['eps'])}"


def _pgd_alone(records: Iterable[Record]) -> Iterator[_Found]:
    """Compare, per model and budget, the weakest PGD with the strongest AutoAttack."""
    models: dict[str, tuple[list[Record], list[Record]]] = {}
    for record in records:
        kind = record.spec["parameters"].get("attack")
        if record.spec["threat"] == "white" and kind in (_PGD, _AUTOATTACK):
            model = models.setdefault(_model(record), ([], []))
            model[kind == _AUTOATTACK].append(record)
    for pgds, autoattacks in models.values():
        if pgds and autoattacks:
            pgd = max(pgds, key=lambda record: percent(record.robust))
            aa = min(autoattacks, key=lambda record: percent(record.robust))
            high, low = percent(pgd.robust), percent(aa.robust)
            if high >= _HIGH and low < _SHARE * high and not _by_chance(pgd, aa):
                why = (
                    f"{high:.1f} % withstand {pgd.spec['attack']} but {low:.1f} % {aa.spec['attack']} "
                    f"({_place(pgd)}): PGD finds too little"
                )
                yield _Found(pgd.model_family, pgd.seed, high - low, why)


def _model(record: Record) -> str:
    keys = ("data", "n_examples", "norm", "eps")
    return str([record.model_family, record.seed, *(record.spec[key] for key in keys)])


def _by_chance(pgd: Record, aa: Record) -> bool:
    only_pgd, only_aa = pgd.robust & ~aa.robust, aa.robust & ~pgd.robust
    return mcnemar_exact(int(only_pgd.sum()), int(only_aa.sum())) >= _CHANCE
