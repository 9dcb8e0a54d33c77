"""RobustBench's model_info becomes external rows, or says why not."""

import json
from pathlib import Path
from typing import Any

import pytest

from robustness_bench.benchmark.errors import BenchError, StoreError
from robustness_bench.benchmark.submit.board.external import read_external, write_external
from robustness_bench.benchmark.submit.board.model_info import read_model_info
from tests.conftest import Bench

KANG: dict[str, Any] = {
    "link": "https://arxiv.org/abs/2110.12976",
    "name": "Stable Neural ODE for Defending Against Adversarial Attacks\n",
    "authors": "Qiyu Kang, Yang Song, Qinxu Ding, Wee Peng Tay",
    "additional_data": True,
    "number_forward_passes": 1,
    "dataset": "cifar10",
    "venue": "NeurIPS,<br>2021",
    "architecture": "WideResNet-70-16, Neural ODE block",
    "eps": "8/255",
    "clean_acc": "93.73",
    "reported": "71.28",
    "autoattack_acc": "71.28",
    "external": "64.20",
    "footnote": 'Based on Rebuffi2021.<br>See <a href="https://arxiv.org/abs/2002.08347">this</a>.',
    "unreliable": True,
}


def put(
    folder: Path, changed: dict[str, Any] | None = None, *, without: str = "", text: str | None = None
) -> Path:
    path = folder / "cifar10" / "Linf" / "Kang2021Stable.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    tree = {key: value for key, value in (KANG | (changed or {})).items() if key != without}
    path.write_text(json.dumps(tree) if text is None else text)
    return path


def test_a_real_entry(tmp_path: Path) -> None:
    """Field by field, after RobustBench's own file."""
    row = read_model_info(put(tmp_path))
    assert (row.slug, row.dataset, row.norm, row.eps) == ("kang2021stable", "cifar10", "linf", 8 / 255)
    assert (row.clean, row.aa, row.reported, row.external) == (93.73, 71.28, 71.28, 64.2)
    assert (row.unreliable, row.extra_data, row.forward_passes) == (True, True, 1)
    assert row.name.endswith("Adversarial Attacks")
    assert (row.venue, row.link) == ("NeurIPS, 2021", "https://arxiv.org/abs/2110.12976")
    assert row.footnote == "Based on Rebuffi2021. See this."
    assert row.authors.startswith("Qiyu Kang")
    assert row.architecture == "WideResNet-70-16, Neural ODE block"


def test_what_is_not_said_is_not_made_up(tmp_path: Path) -> None:
    bare = {"external": "", "reported": "", "footnote": None, "authors": "", "link": "", "venue": ""}
    row = read_model_info(put(tmp_path, {**bare, "unreliable": None, "additional_data": None}))
    assert (row.external, row.reported, row.unreliable, row.extra_data) == (None, None, None, None)
    assert (row.footnote, row.authors, row.link, row.venue) == ("", "", "", "")


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no name": ({}, "name", "name is missing"),
    "no accuracy": ({}, "autoattack_acc", "autoattack_acc is missing"),
    "not a number": ({"clean_acc": "high"}, "", "clean_acc must be a number in %, got 'high'"),
    "an exponent": ({"clean_acc": "9e1"}, "", "clean_acc must be a number in %, got '9e1'"),
    "negative": ({"autoattack_acc": "-1"}, "", "autoattack_acc must be a number in %"),
    "above 100": ({"clean_acc": "101"}, "", "clean_acc must be a number from 0 to 100"),
    "robust beyond natural": ({"autoattack_acc": "95"}, "", "autoattack_acc 95 is above clean_acc 93.73"),
    "external beyond AutoAttack": ({"external": "72"}, "", "external 72 is above autoattack_acc 71.28"),
    "unreliable in words": ({"unreliable": "yes"}, "", "unreliable must be true or false, got 'yes'"),
    "no passes": ({"number_forward_passes": 0}, "", "number_forward_passes must be at least 1, got 0"),
    "passes true": (
        {"number_forward_passes": True},
        "",
        "number_forward_passes must be a whole number, got True",
    ),
    "other data": ({"dataset": "cifar100"}, "", "dataset cifar100 is not the folder's, cifar10"),
    "unknown data": ({"dataset": "../x"}, "", "unknown dataset '../x'; known: cifar10, cifar100, imagenet"),
    "data in a list": ({"dataset": ["cifar10"]}, "", "unknown dataset"),
    "eps in words": ({"eps": "small"}, "", "eps must be a number above 0"),
    "markup": ({"name": "<b>x</b>"}, "", "name has '<' in it"),
    "script in the venue": ({"venue": "<script>"}, "", "venue has '<' in it"),
    "entity in the footnote": ({"footnote": "&lt;script&gt;"}, "", "footnote has '<' in it"),
    "link that runs": ({"link": "javascript:x"}, "", "link 'javascript:x' is not an http or https link"),
    "unknown key": ({"clean_accuracy": "9"}, "", "unknown key 'clean_accuracy'; did you mean clean_acc"),
    "corruptions": ({"corruptions_acc": "9"}, "", "is about common corruptions"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_its_reason_and_writes_nothing(name: str, tmp_path: Path) -> None:
    changed, without, reason = REFUSED[name]
    with pytest.raises(BenchError) as raised:
        read_model_info(put(tmp_path, changed, without=without))
    assert reason in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "[]", "{", '{"clean_acc": NaN}', "[" * 100_000, '"x"'])
def test_what_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"is not JSON|not an object|is too large"):
        read_model_info(put(tmp_path, text=text))


def test_all_reasons_are_told(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"name has .*; clean_acc must .*; footnote must be text"):
        read_model_info(put(tmp_path, {"name": "&", "clean_acc": "x", "footnote": 5}))


def test_the_norm_is_the_folders_unless_it_is_said(tmp_path: Path) -> None:
    path = put(tmp_path)
    assert read_model_info(path, "l2").norm == "l2"
    elsewhere = tmp_path / "Kang.json"
    elsewhere.write_text(path.read_text())
    with pytest.raises(
        BenchError, match="the norm is not known: put the file into a folder Linf or L2, or pass"
    ):
        read_model_info(elsewhere)
    assert read_model_info(elsewhere, "linf").norm == "linf"


def test_rows_are_kept_with_their_mark_and_read_back(bench: Bench, tmp_path: Path) -> None:
    path, out = put(tmp_path), tmp_path / "results"
    said = bench("submit", "import-external", path, "--out", out)
    kept = out / "external" / "cifar10" / "linf" / "kang2021stable.json"
    assert (said.status, said.out) == (0, f"wrote    {kept}\n")
    card = json.loads(kept.read_text())
    assert (card["kind"], card["verified"], card["source"]) == ("external", False, "RobustBench model_info")
    assert read_external(out) == [read_model_info(path)]
    first = kept.read_bytes()
    assert bench("submit", "import-external", path, "--out", out).status == 0
    assert kept.read_bytes() == first


def test_one_bad_file_does_not_hold_up_the_others(bench: Bench, tmp_path: Path) -> None:
    good, out = put(tmp_path), tmp_path / "results"
    bad = good.with_name("Bad.json")
    bad.write_text("{}")
    said = bench("submit", "import-external", bad, good, "--out", out)
    assert said.status == 1
    assert said.out.splitlines()[0].startswith(f"refused  {bad}: name is missing; dataset is missing; ")
    assert said.out.splitlines()[-1] == "1 of 2 files rejected"
    assert len(read_external(out)) == 1


def test_another_row_of_the_same_name_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "results"
    write_external(out, read_model_info(put(tmp_path)))
    with pytest.raises(BenchError, match="holds another row of this name; delete it to replace it"):
        write_external(out, read_model_info(put(tmp_path, {"clean_acc": "90"})))


@pytest.mark.parametrize(
    "damage", ["", "[]", '{"kind": "external"}', '{"kind": "record", "verified": true, "format": 1}']
)
def test_a_damaged_row_is_named(damage: str, tmp_path: Path) -> None:
    kept = write_external(tmp_path, read_model_info(put(tmp_path)))
    kept.write_text(damage)
    with pytest.raises(
        StoreError, match=r"kang2021stable\.json is damaged .*; delete it and import it again"
    ):
        read_external(tmp_path)
