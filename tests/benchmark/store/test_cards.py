"""What is kept beside tensors: one form of card, written and read in one place."""

import contextlib
import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from robustness_bench.benchmark.context import Context, environment
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.files import file_hash, read_json, read_sealed, write_json, write_sealed
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Task, make_plan
from robustness_bench.benchmark.store.cards import card_of, find_model, keep, load_tensors, read_card


@pytest.fixture
def task() -> Task:
    tasks = make_plan(load_protocol(), {"digits": locate("digits", Path("data"))})
    return next(each for each in tasks if each.kind == "train")


def kept(task: Task, out: Path) -> Path:
    context = Context(out=out, device="cpu", batch_size=0, threads=1)
    keep(task, context, time.monotonic() - 2.5, {"w": torch.ones(3)}, epoch=4, history=[{"lr": 0.1}])
    return out / task.path


def as_read(spec: dict[str, Any]) -> Any:
    """With lists for tuples."""
    return json.loads(json.dumps(spec))


def test_a_card_says_what_its_tensors_are_of_and_how_they_were_made(task: Task, tmp_path: Path) -> None:
    path = kept(task, tmp_path)
    card = read_card(path)
    assert 2.5 <= card.pop("seconds") < 60
    made = datetime.fromisoformat(card["environment"].pop("date"))
    assert abs((datetime.now(UTC) - made).total_seconds()) < 60
    assert card == {
        "format": 1,
        "sha256": file_hash(path),
        "id": task.id,
        "seed": task.seed,
        "spec": as_read(task.spec),
        "epoch": 4,
        "history": [{"lr": 0.1}],
        "environment": environment("cpu"),
    }
    assert load_tensors(path)["w"].tolist() == [1, 1, 1]
    text = card_of(path).read_text()
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True)


def test_a_model_is_found_by_its_id_where_its_tensors_are(task: Task, tmp_path: Path) -> None:
    path = kept(task, tmp_path)
    found = find_model(tmp_path, task.id, "f", task.data)
    assert found is not None
    assert (found.kind, found.spec, found.seed) == ("train", as_read(task.spec), task.seed)
    assert (found.id, found.path, found.family) == (task.id, task.path, "f")
    assert find_model(tmp_path, "0" * 12, "f", task.data) is None
    path.unlink()
    assert find_model(tmp_path, task.id, "f", task.data) is None


def test_what_is_no_card_is_refused_with_the_remedy(task: Task, tmp_path: Path) -> None:
    path = kept(task, tmp_path)
    for content, reason in {"[1]": "it is no JSON object", '{"a"': "Expecting"}.items():
        card_of(path).write_text(content)
        with pytest.raises(StoreError, match=f"json is damaged .*{reason}") as refusal:
            read_card(path)
        stem = path.with_suffix("")
        assert f"; delete {stem}.safetensors and {stem}.json and run the same command" in str(refusal.value)
    card_of(path).write_text('{"format": 7}')
    with pytest.raises(StoreError, match=r"json has format 7, this is bench's format 1: use the version"):
        read_card(path)


def test_json_for_people_has_letters_and_a_last_newline(tmp_path: Path) -> None:
    for_machines, for_people = tmp_path / "m.json", tmp_path / "p.json"
    value = {"b": "Zürich", "a": [1]}
    write_json(for_machines, value)
    write_json(for_people, value, for_people=True)
    assert for_machines.read_text() == '{\n "a": [\n  1\n ],\n "b": "Z\\u00fcrich"\n}'
    assert for_people.read_text() == '{\n "a": [\n  1\n ],\n "b": "Zürich"\n}\n'
    assert read_json(for_machines) == read_json(for_people) == value


def test_no_digit_of_sealed_entries_changes_unnoticed(tmp_path: Path) -> None:
    """White space aside. Files of before the hash are read; so is one whose hash has lost its name."""
    path = tmp_path / "card.json"
    entries: dict[str, Any] = {"seed": 1, "history": [{"lr": 1e-05}], "of": {2: 1, 10: math.nan}, "error": ""}
    write_sealed(path, entries)
    written, told = path.read_bytes(), canonical(read_sealed(path))
    assert told == canonical(as_read(entries))
    seal = range(written.index(b"entries_sha256"), written.index(b"entries_sha256") + len(b"entries_sha256"))
    for at in range(len(written)):
        content = bytearray(written)
        content[at] ^= 1
        path.write_bytes(bytes(content))
        with contextlib.suppress(StoreError):
            found = read_sealed(path)
            if at in seal:
                found = {name: found[name] for name in entries}
            assert canonical(found) == told
    path.write_text('{"seed": 2}')
    assert read_sealed(path) == {"seed": 2}


def canonical(entries: dict[str, Any]) -> str:
    return json.dumps(entries, sort_keys=True)
