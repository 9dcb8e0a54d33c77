"""What a run says of itself to others, from files alone; what this machine has."""

import json
import sqlite3
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.parts import PARTS
from robustness_bench.benchmark.run.watching import journal as journals
from robustness_bench.benchmark.run.watching.adapters import OWN
from robustness_bench.benchmark.run.watching.contract import About, Options, Tracker
from robustness_bench.benchmark.run.watching.progress import Progress
from robustness_bench.benchmark.run.watching.trackers import TRACKERS, Trackers
from robustness_bench.benchmark.run.watching.watch import Watch
from robustness_bench.benchmark.store.cells import read_records
from tests.conftest import ROOT, Bench


class Recorder(Tracker):
    """Remembers what it is told."""

    def __init__(self, about: About, options: Options) -> None:
        self.logged: list[tuple[str, dict[str, float], int]] = []
        told.append(self)

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        self.logged.append((group, dict(values), step))

    def close(self) -> None:
        self.logged.append(("closed", {}, 0))


class Broken(Recorder):
    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        raise ConnectionError("no route\nto host")


told: list[Recorder] = []
RUN = [
    *("run", "--defense", "undefended", "--norm", "linf", "--threat", "white", "--attacks", "none"),
    *("--epochs", 1, "--train-limit", 64, "--width", 2, "--n-examples", 8, "--no-diagnosis", "--workers", 1),
]
IN_SHARDS = ["--attacks", "pgd-40", "--batch-size", 4, "--shard-size", 4]


@pytest.fixture(scope="module")
def store(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OWN, "recorder", Recorder)
        patch.setitem(OWN, "broken", Broken)
        patch.setattr(TRACKERS, "_known", None)
        said = bench(*RUN, *IN_SHARDS, "--out", out, "--tracker", "recorder", "--tracker", "broken")
    assert said.status == 0, said.err
    assert said.err == "bench: warning: the tracker broken stops here, the run goes on: no route\n"
    return out


def test_a_tracker_is_told_epochs_and_cells(store: Path) -> None:
    logged = {(group, step): values for group, values, step in told[0].logged}
    epoch = logged["checkpoints/digits/undefended-resnet-18-seed0", 1]
    assert {"natural", "held_out_natural", "lr"} <= epoch.keys()
    for step, record in enumerate(read_records(store), 1):  # none, then pgd-40: its shards are no cells
        told_of = f"records/digits/linf/white/undefended/{record.spec['attack']}-seed0"
        assert logged[told_of, step] == {"accuracy": 100 * record.robust.mean()}
        assert logged["run", step] == {"cells_done": step, "cells_failed": 0}
    assert ("run", 3) not in logged
    assert told[0].logged[-1][0] == "closed"


def _journal(store: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write a run's journal as it would be in another state."""
    journal = json.loads((store / ".progress").read_text())
    change(journal)
    (out / ".progress").write_text(json.dumps(journal))


def test_status_after_a_run(bench: Bench, store: Path) -> None:
    found = json.loads(bench("status", store, "--json").out)
    assert found["results"] == {"done": 2, "failed": 0, "damaged": []}
    run = found["run"]
    assert (run["state"], run["left"], run["running"], run["failed"]) == ("done", None, [], [])
    assert run["tasks"] == {"done": 5, "running": 0, "failed": 0, "waiting": 0}  # two are shards
    assert run["cells"]["done"] == 2
    assert "has ended" in bench("status", store).out


def test_status_of_a_run_elsewhere(bench: Bench, store: Path, tmp_path: Path) -> None:
    """Running with one task failed; then without a sign of life."""

    def running(journal: dict[str, Any]) -> None:
        first, second, *_ = journal["tasks"]
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
        journal["updated"] -= 2 * journals._SILENT

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
    run = journals.status_of(tmp_path)["run"]
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


LOSSES = [1.5, 0.5]
GROUP = "checkpoints/digits/a"


def _track(tmp_path: Path, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Log two epochs and say nothing."""
    trackers = Trackers(About(out=tmp_path, command="bench run"), [wanted])
    for number, loss in enumerate(LOSSES, 1):
        trackers.log(GROUP, {"loss": loss}, number)
    trackers.close()
    assert "bench: warning" not in capsys.readouterr().err


def test_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs the extra tensorboard"
    )
    _track(tmp_path, "tensorboard", capsys)
    read = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(each.step, each.value) for each in read.Scalars(f"{GROUP}/loss")] == list(enumerate(LOSSES, 1))


@pytest.mark.filterwarnings("ignore")  # other software's
def test_wandb_offline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    _track(tmp_path, f"wandb:mode=offline,dir={tmp_path}", capsys)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    # W&B 0.31.0 may return from finish() before its service has written the file.
    deadline = time.monotonic() + 60
    while f"{GROUP}/loss".encode() not in file.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert f"{GROUP}/loss".encode() in file.read_bytes()


@pytest.mark.filterwarnings("ignore")
def test_mlflow_on_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    _track(tmp_path, f"mlflow:uri={uri},experiment=mine", capsys)
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, f"{GROUP}/loss")
    assert [(each.step, each.value) for each in history] == list(enumerate(LOSSES, 1))


@pytest.mark.filterwarnings("ignore")
def test_trackio_in_its_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="needs the extra trackio")
    _track(tmp_path, "trackio:project=mine", capsys)
    (file,) = (tmp_path / "trackio").glob("mine*.db")
    with sqlite3.connect(file) as database:
        rows = [json.loads(text) for (text,) in database.execute("SELECT metrics FROM metrics")]
    assert [row[f"{GROUP}/loss"] for row in rows] == LOSSES


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("tensorbord", "unknown tracker 'tensorbord'; did you mean tensorboard"),
        ("wandb:projct=a", "unknown option of --tracker wandb 'projct'; did you mean project"),
        ("mlflow:uri=", "uri has no value"),
    ],
)
def test_a_tracker_that_is_none(bench: Bench, tmp_path: Path, wanted: str, said: str) -> None:
    found = bench(*RUN, "--tracker", wanted, "--out", tmp_path / "r")
    assert found.status == 2
    assert said in found.err
