"""Seeds that stand out, and those that must not."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from robustness_bench.benchmark.report.lines.collapse import collapsed_seeds
from robustness_bench.benchmark.store.cells import Record
from tests.benchmark.report.test_report import record

FAMILY = "standard-linf"


def cell(attack: str, seed: int, accuracy: float, *, images: int = 10_000, **changes: Any) -> Record:
    """A cell with this accuracy in percent: the first images withstand."""
    # the factory knows ten images only
    defense, spec = changes.pop("defense", "standard"), changes.pop("spec", {})
    base = record(defense, attack, seed, 0, **changes)
    kept = np.arange(images) < round(accuracy * images / 100)
    rows = {
        "sample": np.arange(images),
        "label": np.ones(images, int),
        "clean_prediction": np.where(kept, 1, 0) if attack == "none" else np.ones(images, int),
        "adversarial_prediction": np.where(kept, 1, 0),
        base.spec["norm"]: np.zeros(images),
    }
    rows = {} if base.status == "error" else rows
    return dataclasses.replace(base, rows=rows, spec=base.spec | {"n_examples": images} | spec)


def cells(attack: str, *accuracies: float, **changes: Any) -> list[Record]:
    return [cell(attack, seed, accuracy, **changes) for seed, accuracy in enumerate(accuracies)]


def seeds(records: list[Record]) -> dict[str, list[int]]:
    return {family: list(found) for family, found in collapsed_seeds(records).items()}


def test_the_collapse_of_elle_is_pointed_out() -> None:
    """As FAST's benchmark found it: AA 47.97, 46.12 and 3.30, where PGD-50 still says 37.06."""
    records = [*cells("aa", 47.97, 46.12, 3.30), *cells("pgd-40", 50.30, 49.27, 37.06)]
    assert collapsed_seeds(records) == {
        FAMILY: {
            2: "3.3 % under aa (L∞, ε = 0.5, white box), where the other seeds have 46.1 to 48.0 %; "
            "37.1 % withstand pgd-40 but 3.3 % aa (L∞, ε = 0.5): PGD finds too little"
        }
    }


@pytest.mark.parametrize(
    "accuracies",
    [
        (44, 39, 54),
        (32, 20, 39),
        (25, 21, 35),
        (69, 58),
        (70, 50, 53),
        (41, 45, 45),
        (84, 93),
        (50,),
        (0, 0, 0),
    ],
)
@pytest.mark.parametrize("attack", ["aa", "none"])
def test_ordinary_seeds_are_left_alone(accuracies: tuple[float, ...], attack: str) -> None:
    """Those of digits at 100 images, AA 45.7 ± 7.6 among them."""
    assert collapsed_seeds(cells(attack, *accuracies, images=100)) == {}


@pytest.mark.parametrize(
    ("accuracies", "found"),
    [
        ((50, 50, 39.9), [2]),
        ((50, 50, 40.1), []),  # not ten points
        ((48, 52, 38.2), []),  # not four times 1.4826 × 2
        ((48, 52, 38.0), [2]),
        ((50, 50, 61), []),  # above
        ((50, 51, 52, 5, 6), [3, 4]),  # a second odd one does not hide the first
        ((50, 29.9), [1]),
        ((50, 30.1), []),
        ((29.9, 50), [0]),
    ],
)
def test_both_gap_and_deviations_must_be_passed(accuracies: tuple[float, ...], found: list[int]) -> None:
    assert seeds(cells("aa", *accuracies)) == ({FAMILY: found} if found else {})


def test_of_two_seeds_the_lower_is_named() -> None:
    assert collapsed_seeds(cells("none", 95, 60)) == {
        FAMILY: {1: "the seeds differ by 35.0 points without an attack: 60.0 % is the lower"}
    }


def test_few_images_say_little() -> None:
    """At 100 images the standard error of 50 % is 5 points."""
    assert seeds(cells("aa", 50, 50, 31, images=100)) == {}
    assert seeds(cells("aa", 50, 50, 29, images=100)) == {FAMILY: [2]}
    assert seeds(cells("aa", 50, 25, images=64)) == {}


def test_what_is_ordinary_for_an_attack_is_no_collapse() -> None:
    """Seeds of the other defenses lie 6 points apart: 13 points are within 4 × 1.4826 × 6."""
    odd = cells("aa", 50, 50, 37)
    others = [*cells("aa", 40, 46, 52, defense="trades"), *cells("aa", 30, 36, 42, defense="mart")]
    assert seeds(odd) == {FAMILY: [2]}
    assert seeds([*odd, *others]) == {}
    assert seeds([*odd, *others[:3], *cells("aa", 30, 42, defense="mart")]) == {}  # of two seeds: unknown
    elsewhere = [dataclasses.replace(each, spec=each.spec | {"eps": 0.7}) for each in others]
    assert seeds([*odd, *elsewhere]) == {FAMILY: [2]}


def test_the_worst_of_several_attacks_is_told() -> None:
    records = [*cells("none", 95, 95, 80), *cells("aa", 50, 50, 20), *cells("ti-dim", 70, 70, 50)]
    (why,) = collapsed_seeds(records)[FAMILY].values()
    assert why == "20.0 % under aa (L∞, ε = 0.5, white box), where the other seeds have 50.0 to 50.0 %"


def test_black_box_cells_count_among_themselves() -> None:
    records = [*cells("aa", 50, 50, 50), *cells("aa", 80, 80, 60, threat="black")]
    (why,) = collapsed_seeds(records)[FAMILY].values()
    assert "black box" in why


@pytest.mark.parametrize(
    ("pgd", "aa", "found"),
    [
        (10.0, 2.0, True),
        (9.9, 2.0, False),
        (10.0, 2.5, False),
        (60.0, 14.9, True),
        (60.0, 15.0, False),
        (8.0, 0.0, False),
    ],
)
def test_pgd_alone(pgd: float, aa: float, found: bool) -> None:
    assert bool(collapsed_seeds([cell("pgd-40", 0, pgd), cell("aa", 0, aa)])) is found


@pytest.mark.parametrize(
    "other",
    [
        {"norm": "l2"},
        {"threat": "black"},
        {"defense": "namid"},
        {"eps": 0.7},
        {"images": 500},
        {"spec": {"data": "1" * 64}},
        {"error": "Traceback"},
    ],
)
def test_pgd_and_aa_of_different_cells_are_not_compared(other: dict[str, Any]) -> None:
    assert collapsed_seeds([cell("pgd-40", 0, 50), cell("aa", 0, 1, **other)]) == {}
    assert collapsed_seeds([cell("pgd-40", 1, 50), cell("aa", 0, 1)]) == {}
    assert collapsed_seeds([cell("pgd-40", 0, 50, threat="black"), cell("aa", 0, 1, threat="black")]) == {}


def test_only_pgd_and_autoattack_themselves_are_compared() -> None:
    """By what a record says ran, not by how a preset's name begins."""
    assert collapsed_seeds([cell("pgd-40", 0, 50), cell("aa-fast", 0, 1)]) == {}
    for pgd, aa in (("pgd-40", "aa-plus"), ("pgd-dlr", "aa-rand"), ("pgd-margin", "aa")):
        assert list(collapsed_seeds([cell(pgd, 0, 50), cell(aa, 0, 1)])) == [FAMILY]
    other = {"parameters": {"attack": "outside:aa:Mine"}}
    assert collapsed_seeds([cell("pgd-40", 0, 50), cell("aa", 0, 1, spec=other)]) == {}


def test_pgd_alone_by_chance_is_not_told() -> None:
    """Five of ten against none: p = 0.06; six: 0.03."""
    assert collapsed_seeds([cell("pgd-40", 0, 50, images=10), cell("aa", 0, 0, images=10)]) == {}
    assert collapsed_seeds([cell("pgd-40", 0, 60, images=10), cell("aa", 0, 0, images=10)]) != {}


def test_the_order_of_records_decides_nothing() -> None:
    records = [
        *cells("aa", 48, 46, 3),
        *cells("pgd-40", 50, 49, 37),
        *cells("aa", 1, 40, 41, defense="namid"),
    ]
    found = collapsed_seeds(records)
    backwards = collapsed_seeds(records[::-1])
    assert repr(found) == repr(backwards)
    assert list(found) == ["namid-linf", FAMILY]


def test_of_a_model_under_two_norms_the_furthest_is_told() -> None:
    """A naturally trained model is one for both norms."""
    linf = [cell("pgd-40", 0, 50), cell("aa", 0, 1)]
    l2 = [cell("pgd-40", 0, 70, norm="l2"), cell("aa", 0, 1, norm="l2")]
    l2 = [dataclasses.replace(each, model_family=FAMILY) for each in l2]
    for records in ([*linf, *l2], [*l2, *linf]):
        assert collapsed_seeds(records)[FAMILY][0].startswith("70.0 %")
