"""A comparison as a table for the terminal, as JSON and as CSV."""

from collections.abc import Sequence
from typing import Any

from robustness_bench.benchmark.report.lines.compare import Accuracy, Comparison, p_text, points, side, span
from robustness_bench.benchmark.report.lines.trained import UNKNOWN, column
from robustness_bench.benchmark.report.lines.worst_case import NAME as WORST_CASE
from robustness_bench.benchmark.report.rendering.csv import csv_text, number
from robustness_bench.benchmark.report.rendering.table import Table, plain_table
from robustness_bench.benchmark.report.rendering.wording import NORM_SYMBOLS, budget, count

COLUMNS = (
    *("dataset", "norm", "eps", "threat", "attack", "union", "images"),
    *(f"{side}{column}" for side in ("first", "second") for column in ("", "_mean", "_std", "_low", "_high")),
    *("difference", "low", "high", "simultaneous_low", "simultaneous_high"),
    *("first_per_seed", "second_per_seed", "mcnemar"),
    *(f"{side}_{kind}_epochs" for side in ("first", "second") for kind in ("natural", "adversarial")),
    "claim",
)


def to_table(found: Comparison) -> Table:
    """Return accuracies and their difference and, per seed, the images that only one withstands."""
    first, second, tests = found.first, found.second, found.tests
    seeds = sorted({*first.per_seed, *second.per_seed})
    gaps = {seed: first.per_seed[seed] - second.per_seed[seed] for seed in tests}
    counted = {
        f"only {first.defense}": {seed: str(test.only_first) for seed, test in tests.items()},
        f"only {second.defense}": {seed: str(test.only_second) for seed, test in tests.items()},
        "McNemar p": {seed: p_text(test.p) for seed, test in tests.items()},
    }
    rows: list[tuple[str, list[str], dict[int, str]]] = [
        *(
            (each.defense, [_mean(each), span(each.interval)], _points(each.per_seed))
            for each in (first, second)
        ),
        ("difference", [points(found.difference.mean), span(found.difference)], _points(gaps)),
        *((label, ["", ""], values) for label, values in counted.items()),
    ]
    where = found.where
    attack = {WORST_CASE: f"the worst of {', '.join(found.union)}", "none": "no attack"}
    return plain_table(
        name="compare",
        title=f"{where.dataset}, {NORM_SYMBOLS[where.norm]} (ε = {budget(where.eps)}), {where.threat} box, "
        f"{attack.get(found.attack, found.attack)}",
        caption=f"Accuracy in % and difference in points on {count(found.images, 'test image')}. "
        f"Trained: {found.trained}.",
        measure="accuracy",
        heads=[("", head) for head in ("mean ± std", "95 % interval", *(f"seed {seed}" for seed in seeds))],
        rows=[(label, [*texts, *(own.get(seed, "–") for seed in seeds)]) for label, texts, own in rows],
    )


def _mean(accuracy: Accuracy) -> str:
    mean, std, _ = accuracy.summary
    return points(mean) if std is None else f"{points(mean)} ± {points(std)}"


def _points(values: dict[int, float]) -> dict[int, str]:
    return {seed: points(value) for seed, value in values.items()}


def cautions(found: Sequence[Comparison]) -> list[str]:
    """Return what the intervals cover and what they do not, in a sentence or two each."""
    single = [
        each.defense for pair in found for each in (pair.first, pair.second) if each.summary.std is None
    ]
    few = any(1 < each.summary.n < 5 for pair in found for each in (pair.first, pair.second))
    apart = any(not each.matched for each in found)
    notes = [
        "An accuracy's interval (Wilson) is about other images like these, with the models as they are; "
        "the difference's (paired bootstrap) is about other trainings too; McNemar's exact p is about "
        "the two models of one seed."
    ]
    if single:
        names = ", ".join(dict.fromkeys(single))
        notes.append(f"A single seed ({names}) does not show how much another training would differ.")
    if few:
        notes.append("Two to four seeds show too little of the spread of training: intervals are too narrow.")
    if any(UNKNOWN in each.trained for each in found):
        notes.append(
            "Epochs are unknown where no card of the training is in the store, as for given weights."
        )
    if apart:
        notes.append("Where the seeds of the two differ, they are drawn apart, not as pairs.")
    if len(found) > 1:
        notes.append(_among_many(found))
    return notes


def _among_many(found: Sequence[Comparison]) -> str:
    """Say which claims remain if all must hold at once."""
    kept = [each for each in found if side(each.wide)]
    said = "; ".join(
        f"{each.attack} {NORM_SYMBOLS[each.where.norm]} {each.where.threat} box {span(each.wide)}"
        for each in kept
    )
    return (
        f"{len(found)} comparisons: at 95 % each, about one in twenty misleads by chance. "
        f"At 95 % for all of them together (Bonferroni), a difference is shown in "
        f"{said or 'none of them'}."
    )


def to_dict(found: Comparison) -> dict[str, Any]:
    """Return a dict for JSON; accuracies in percent, differences in points."""
    return {
        **vars(found.where),
        "attack": found.attack,
        "union": list(found.union),
        "images": found.images,
        "first": _accuracy_dict(found.first),
        "second": _accuracy_dict(found.second),
        "difference": found.difference._asdict(),
        "matched_seeds": found.matched,
        "trained_alike": False if found.unlike else None if UNKNOWN in found.trained else True,
        "simultaneous": found.wide._asdict(),
        "mcnemar": {str(seed): test._asdict() for seed, test in found.tests.items()},
        "claim": found.claim,
    }


def _accuracy_dict(accuracy: Accuracy) -> dict[str, Any]:
    mean, std, _ = accuracy.summary
    return {
        "defense": accuracy.defense,
        "mean": mean,
        "std": std,
        **accuracy.interval._asdict(),
        "per_seed": {str(seed): value for seed, value in accuracy.per_seed.items()},
        "epochs": {str(s): each._asdict() if each else None for s, each in accuracy.trained.items()},
    }


def to_csv(found: Sequence[Comparison]) -> str:
    """Return CSV, a line per comparison; seeds as SEED:VALUE, McNemar as SEED:ONLY-FIRST/ONLY-SECOND/P."""
    return csv_text(COLUMNS, map(_line, found))


def _line(found: Comparison) -> list[object]:
    where = found.where
    head = [where.dataset, where.norm, f"{where.eps:.6g}", where.threat, found.attack]
    sides = [field for each in (found.first, found.second) for field in _accuracy_fields(each)]
    numbers = map(number, (*found.difference, found.wide.low, found.wide.high))
    tests = (f"{s}:{t.only_first}/{t.only_second}/{t.p:.6g}" for s, t in found.tests.items())
    return [
        *head,
        " ".join(found.union),
        found.images,
        *sides,
        *numbers,
        _seeds(found.first),
        _seeds(found.second),
        " ".join(tests),
        *(column(each.trained, kind) for each in (found.first, found.second) for kind in (0, 1)),
        found.claim,
    ]


def _accuracy_fields(accuracy: Accuracy) -> list[str]:
    mean, std, _ = accuracy.summary
    low, high = accuracy.interval
    return [accuracy.defense, *map(number, (mean, std, low, high))]


def _seeds(accuracy: Accuracy) -> str:
    return " ".join(f"{seed}:{value:.4f}" for seed, value in accuracy.per_seed.items())
