"""What the papers print, and the layouts read off it."""

import re
from collections import Counter
from pathlib import Path

import pytest

from robustness_bench.attacks.registry import NORMS, SETS, attack_names, attack_presets
from robustness_bench.benchmark.data import DATASETS
from robustness_bench.benchmark.plan.protocol import THREATS
from robustness_bench.benchmark.report.literature.citations import bibtex, references
from robustness_bench.benchmark.report.literature.published import (
    Axis,
    Published,
    contradictions,
    layout,
    printed_name,
    published,
)
from robustness_bench.benchmark.report.paper.namid import NAMID
from robustness_bench.defenses.detectors.registry import system_presets
from robustness_bench.defenses.registry import defense_presets

ALL = ("standard", "wmim", "namid", "trades", "namid-t", "mart", "namid-m")


def at(table: str, dataset: str, group: str, column: str, row: str) -> Published:
    source = published("magnet" if table.startswith("magnet") else "namid")
    (found,) = [f for f in source if (f.table, *f.place) == (table, dataset, group, column, row)]
    return found


def test_every_figure_is_there_under_names_we_have() -> None:
    figures = published("namid")
    assert Counter(f.table for f in figures) == {"1": 126, "2": 12, "3": 70, "4": 56, "5": 30, "6": 24}
    assert {f.dataset for f in figures} <= set(DATASETS)
    assert {f.group for f in figures} == set(NORMS)
    assert {f.column for f in figures} <= set(attack_names())
    assert {f.row for f in figures} <= set(defense_presets())
    assert {f.threat for f in figures} == set(THREATS)
    assert all((f.std is None) == (f.table in "12") for f in figures)


def test_figures_read_by_hand() -> None:
    assert at("1", "cifar10", "l2", "ddn", "namid-m").mean == 35.76
    assert at("1", "cifar10", "l2", "ddn", "namid-m").std is None
    printed = at("3", "tiny-imagenet", "linf", "fwa-40", "namid-t")
    assert (printed.mean, printed.std, printed.threat) == (14.91, 0.41, "white")
    printed = at("6", "tiny-imagenet", "l2", "ddn", "wmim")
    assert (printed.mean, printed.std, printed.threat) == (30.25, 0.35, "black")


def test_tables_agree_but_for_one_figure() -> None:
    said = contradictions(published("namid"))
    first = at("1", "tiny-imagenet", "linf", "aa", "trades")
    third = at("3", "tiny-imagenet", "linf", "aa", "trades")
    assert said == {
        first: "the paper prints 12.36 in Table 1 and 12.63 in Table 3",
        third: "the paper prints 12.63 in Table 3 and 12.36 in Table 1",
    }


def test_printed_names() -> None:
    assert (printed_name("cifar10"), printed_name("tiny-imagenet")) == ("CIFAR-10", "Tiny-ImageNet")


def test_layout_of_table_1() -> None:
    shape = NAMID.layout("1")
    linf = ("none", "pgd-40", "aa", "fwa-40", "ti-dim")
    l2 = ("none", "pgd-40", "cw", "ddn")
    assert shape.columns == tuple(Axis("linf", a) for a in linf) + tuple(Axis("l2", a) for a in l2)
    assert tuple(row.key for row in shape.rows) == ALL
    assert [row.group for row in shape.rows] == ["standard"] * 3 + ["trades"] * 2 + ["mart"] * 2
    assert (shape.threat, shape.datasets, shape.spread) == ("white", ("cifar10", "tiny-imagenet"), False)


@pytest.mark.parametrize(
    ("number", "threat", "datasets", "rows", "norm", "columns", "spread"),
    [
        ("2", "black", 1, 3, "linf", 4, False),
        ("3", "white", 2, 7, "linf", 5, True),
        ("4", "white", 2, 7, "l2", 4, True),
        ("5", "black", 2, 3, "linf", 5, True),
        ("6", "black", 2, 3, "l2", 4, True),
    ],
)
def test_layouts_of_the_others(
    number: str, threat: str, datasets: int, rows: int, norm: str, columns: int, spread: bool
) -> None:
    shape = NAMID.layout(number)
    assert (shape.threat, shape.spread, len(shape.datasets)) == (threat, spread, datasets)
    assert [row.key for row in shape.rows] == list(ALL[:rows])
    assert ({column.group for column in shape.columns}, len(shape.columns)) == ({norm}, columns)


def test_a_table_shows_its_own_data_sets_and_those_the_paper_never_had() -> None:
    known = {"cifar10", "tiny-imagenet"}
    second = NAMID.layout("2")
    assert second.shown(["cifar10", "tiny-imagenet"], known) == ["cifar10"]
    assert second.shown(["tiny-imagenet", "digits"], known) == ["digits"]
    assert second.shown(["tiny-imagenet"], known) == ["tiny-imagenet"]
    assert NAMID.layout("1").shown(["tiny-imagenet", "digits"], known) == ["tiny-imagenet", "digits"]


def test_the_detectors_tables_have_a_layout_but_are_not_offered() -> None:
    figures = published("magnet")
    assert Counter(f.table for f in figures) == {"magnet-1": 54, "magnet-2": 54}
    assert at("magnet-1", "mnist", "mi-magnet", "ead-en", "15").mean == 41.8
    assert at("magnet-2", "cifar10", "magnet", "cw-l2", "20").mean == 48.0
    shape = layout("magnet-1", figures)
    assert [row.key for row in shape.rows] == [str(kappa) for kappa in range(0, 45, 5)]
    assert [axis.group for axis in shape.columns] == ["magnet"] * 3 + ["mi-magnet"] * 3
    assert NAMID.numbers == ("1", "2", "3", "4", "5", "6")


def test_the_page_names_the_contradictions() -> None:
    page = (Path(__file__).parents[3] / "results" / "published" / "README.md").read_text(encoding="utf-8")
    for figure in contradictions(published("namid")):
        assert f"{figure.mean:.2f} in Table {figure.table}" in page


def test_every_paper_that_a_row_or_column_names_can_be_cited() -> None:
    """By its number on arXiv or OpenReview; sources without a number name no paper."""
    attacks = [preset for each in SETS for preset in attack_presets(each).values()]
    sources = {preset.source for preset in defense_presets().values() if preset.group != "plugins"}
    sources |= {preset.source for preset in system_presets().values() if preset.group != "plugins"}
    sources |= {preset.source for preset in attacks if preset.attack.startswith("attacks.")}
    for source in sources:
        named = re.findall(r"arXiv:[\d.]+\d|openreview \w+", source)
        assert bibtex(source).count("@") == len(set(named)), source
        assert named or not re.search(r"\bet al\.|[A-Z]\w+ and [A-Z]\w+ 20", source), source
    assert "Mutual Information Estimation" in bibtex(defense_presets()["namid"].source)
    assert bibtex("natural training") == ""


def test_references_are_of_what_is_named_and_stand_once() -> None:
    found = references({"namid", "trades", "magnet", "of a stranger"}, {"pgd-40", "aa", "aa-fast", "ti-dim"})
    keys = re.findall(r"^@\w+\{(\w+),", found, re.MULTILINE)
    own = ["zhou2022", "zhang2019", "meng2017", "lu2018"]
    assert keys == [*own, "madry2018", "croce2020", "dong2019", "xie2019"]
