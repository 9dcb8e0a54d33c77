"""What a submitted attack did to the worst cases, from records written by hand."""

import dataclasses

from robustness_bench.benchmark.report.lines.worst_case import SUBMITTED
from robustness_bench.benchmark.report.rendering.table import Table
from robustness_bench.benchmark.store.cells import Record
from robustness_bench.benchmark.submit.attacks.campaign import campaign_tables
from tests.benchmark.report.test_report import record

NATURAL = [record("standard", "none", seed, 10) for seed in (0, 1)]
FACED = [record("standard", "pgd-40", seed, 6) for seed in (0, 1)]


def sent(seed: int, survivors: int, first: int = 0, *, defense: str = "standard", error: str = "") -> Record:
    """A cell of the submitted attack."""
    cell = record(defense, "pgd-40", seed, survivors, first=first, error=error)
    spec = {**cell.spec, "attack": "submitted-mine", "kind_of_attack": SUBMITTED, "parameters": {}}
    return dataclasses.replace(cell, id=f"sent-{defense}-{seed}", family=f"sent-{defense}", spec=spec)


def wanted(*cells: Record, natural: list[Record] = NATURAL) -> dict[str, Record]:
    by_model = {each.spec["parents"]["model"]: each for each in natural}
    return {cell.id: by_model[cell.spec["parents"]["model"]] for cell in cells}


def rows(table: Table) -> dict[str, list[str]]:
    return {row.label: [cell.text for cell in row.cells] for row in table.rows}


def test_the_union_is_per_sample_and_seed() -> None:
    """Of images 0 to 5 that stand, seed 0 loses 0 and 1, seed 1 none: it fools only what had fallen."""
    ours = [sent(0, 8, first=2), sent(1, 6)]
    (table,) = campaign_tables("Mine", wanted(*ours), [*NATURAL, *FACED, *ours])
    assert rows(table) == {"Standard AT": ["60.0 ± 0.0", "70.0 ± 14.1", "50.0 ± 14.1"]}
    assert table.title == "Mine, digits"
    assert table.columns[0].group == "L∞ (ε = 0.5)"
    assert "on 10 test images" in table.caption


def test_what_failed_is_an_error_and_lowers_nothing() -> None:
    ours = [sent(0, 0, error="raised"), sent(1, 0, error="raised")]
    (table,) = campaign_tables("Mine", wanted(*ours), [*NATURAL, *FACED, *ours])
    assert rows(table) == {"Standard AT": ["60.0 ± 0.0", "ERROR", "60.0 ± 0.0"]}
    ours[1] = sent(1, 2)
    (table,) = campaign_tables("Mine", wanted(*ours), [*NATURAL, *FACED, *ours])
    assert rows(table)["Standard AT"] == ["60.0 ± 0.0", "20.0 (1 of 2 seeds)", "40.0 ± 28.3"]


def test_earlier_ones_count_before_and_a_row_that_lacks_an_attack_has_no_worst_case() -> None:
    others = [record("trades", "none", 0, 10)]
    earlier = dataclasses.replace(sent(0, 3), id="earlier")
    failed = dataclasses.replace(sent(1, 3, error="raised"), id="failed")
    ours = [sent(0, 2), sent(1, 5), sent(0, 4, defense="trades")]
    told = wanted(*ours, natural=[*NATURAL, *others])
    (table,) = campaign_tables("Mine", told, [*NATURAL, *FACED, *others, earlier, failed, *ours])
    assert rows(table) == {
        "Standard AT": ["45.0 ± 21.2", "35.0 ± 21.2", "35.0 ± 21.2"],
        "TRADES": ["–", "40.0", "–"],
    }


def test_threat_models_have_tables_of_their_own_and_equal_labels_are_told_apart() -> None:
    wide = [dataclasses.replace(each, model_family="wide") for each in NATURAL[:1]]
    wide[0] = dataclasses.replace(
        wide[0], spec={**wide[0].spec, "parents": {"model": "wide"}}, family="wide-none"
    )
    l2 = record("standard", "none", 0, 10, norm="l2")
    told = {"a": NATURAL[0], "b": wide[0], "c": l2}
    tables = campaign_tables("Mine", told, [*NATURAL, *wide, l2])
    assert [table.columns[0].group for table in tables] == ["L2 (ε = 0.25)", "L∞ (ε = 0.5)"]
    assert list(rows(tables[1])) == ["Standard AT (standard-linf)", "Standard AT (wide)"]
