"""Names of classes in records: ours stay what they were, others' are theirs."""

import pytest

from robustness_bench.attacks.class_names import load, recorded
from robustness_bench.attacks.pgd import PGD
from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.sandbox.remote_attack import SubmittedAttack
from robustness_bench.defenses.detectors.controls import RandomScore
from robustness_bench.defenses.registry import defense_presets


@pytest.mark.parametrize(
    ("imported", "name"),
    [
        ("robustness_bench.attacks.pgd:PGD", "attacks.pgd:PGD"),
        ("robustness_bench.defenses.standard:Standard", "defenses.standard:Standard"),
        ("attacks.pgd:PGD", "outside:attacks.pgd:PGD"),
        ("benchmark:Mine", "outside:benchmark:Mine"),
        ("attacks_of_mine:Mine", "attacks_of_mine:Mine"),
        ("bench_plugin_mine:Mine", "bench_plugin_mine:Mine"),
    ],
)
def test_recorded_names(imported: str, name: str) -> None:
    assert recorded(imported) == name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("attacks.pgd:PGD", PGD),
        ("defenses.detectors.controls:RandomScore", RandomScore),
        ("benchmark.submission.remote_attack:SubmittedAttack", SubmittedAttack),  # where it once was
        ("benchmark.sandbox.remote_attack:SubmittedAttack", SubmittedAttack),
        ("collections:Counter", __import__("collections").Counter),
    ],
)
def test_a_recorded_name_is_found(name: str, kind: type) -> None:
    assert load(name) is kind


def test_a_name_from_outside_is_not_ours() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"benchmark\.nowhere"):
        load("outside:benchmark.nowhere:Mine")


def test_ids_hold_the_names_of_the_first_records() -> None:
    assert attack_presets("strict")["pgd-40"].identity("linf", 0.1)["attack"] == "attacks.pgd:PGD"
    assert defense_presets()["standard"].identity() == {"defense": "defenses.standard:Standard"}
    assert defense_presets()["namid-m"].identity()["base"]["defense"] == "defenses.mart:MART"
