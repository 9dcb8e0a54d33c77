"""What a run says of itself to others, from files alone; what this machine has."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.parts import PARTS
from robustness_bench.benchmark.run.progress import Progress
from robustness_bench.benchmark.run.watching import status
from robustness_bench.benchmark.run.watching.watch import Watch
from tests.conftest import ROOT, Bench

RUN = [
    *("run", "--defense", "undefended", "--norm", "linf", "--threat", "white", "--attacks", "none"),
    *("--epochs", 1, "--train-limit", 64, "--width", 2, "--n-examples", 8, "--no-diagnosis", "--workers", 1),
]


@pytest.fixture(scope="module")
def store(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("watched")
    said = bench(*RUN, "--out", out)
    assert said.status == 0, said.err
    return out


def _journal(store: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write a run's journal as it would be in another state."""
    journal = json.loads((store / ".progress").read_text())
    change(journal)
    (out / ".progress").write_text(json.dumps(journal))


def test_status_after_a_run(bench: Bench, store: Path) -> None:
    found = json.loads(bench("status", store, "--json").out)
    assert found["results"] == {"done": 1, "failed": 0, "damaged": []}
    run = found["run"]
    assert (run["state"], run["left"], run["running"], run["failed"]) == ("done", None, [], [])
    assert run["tasks"] == {"done": 2, "running": 0, "failed": 0, "waiting": 0}
    assert run["cells"]["done"] == 1
    assert "has ended" in bench("status", store).out


def test_status_of_a_run_elsewhere(bench: Bench, store: Path, tmp_path: Path) -> None:
    """Running with one task failed; then without a sign of life."""

    def running(journal: dict[str, Any]) -> None:
        first, second = journal["tasks"]
        first |= {"state": "failed", "error": "RuntimeError: planted"}
        second |= {"state": "running", "done": 0.25}
        journal |= {"ended": "", "left": 600.0}

    _journal(store, tmp_path, running)
    found = json.loads(bench("status", tmp_path, "--json").out)["run"]
    assert found["state"] == "running"
    assert 500 < found["left"] <= 600
    assert [each["done"] for each in found["running"]] == [0.25]
    assert [each["error"] for each in found["failed"]] == ["RuntimeError: planted"]
    said = bench("status", tmp_path).out
    assert "10 min left" in said
    assert "running  25 %  digits linf white-box undefended × none, seed 0" in said

    def silent(journal: dict[str, Any]) -> None:
        running(journal)
        journal["updated"] -= 2 * status._SILENT

    _journal(store, tmp_path, silent)
    said = bench("status", tmp_path).out
    assert "killed or cut off" in said
    assert "running  25 %" not in said


def test_status_names_what_is_wrong(bench: Bench, store: Path, tmp_path: Path) -> None:
    said = bench("status", tmp_path / "nowhere")
    assert said.status == 2
    assert "holds no results" in said.err
    record = next(store.glob("records/**/*.parquet"))
    cut = tmp_path / record.relative_to(store)
    cut.parent.mkdir(parents=True)
    cut.write_bytes(record.read_bytes()[:-20])
    assert f"damaged  {cut} is damaged" in bench("status", tmp_path).out
    _journal(store, tmp_path, lambda journal: journal.update(format=99))
    assert "has format 99" in bench("status", tmp_path).err


@pytest.mark.parametrize(("error", "how"), [(KeyboardInterrupt, "interrupted"), (MemoryError, "stopped")])
def test_a_journal_says_how_a_run_ended(tmp_path: Path, error: type[BaseException], how: str) -> None:
    context = Context(out=tmp_path, device="cpu", batch_size=0, threads=1)
    with pytest.raises(error), Progress([], {}, live=False) as progress, Watch(context, progress):
        raise error
    run = status.status_of(tmp_path)["run"]
    assert run["state"] == how


def test_plan_and_list_as_json(bench: Bench, store: Path, tmp_path: Path) -> None:
    plan = ["plan", *RUN[1:], "--json", "--out"]
    assert json.loads(bench(*plan, store).out) == {"cells": 1, "done": 1, "to_do": 0, "tasks": []}
    found = json.loads(bench(*plan, tmp_path).out)
    assert found["to_do"] == 1
    assert found["tasks"][1]["title"] == "digits linf white-box undefended × none, seed 0"
    assert 0 < found["tasks"][0]["seconds"]["low"] <= found["tasks"][0]["seconds"]["high"]


def test_list_shows_what_a_plugin_file_offers(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "listed_pairing.py"
    file.write_text((ROOT / "examples" / "defense_plugin" / "logit_pairing.py").read_text())
    names = [each["name"] for each in json.loads(bench("list", "defenses", "--json", "--plugin", file).out)]
    assert "listed-pairing" in names
    assert "is not a Python file" in bench("list", "models", "--plugin", "nothing.py").err


def test_doctor_says_what_is_there_and_what_to_do(bench: Bench, tmp_path: Path) -> None:
    said = bench("doctor", "--json", "--data-dir", tmp_path)
    assert said.status == 0
    found = {(each["group"], each["name"]): each for each in json.loads(said.out)}
    assert found["data", "digits"]["state"] == "ok"
    assert str(tmp_path) in found["data", "mnist"]["remedy"]
    assert all(each["remedy"] for each in found.values() if each["state"] != "ok")
    assert {name for group, name in found if group == "parts"} == set(PARTS)
    text = bench("doctor", "--data-dir", tmp_path).out
    assert "Sandbox of submitted code" in text
    assert max(map(len, text.splitlines())) <= 110


def test_parts_are_the_extras_of_the_package() -> None:
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    del about["dev"]
    named = {name: {each.split(">")[0] for each in packages} for name, packages in about.items()}
    assert {name: set(part.packages) for name, part in PARTS.items()} == named
