"""Records, checkpoints and atomic files: whole or refused, never half."""

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.files import canonical_json, short_hash, write_atomic
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Task, make_plan
from robustness_bench.benchmark.report.lines.results import summarize, to_csv
from robustness_bench.benchmark.report.tables.threats import threat_tables
from robustness_bench.benchmark.site.contents.cells import make_cell
from robustness_bench.benchmark.statistics import Audit, audit_words
from robustness_bench.benchmark.store import cards as checkpoints
from robustness_bench.benchmark.store.cards import card_of, read_card
from robustness_bench.benchmark.store.cells import find_records, read_record, write_record
from robustness_bench.benchmark.store.diagnoses import Diagnoses
from robustness_bench.benchmark.store.folder import is_done, locked, open_tasks


@pytest.fixture
def tasks() -> list[Task]:
    return make_plan(load_protocol(), {"digits": locate("digits", Path("data"))})


def cell_of(tasks: list[Task], attack: str) -> Task:
    return next(task for task in tasks if task.kind == "evaluate" and task.spec["attack"] == attack)


ROWS = {
    "sample": np.array([3, 5, 8, 9, 11]),
    "label": np.array([1, 1, 1, 1, 1]),
    "clean_prediction": np.array([1, 1, 2, 1, 2]),
    "adversarial_prediction": np.array([0, 1, 2, 0, 2]),
    "linf": np.full(5, 0.1),
    "l2": np.array([0.5, 0.0, 0.0, 3.0, 3.0]),
    "l1": np.full(5, 9.0),
    "forwards": np.full(5, 10.0),
    "backwards": np.full(5, 9.0),
}


def test_a_record_has_its_audit_and_shows_it(tmp_path: Path, tasks: list[Task]) -> None:
    """One that stands unaudited, one audited that stands, one that fell in the audit, one that was escalated;
    records without the column are as they were."""
    task = cell_of(tasks, "pgd-40")
    clean = np.array([1, 1, 1, 1, 1, 2])
    adversarial = np.array([1, 1, 0, 1, 0, 2])
    rows = {name: np.resize(values, 6) for name, values in ROWS.items()}
    rows |= {"label": np.ones(6), "clean_prediction": clean, "adversarial_prediction": adversarial}
    for name, more in (("plain", {}), ("audited", {"way": np.array([0, 2, 2, 1, 0, 0])})):
        path = tmp_path / f"records/{name}.parquet"
        write_record(path, task, rows | more, environment={}, seconds=1.0)
    plain, audited = (read_record(tmp_path / f"records/{name}.parquet") for name in ("plain", "audited"))
    assert plain.audit is None
    assert "way" not in plain.rows
    assert audited.audit == Audit(survivors=3, audited=2, fallen=1, escalated=1)
    lines = [summarize([record])[0] for record in (plain, audited)]
    n = task.spec["n_examples"]
    assert [line.audit for line in lines] == ["", audit_words([Audit(3, 2, 1, 1)], n)]
    assert [audit_words([Audit(3, 2, 1, 1)], n) in to_csv([line]) for line in lines] == [False, True]
    settings = load_protocol().settings[0]
    table, _ = threat_tables("white", [lines[1]], settings, "digits")
    assert "PGD-40 in L∞ on " in table.caption
    assert lines[1].audit in table.caption
    cells = [make_cell([record], [0], any_distance=False) for record in (plain, audited)]
    assert [cell.audit for cell in cells] == ["", audit_words([Audit(3, 2, 1, 1)], 6)]


def test_record_round_trip_and_readings(tmp_path: Path, tasks: list[Task]) -> None:
    """Fooled within ε, survived, wrong from the start, fooled only beyond ε, and the last two at once."""
    task = cell_of(tasks, "ddn")
    path = tmp_path / task.path
    write_record(path, task, ROWS, environment={"python": "3"}, seconds=1.5)
    record = read_record(path)
    assert record.spec == task.spec
    assert (record.id, record.family, record.seed, record.seconds) == (task.id, task.family, task.seed, 1.5)
    assert record.model_family == task.parents["model"].family
    assert record.withstood.tolist() == [False, True, False, False, False]
    assert record.robust.tolist() == [False, True, False, True, False]
    assert record.robust_at(4.0).tolist() == [False, True, False, False, False]
    assert find_records(tmp_path) == [path]
    assert is_done(tmp_path, task)


def test_a_record_of_before_with_flags_in_it_is_read(tmp_path: Path, tasks: list[Task]) -> None:
    path = tmp_path / "old.parquet"
    write_record(path, cell_of(tasks, "ddn"), ROWS, environment={}, seconds=0.0)
    now, table = read_record(path), pq.read_table(path)
    story = json.loads(table.schema.metadata[b"bench"])
    assert "flags" not in story
    older = {b"bench": json.dumps(story | {"flags": ["randomised"]}).encode()}
    pq.write_table(table.replace_schema_metadata(older), path, write_page_checksum=True)
    then = read_record(path)
    assert (then.id, then.spec, then.diagnosis) == (now.id, now.spec, None)


def test_a_diagnosis_alone_trains_nothing(tmp_path: Path, tasks: list[Task]) -> None:
    """Cells are done and their checkpoints gone: nothing to do. With the checkpoint there: the diagnosis."""
    for task in tasks:
        if task.kind == "evaluate":
            write_record(tmp_path / task.path, task, ROWS, environment={}, seconds=0)
    assert open_tasks(tmp_path, tasks) == []
    diagnosis = next(task for task in tasks if task.kind == "diagnose")
    model = tmp_path / diagnosis.parents["model"].path
    for path in (model, model.with_suffix(".json")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert diagnosis in open_tasks(tmp_path, tasks)


def test_a_more_thorough_diagnosis_counts_for_a_lesser_one(tmp_path: Path) -> None:
    full, few = ([task for task in planned(attacks) if task.kind == "diagnose"] for attacks in (["aa"], []))
    assert not {task.id for task in full if task.spec["norm"] == "linf"} & {task.id for task in few}
    more, less = full[0], few[0]
    assert (more.spec["norm"], less.spec["norm"]) == ("linf", "linf")
    write_diagnosis(tmp_path, less)
    assert is_done(tmp_path, less)
    assert not is_done(tmp_path, more)
    write_diagnosis(tmp_path, more)
    (tmp_path / less.path).unlink()
    assert is_done(tmp_path, more)
    assert is_done(tmp_path, less)
    assert not is_done(tmp_path, few[1])


def planned(attacks: list[str]) -> list[Task]:
    protocol = load_protocol(None, {"attacks": {"strict": {"linf": attacks, "l2": []}}})
    return make_plan(protocol, {"digits": locate("digits", Path("data"))})


def write_diagnosis(out: Path, task: Task, flags: Sequence[str] = (), **change: Any) -> None:
    spec = task.spec | change
    story = {"id": short_hash([spec, task.seed]), "seed": task.seed, "spec": spec, "flags": list(flags)}
    path = (out / task.path).with_name(f"{task.path.stem.rpartition('-')[0]}-{story['id']}.json")
    write_atomic(path, json.dumps(story).encode())


def test_flags_are_found_by_model_norm_images_and_eps(tmp_path: Path, tasks: list[Task]) -> None:
    """The nearest ε where there is none at a cell's own, the most thorough of equals, else nothing."""
    linf, l2, *_ = [task for task in tasks if task.kind == "diagnose" and "undefended" in task.title]
    eps = linf.spec["eps"]
    write_diagnosis(tmp_path, linf, ["randomised"])
    write_diagnosis(tmp_path, linf, ["saturated"], probe={**linf.spec["probe"], "attacks": None})
    write_diagnosis(tmp_path, linf, ["zero-gradients"], eps=4 * eps)
    write_diagnosis(tmp_path, l2, ["probabilities"])
    found = Diagnoses([tmp_path])

    def told(spec: dict[str, Any], **change: Any) -> tuple[str, ...] | None:
        of = found.of(spec | change)
        return None if of is None else of.flags

    assert told(linf.spec) == ("randomised",)
    assert told(linf.spec, eps=1.5 * eps) == ("randomised",)
    assert told(linf.spec, eps=3 * eps) == ("zero-gradients",)
    assert told(l2.spec) == ("probabilities",)
    assert told(linf.spec, n_examples=7) is None
    assert told(linf.spec, data="0" * 64) is None
    assert told(linf.spec, parents={"model": "another"}) is None


def test_failed_record_has_a_story_and_no_rows_and_is_tried_again(tmp_path: Path, tasks: list[Task]) -> None:
    task = cell_of(tasks, "pgd-40")
    write_record(tmp_path / task.path, task, {}, environment={}, seconds=0, error="Traceback: planted")
    record = read_record(tmp_path / task.path)
    assert record.status == "error"
    assert record.error == "Traceback: planted"
    assert len(record.rows["label"]) == 0
    assert not is_done(tmp_path, task)
    assert task in open_tasks(tmp_path, tasks)


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty"])
def test_damaged_record_is_refused_by_name(tmp_path: Path, tasks: list[Task], damage: str) -> None:
    task = cell_of(tasks, "ddn")
    path = tmp_path / task.path
    rows = {name: np.resize(values, 500) for name, values in ROWS.items()}
    write_record(path, task, rows, environment={}, seconds=0)
    content = bytearray(path.read_bytes())
    if damage == "altered":
        content[60] ^= 0xFF
    path.write_bytes(bytes({"truncated": content[:-40], "altered": content, "empty": b""}[damage]))
    with pytest.raises(StoreError, match=f"{path.name} is damaged.*delete it and run the same command"):
        read_record(path)


def test_checkpoint_round_trip_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {"weight": torch.randn(3, 4).t(), "count": torch.tensor(3)}
    checkpoints.save_tensors(path, tensors, {"seed": 1})
    loaded = checkpoints.load_tensors(path)
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert read_card(path)["seed"] == 1
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StoreError, match=r"model\.safetensors is damaged.*delete .* to make them anew"):
        checkpoints.load_tensors(path)
    card_of(path).write_text("{")
    with pytest.raises(StoreError, match=r"model\.json is damaged"):
        checkpoints.verify(path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "kept"
    write_atomic(path, b"old")

    def fail(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    remedy = "free some space" if code == errno.ENOSPC else "choose another --out"
    with pytest.raises(StoreError, match=f"cannot write .*kept.*nothing is lost, {remedy}"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]


def test_second_writer_is_kept_out(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(StoreError, match="another bench run is writing"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_out_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write into --out .*file"), locked(tmp_path / "file"):
        pass


def test_parents_of_finished_cells_are_not_made_again(tmp_path: Path, tasks: list[Task]) -> None:
    for task in tasks:
        if task.kind == "evaluate":
            write_record(tmp_path / task.path, task, ROWS, environment={}, seconds=0)
    assert open_tasks(tmp_path, tasks) == []
    task = cell_of(tasks, "aa")
    (tmp_path / task.path).unlink()
    model = task.parents["model"].id
    diagnoses = {t.id for t in tasks if t.kind == "diagnose" and t.parents["model"].id == model}
    assert len(diagnoses) == 2  # one per norm, now that the model is made again
    assert {t.id for t in open_tasks(tmp_path, tasks)} == {t.id for t in task.lineage()} | diagnoses


def test_a_card_without_tensors_is_no_model_to_go_on_from(tmp_path: Path, tasks: list[Task]) -> None:
    """As in a store that keeps how models were trained, not their weights: what needs one trains it again."""
    task = next(task for task in tasks if task.kind == "train")
    checkpoints.save_tensors(tmp_path / task.path, {"w": torch.zeros(1)}, {"id": task.id})
    assert is_done(tmp_path, task)
    (tmp_path / task.path).unlink()
    assert not is_done(tmp_path, task)


def test_hashes_are_of_values_not_of_spelling() -> None:
    assert short_hash({"a": 1, "b": (2, 3)}) == short_hash({"b": [2, 3], "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))
