"""The union over attacks, sample by sample."""

import dataclasses

import numpy as np
import pytest

from robustness_bench.benchmark.exchange.hub.cells import task_id
from robustness_bench.benchmark.report.lines.curves import curves
from robustness_bench.benchmark.report.lines.results import Line, flags_by_family, summarize, to_csv
from robustness_bench.benchmark.report.lines.worst_case import worst_case
from robustness_bench.benchmark.store.cells import Record
from tests.benchmark.report.test_report import record


def only(records: list[Record], attack_set: str = "strict") -> Line:
    (line,) = worst_case(records, attack_set)
    return line


def test_a_sample_must_survive_every_attack() -> None:
    """Survivors 0-5 of one and 4-9 of the other: two samples in common, where the least mean is six."""
    records = [
        record("standard", "none", 0, 10),
        record("standard", "pgd-40", 0, 6),
        record("standard", "aa", 0, 6, first=4),
    ]
    line = only(records)
    assert line.per_seed == {0: 20.0}
    assert line.attack == "worst-case"


def test_minimum_norm_attacks_count_within_eps_only() -> None:
    """CW fools all ten; at ε = 0.25 the even ones, at distance 0.4, still stand."""
    records = [record("standard", "none", 0, 10, norm="l2"), record("standard", "cw", 0, 0, norm="l2")]
    assert only(records).per_seed == {0: 50.0}


def test_a_ball_of_its_own_does_not_count() -> None:
    records = [
        record("standard", "none", 0, 10),
        record("standard", "pgd-40", 0, 6),
        record("standard", "fwa-40", 0, 0),
        record("standard", "sta", 0, 0),
    ]
    assert only(records).per_seed == {0: 60.0}


def test_threat_models_budgets_and_sets_stay_apart() -> None:
    records = [
        record("standard", "none", 0, 10),
        record("standard", "none", 0, 10, threat="black"),
        record("standard", "pgd-40", 0, 6),
        record("standard", "pgd-40", 0, 1, threat="black"),
        record("standard", "pgd-40", 0, 2, eps=1.0),
        record("standard", "pgd-40", 0, 3, attack_set="paper"),
    ]
    white, black = sorted(worst_case(records, "strict"), key=lambda line: line.threat, reverse=True)
    assert (white.per_seed, black.per_seed) == ({0: 60.0}, {0: 10.0})
    assert [line.per_seed for line in worst_case(records, "paper")] == [{0: 30.0}]


def test_ensembles_of_surrogates_stay_apart() -> None:
    """In results.csv, and as tasks of the hub; those in bf16 there too."""
    records = [
        record("standard", "none", 0, 10, threat="black"),
        record("standard", "pgd-40", 0, 6, threat="black"),
    ]
    for number, (survivors, precision) in enumerate(((3, "float32"), (2, "bf16"))):
        other = record("standard", "pgd-40", 0, survivors, threat="black", precision=precision)
        spec = other.spec | {"surrogates": ["a:2:0", f"b:2:{number}"]}
        records.append(dataclasses.replace(other, spec=spec, family=f"other{number}"))
    lines = [*summarize(records), *worst_case(records, "strict")]
    worst = {line.surrogates: line.per_seed for line in lines if line.attack == "worst-case"}
    assert worst == {(): {0: 60.0}, ("a:2:0", "b:2:0"): {0: 30.0}, ("a:2:0", "b:2:1"): {0: 20.0}}
    assert to_csv(lines).count("gradients in bf16; crafted on a:2:0 and b:2:1") == 2
    tasks = [task_id(line) for line in lines]
    assert len(set(tasks)) == len(tasks) == 7
    assert "digits-black-linf-0.5-pgd-40-bf16-on-a-2-0-b-2-1-10" in tasks


@pytest.mark.parametrize("error", ["", "Traceback\nValueError: planted"])
def test_what_one_defense_faced_every_defense_must_have_faced(error: str) -> None:
    records = [
        record("standard", "none", 0, 10),
        record("standard", "pgd-40", 0, 6),
        record("standard", "aa", 0, 5),
        record("namid", "none", 0, 10),
        record("namid", "pgd-40", 0, 9),
    ]
    if error:
        records.append(record("namid", "aa", 0, 0, error=error))
    lines = {line.defense: line for line in worst_case(records, "strict")}
    assert lines["standard"].bounded is not None
    assert lines["namid"].bounded is None
    assert lines["namid"].missing is not bool(error)
    assert lines["namid"].error == "no worst case without aa (seed 0)"


def test_other_samples_are_refused() -> None:
    other = record("standard", "aa", 0, 6)
    shifted = dataclasses.replace(other, rows=other.rows | {"sample": np.arange(10) + 1})
    with pytest.raises(ValueError, match="same images in the same order"):
        worst_case([record("standard", "none", 0, 10), record("standard", "pgd-40", 0, 6), shifted], "strict")


def test_curves_read_minimum_norm_attacks_at_every_eps() -> None:
    records = [
        record("standard", "none", 0, 9, norm="l2"),
        record("standard", "cw", 0, 0, norm="l2"),
        record("standard", "pgd-40", 0, 6, norm="l2"),
        record("standard", "pgd-40", 0, 4, norm="l2", eps=0.5),
        record("standard", "aa", 0, 3, norm="l2"),
    ]
    lines = curves(records, {"linf": [], "l2": [0.1, 0.25, 0.5]}).splitlines()[1:]
    found = {(line.split(",")[4], line.split(",")[5]): float(line.split(",")[6]) for line in lines}
    assert found == {
        ("cw", "0"): 90.0,
        ("cw", "0.1"): 100.0,
        ("cw", "0.25"): 50.0,
        ("cw", "0.5"): 0.0,
        ("pgd-40", "0"): 90.0,
        ("pgd-40", "0.25"): 60.0,
        ("pgd-40", "0.5"): 40.0,
    }


def test_a_transfer_that_does_more_than_the_gradient_is_flagged() -> None:
    records = [
        record("standard", "pgd-40", 0, 9),
        record("standard", "pgd-40", 0, 2, threat="black"),
        record("namid", "pgd-40", 0, 4),
        record("namid", "pgd-40", 0, 9, threat="black"),
        record("namid", "none", 0, 9, flags=("randomised",)),
    ]
    raised = {family: flags for family, flags in flags_by_family(records).items() if flags}
    assert raised == {
        records[1].family: ("black-beats-white",),
        records[4].family: ("randomised",),
    }
