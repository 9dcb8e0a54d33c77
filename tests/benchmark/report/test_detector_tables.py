"""The detectors' CSV files and the tables of a data set."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.report.detectors.csv import (
    COLUMNS,
    DETECTOR_COLUMNS,
    detections_csv,
    detectors_csv,
)
from robustness_bench.benchmark.report.detectors.lines import detection_lines
from robustness_bench.benchmark.report.detectors.rates import UNION, detector_lines
from robustness_bench.benchmark.report.detectors.store import detections, validation_scores
from robustness_bench.benchmark.report.literature.published import curves, published
from robustness_bench.benchmark.report.publish import detection_tables, publish_detections
from robustness_bench.benchmark.report.rendering.formats import to_text
from robustness_bench.benchmark.report.rendering.table import Row, Table
from robustness_bench.benchmark.statistics import wilson
from robustness_bench.benchmark.store.detections import Detection
from tests.benchmark.report.detections import HALF, detection, flagging, natural, notes_of, read, texts
from tests.benchmark.report.test_report import check_golden


def a_store() -> list[Detection]:
    """Two seeds of MagNet and of a union, attacked obliviously at two κ, and MagNet adaptively."""
    records = []
    for seed in range(2):
        for system, scores in (
            ("magnet", {"a": HALF}),
            ("mi-magnet", {"a": HALF, "mi-literal": flagging(5)}),
        ):
            poor = {"mi-literal": "generator <b> & 5 % inadequate"} if system == "mi-magnet" else {}
            common: dict[str, Any] = {"scores": scores, "remarks": poor}
            records.append(natural(system, seed, reformed=[1] * (9 + seed) + [0] * (1 - seed), **common))
            for attack in ("cw", "ead-l1", "ead-en"):
                records.append(detection(system, attack, 0, seed, reformed=[0] * 7 + [1] * 3, **common))
                records.append(detection(system, attack, 10, seed, reformed=[0] * 10, **common))
        records.append(
            detection("magnet", "adaptive", 1, seed, setting="white", scores={"a": flagging(seed)})
        )
    return records


SCORES = {f"{name}-{seed}": np.arange(1, 6, dtype=float) for name in ("a", "mi-literal") for seed in range(2)}


def test_a_cell_has_a_line_over_its_seeds_and_one_for_each() -> None:
    rows = read(detections_csv(detection_lines(a_store())))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 3 * (2 * 7 + 1)
    own = [row for row in rows if (row["system"], row["attack"], row["confidence"]) == ("magnet", "cw", "10")]
    assert [row["seed"] for row in own] == ["all", "0", "1"]
    assert (own[0]["both"], own[0]["std"], own[0]["seeds"], own[0]["n"]) == ("50.0000", "0.0000", "2", "10")
    low, high = wilson(5, 10)
    for row in own:
        assert (row["low"], row["high"]) == (f"{100 * low:.4f}", f"{100 * high:.4f}")
    white = next(row for row in rows if row["setting"] == "white")
    assert (white["both"], white["none"], white["attack_success"]) == ("10.0000", "0.0000", "100.0000")
    assert (own[0]["beta"], {row["beta"] for row in rows if row["attack"] == "ead-l1"}) == ("", {"0.1"})
    assert {row["status"] for row in rows if row["system"] == "mi-magnet" and row["seed"] == "all"} == {
        "mi-literal: generator <b> & 5 % inadequate"
    }


def test_a_failed_seed_is_an_error_in_both_files() -> None:
    records = [detection(), detection(seed=1, error="E: x")]
    rows = read(detections_csv(detection_lines(records)))
    assert [row["both"] for row in rows] == ["ERROR", "50.0000", "ERROR"]
    assert [row["status"] for row in rows] == ["E: x", "ok", "error"]
    rows = read(detectors_csv(detector_lines(records, {})))
    assert [row["tpr"] for row in rows[:3]] == ["", "50.0000", "ERROR"]
    assert rows[0]["remark"] == "E: x"


def test_every_line_of_detectors_has_its_false_positives() -> None:
    rows = read(detectors_csv(detector_lines(a_store(), SCORES)))
    assert tuple(rows[0]) == DETECTOR_COLUMNS
    place = ("mi-magnet", "mi-literal", "cw", "10")
    own = [r for r in rows if (r["system"], r["detector"], r["attack"], r["confidence"]) == place]
    assert [row["seed"] for row in own] == ["all", "0", "1"]
    assert [row["fpr"] for row in own] == ["10.0000"] * 3
    assert [row["threshold"] for row in own] == ["", "5", "5"]
    assert (own[0]["nominal_fpr"], own[0]["tpr"], own[0]["auroc"]) == ("20.0000", "10.0000", "0.5000")
    assert own[0]["remark"] == "generator <b> & 5 % inadequate"
    assert [row["successful"] for row in own] == ["20", "10", "10"]
    unions = [row for row in rows if row["detector"] == UNION and row["system"] == "mi-magnet"]
    assert {row["nominal_fpr"] for row in unions} == {"40.0000"}


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    records = a_store()
    files = []
    for name in ("one", "two"):
        publish_detections(tmp_path / name, records, SCORES, {"mnist": "mnist"})
        found = sorted((tmp_path / name).rglob("*.*"))
        files.append({file.name: file.read_bytes() for file in found})
        random.Random(0).shuffle(records)
    assert files[0] == files[1]
    assert sorted(files[0]) == [
        *(
            "decomposition-mnist.html",
            "decomposition-mnist.tex",
            "detections.csv",
            "detectors-mnist-kappa.html",
        ),
        *("detectors-mnist-kappa.tex", "detectors-mnist.html", "detectors-mnist.tex", "detectors.csv"),
    ]


def test_tables_are_of_what_is_shown_the_files_of_everything(tmp_path: Path) -> None:
    other = detection(version="-old")
    made = publish_detections(tmp_path, [*a_store(), other], SCORES, {"mnist": "mnist"}, shown=a_store())
    assert [table.name for table in made] == [
        "detectors-mnist",
        "detectors-mnist-kappa",
        "decomposition-mnist",
    ]
    assert [table.name for table in made if table.measure == "accuracy"] == ["detectors-mnist"]
    assert other.family in (tmp_path / "detections.csv").read_text()
    with pytest.raises(StoreError, match="two settings"):
        publish_detections(tmp_path, [*a_store(), other], SCORES, {"mnist": "mnist"})
    broken = detection("mi-magnet", "cw", 20, scores={"a": flagging(), "b": flagging()})
    with pytest.raises(StoreError, match="loses 5 of the images"):
        publish_detections(tmp_path, [*a_store(), detection(confidence=20), broken], SCORES, {})
    assert publish_detections(tmp_path / "none", [], {}, {"mnist": "mnist"}) == []
    assert not (tmp_path / "none").exists()


def tables_of(records: Sequence[Detection]) -> dict[str, Table]:
    return {table.name: table for table in detection_tables(records, SCORES, {"mnist": "mnist"})}


def row_of(table: Table, label: str, block: str = "") -> Row:
    (row,) = [each for each in table.rows if each.label == label and each.block == block]
    return row


def test_the_worst_kappa_is_the_headline() -> None:
    table = tables_of(a_store())["detectors-mnist"]
    alone = row_of(table, "Classifier alone")
    assert texts(alone)[3] == f"0.0 [0.0, {100 * wilson(0, 10).high:.1f}] κ 0"
    magnet = texts(row_of(table, "MagNet"))
    low, high = (100 * each for each in wilson(5, 10))
    assert magnet[3:6] == [f"50.0 [{low:.1f}, {high:.1f}] κ 10"] * 3  # 80 at κ 0
    assert magnet[2] == "20.00"
    assert magnet[1] == f"50.0 [{low:.1f}, {high:.1f}]"
    assert magnet[0].startswith("45.0 [")  # five of ten are flagged, one of seed 0 is reformed wrongly
    low, high = (100 * each for each in wilson(1, 10))
    assert magnet[6] == f"90.0 [{100 - high:.1f}, {100 - low:.1f}]"
    assert magnet[7] == "–"
    assert "at which least is withstood" in table.caption
    assert "(0, 10)" in table.caption
    assert (
        "10 under oblivious attacks, 10 under adaptive ones; 10 natural ones; 2 training seeds"
        in table.caption
    )


def test_rows_that_were_not_attacked_adaptively_make_no_claim() -> None:
    table = tables_of(a_store())["detectors-mnist"]
    cells = row_of(table, "MI-MagNet (literal)").cells
    assert [cell.text for cell in cells[6:]] == ["–", "–"]
    for cell in cells[6:]:
        assert notes_of(table, *cell.marks) == ["oblivious only: not a security claim"]
    assert row_of(table, "MagNet").cells[7].marks == ()
    assert notes_of(table, *cells[0].marks) == ["mi-literal: generator <b> & 5 % inadequate"]
    assert "it is not a security claim" in table.caption


def test_a_worst_kappa_among_fewer_says_so() -> None:
    records = [
        r
        for r in a_store()
        if (r.spec["system"], r.spec["attack"], r.spec["confidence"]) != ("magnet", "cw", 10)
    ]
    failed = detection("mi-magnet", "ead-l1", 10, 2, error="E: x", scores={"a": HALF})
    records.append(failed)
    table = tables_of(records)["detectors-mnist"]
    cell = row_of(table, "MagNet").cells[3]
    assert cell.text.endswith("κ 0")
    assert notes_of(table, *cell.marks) == ["without κ 10, which failed or did not run"]
    cell = row_of(table, "MI-MagNet (literal)").cells[4]
    assert cell.text.endswith("κ 0")
    assert notes_of(table, *cell.marks) == ["without κ 10, which failed or did not run"]
    every = tables_of(records)["detectors-mnist-kappa"]
    cell = row_of(every, "MI-MagNet (literal)", "EAD-L1").cells[1]
    assert (cell.text, cell.error) == ("ERROR", "E: x")
    assert notes_of(every, *cell.marks) == ["failed: E: x"]


def test_a_system_that_failed_everywhere_is_an_error() -> None:
    table = tables_of(
        [
            natural(error="E: n"),
            detection(error="E: a"),
            detection(attack="adaptive", setting="white", error="E: w"),
        ]
    )["detectors-mnist"]
    cells = row_of(table, "MagNet").cells
    assert [cell.text for cell in cells] == ["ERROR", "–", "–", "ERROR", "ERROR", "–"]
    assert [cell.error for cell in cells] == ["E: n", "", "", "E: a", "E: w", ""]
    for cell in cells[4:]:
        assert notes_of(table, *cell.marks)[-1] == "oblivious only: not a security claim"


def test_every_kappa_and_attack() -> None:
    table = tables_of(a_store())["detectors-mnist-kappa"]
    assert [column.label for column in table.columns] == ["0", "10"]
    assert list(dict.fromkeys(row.block for row in table.rows)) == ["CW", "EAD-L1", "EAD-EN"]
    assert texts(row_of(table, "MagNet", "EAD-L1")) == ["80.0 ± 0.0", "50.0 ± 0.0"]
    assert texts(row_of(table, "MI-MagNet (literal)", "CW")) == ["90.0 ± 0.0", "60.0 ± 0.0"]
    assert texts(row_of(table, "Classifier alone", "CW")) == ["0.0 ± 0.0", "0.0 ± 0.0"]
    low, high = wilson(5, 10)
    assert (
        f"The widest is ± {50 * (high - low):.1f} points. Oblivious only: not a security claim."
        in table.caption
    )


def test_what_each_part_withstands_beside_the_published_curves() -> None:
    table = tables_of(a_store())["decomposition-mnist"]
    assert (table.heading, len(table.columns), len(table.rows)) == ("κ", 8, 6)
    found = texts(row_of(table, "10", "EAD-EN"))
    assert found == ["0.0 ± 0.0", "50.0 ± 0.0", "0.0 ± 0.0", "50.0 ± 0.0", "0.0", "7.2", "5.2", "11.7"]
    found = texts(row_of(table, "0", "CW"))
    assert found == ["0.0 ± 0.0", "50.0 ± 0.0", "30.0 ± 0.0", "80.0 ± 0.0", "0.0", "52.8", "98.5", "98.7"]
    assert "not a security claim" in table.caption
    (alone,) = [
        each
        for each in detection_tables([detection(dataset="digits")], {}, {"digits": "digits"})
        if each.name.startswith("decomposition")
    ]
    assert [column.group for column in alone.columns] == ["Ours"] * 4
    assert not [name for name in tables_of([detection("mi-magnet")]) if name.startswith("decomposition")]


def test_the_curves_are_those_of_the_paper() -> None:
    """As the specification prints them, κ from 0 by 5 or 10."""
    expected = {
        ("mnist", "cw-l2"): (
            "52.8 64.5 74.8 83.3 89.9 93.6 96.2 97.7 98.5",
            "98.5 92.2 68.0 36.0 12.5 3.3 .4 .1 0",
        ),
        ("mnist", "ead-l1"): ("5.2 7.6 11.8 15.6 19.7 26.1 34.6 41.1 47.8", "78.4 29.5 6.8 .9 0 0 0 0 0"),
        ("mnist", "ead-en"): ("1.9 3.6 7.2 9.4 12.1 16.8 22.6 28.6 33.2", "77.9 24.4 5.2 .4 0 0 0 0 0"),
        ("cifar10", "cw-l2"): (
            "14.1 28.7 48.0 62.9 72.3 81.4 89.6 94.6 97.3",
            "79.9 50.0 26.6 13.9 5.8 3.6 1.9 .8 .4",
        ),
        ("cifar10", "ead-l1"): (
            "7.2 13.6 26.8 37.1 48.4 61.0 73.8 84.6 90.6",
            "70.0 25.1 7.4 2.0 1.2 .4 .1 .1 0",
        ),
        ("cifar10", "ead-en"): (
            "8.4 14.0 26.8 38.4 45.3 60.0 71.7 81.5 90.4",
            "70.2 25.1 7.3 2.4 .8 .2 .1 .1 0",
        ),
    }
    points = {(each.dataset, each.attack, each.variant, each.kappa): each for each in curves()}
    for (dataset, attack), (det, ref) in expected.items():
        step = 5 if dataset == "mnist" else 10
        own = [points[dataset, attack, "default", step * index] for index in range(9)]
        assert [each.det for each in own] == [float(value) for value in det.split()]
        assert [each.ref for each in own] == [float(value) for value in ref.split()]
        assert all(max(each.det, each.ref) <= each.both <= each.det + each.ref for each in own)
        assert all(each.none == 0 for each in own)
    jsd = "82.6 49.0 51.1 53.3 55.0 58.8 61.9 66.5 71.1"
    found = [points["mnist", "ead-l1", "jsd", 5 * index].both for index in range(9)]
    assert found == [float(value) for value in jsd.split()]
    assert {each.curve for each in curves()} == {"2a", "2b", "3a", "4g", "4h", "5g", "5h", "6g", "6h"}


def test_the_curves_are_the_magnet_columns_of_the_tables() -> None:
    points = {(each.dataset, each.attack, each.kappa): each for each in curves() if each.variant == "default"}
    for figure in published("magnet"):
        if figure.group == "magnet":
            point = points[figure.dataset, figure.column, float(figure.row)]
            assert abs(point.both - figure.mean) < 0.11, figure


@pytest.mark.parametrize("name", ["detectors-mnist", "detectors-mnist-kappa", "decomposition-mnist"])
def test_golden_of_a_data_set(name: str) -> None:
    check_golden(f"{name}.txt", to_text(tables_of(a_store())[name]))


def test_scores_of_calibrations_are_read_by_their_id(tmp_path: Path) -> None:
    import torch

    from robustness_bench.benchmark.store.cards import save_tensors

    path = tmp_path / "calibrations" / "digits" / "a.safetensors"
    save_tensors(path, {"scores": torch.arange(3, dtype=torch.float64)}, {"id": "abc"})
    (found,) = validation_scores(tmp_path).items()
    assert (found[0], found[1].tolist(), str(found[1].dtype)) == ("abc", [0.0, 1.0, 2.0], "float64")
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="damaged"):
        validation_scores(tmp_path)
    assert detections(tmp_path) == []
