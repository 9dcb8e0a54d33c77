"""`bench run` as a user types it, on tiny models: from nothing to tables, again, and through trouble."""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

from robustness_bench.attacks import registry
from robustness_bench.benchmark.cli.shared.options import PANELS, Request
from robustness_bench.benchmark.store.cards import load_tensors
from robustness_bench.benchmark.store.cells import read_record
from robustness_bench.benchmark.store.evidence import evidence_of, read_evidence
from tests.conftest import Bench

TINY = ["--epochs", 1, "--train-limit", 96, "--width", 2, "--n-examples", 12]
SMALL = ["run", *TINY, "--norm", "linf", "--attacks", "pgd-40", "--defense", "standard,namid"]
CORE = {min(os.sched_getaffinity(0))}


@pytest.fixture(scope="module")
def finished(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one finished run; copy it before changing it."""
    out = tmp_path_factory.mktemp("finished") / "results"
    said = bench(*SMALL, "--out", out)
    assert said.status == 0, said.err
    assert "8 of 8 cells to do" in said.out
    assert "White box, digits" in said.out
    assert "Standard AT" in said.out
    return out


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "results"))


def plant(monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    """Register ``tests.support:<attack>`` as the attack "planted"."""
    preset = {
        "label": "Planted",
        "norms": ["linf"],
        "kind": "budget",
        "attack": f"tests.support:{attack}",
        "strict": {"source": "test"},
    }
    monkeypatch.setitem(registry._tables(), "planted", preset)


def read_lines(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "results.csv").read_text().splitlines()))


def snapshot(out: Path) -> dict[str, tuple[int, bytes]]:
    kept = [*out.rglob("*.parquet"), *out.rglob("*.safetensors")]
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in kept}


def test_leaves_what_it_promises(finished: Path) -> None:
    rows = read_lines(finished)
    cells = {(row["threat"], row["defense"], row["attack"]) for row in rows}
    expected = {
        (threat, defense, attack)
        for threat in ("white", "black")
        for defense in ("standard", "namid")
        for attack in ("none", "pgd-40", "worst-case")
    }
    assert cells == expected
    for row in rows:
        assert row["images"] == "12"
        assert row["seeds"] == "1"
        assert row["per_seed"] == f"0:{row['mean']}"
        assert 0 <= float(row["mean"]) <= 100
    for threat in ("white", "black"):
        assert "NAMID" in (finished / "tables" / f"digits-{threat}.html").read_text()
        assert r"\toprule" in (finished / "tables" / f"digits-{threat}.tex").read_text()
    assert len(list(finished.rglob("*.parquet"))) == 8
    assert len(list(finished.glob("checkpoints/digits/*.safetensors"))) == 4  # AT, estimators, NAMID, VGG
    assert not list(finished.rglob("*.partial"))
    for card in finished.rglob("*.json"):
        story = json.loads(card.read_text())
        assert story["environment"]["packages"]["torch"]
        assert story["seconds"] > 0


def test_a_record_has_a_row_per_sample(finished: Path) -> None:
    from robustness_bench.benchmark.store.cells import find_records, read_record

    for path in find_records(finished):
        record = read_record(path)
        assert len(set(record.rows["sample"].tolist())) == 12
        assert record.environment["device"] == "cpu"
        attack = record.spec["attack"]
        if attack == "none":
            assert (record.rows["clean_prediction"] == record.rows["adversarial_prediction"]).all()
        elif record.spec["threat"] == "white" and record.clean.any():
            assert record.rows["forwards"].mean() > 1
            assert record.rows["backwards"].mean() > 0


def test_again_finds_nothing_to_do(bench: Bench, store: Path) -> None:
    before, table = snapshot(store), (store / "results.csv").read_bytes()
    said = bench(*SMALL, "--out", store)
    assert said.status == 0
    assert "nothing to do: all 8 cells are done" in said.out
    assert "White box, digits" in said.out
    assert snapshot(store) == before
    assert (store / "results.csv").read_bytes() == table


def test_more_seeds_and_attacks_run_only_what_is_new(bench: Bench, store: Path) -> None:
    before = snapshot(store)
    white = [*SMALL, "--threat", "white", "--defense", "standard", "--out", store, "--workers", 1]
    said = bench(*white, "--defense", "standard", "--seeds", 2)
    assert "2 of 8 cells to do" in said.out or "4 of 8 cells to do" in said.out, said.out
    after = snapshot(store)
    assert {name: after[name] for name in before} == before
    assert all("seed1" in name for name in after.keys() - before.keys())


def test_batches_and_shards_change_no_sample(bench: Bench, store: Path) -> None:
    """The same cells again in batches of five, and of half of the images: sample by sample the same."""
    from robustness_bench.benchmark.store.cells import Record, find_records, read_record

    def by_sample(images: int) -> dict[tuple[str, int], tuple[int, float]]:
        found: dict[tuple[str, int], tuple[int, float]] = {}
        for path in find_records(store):
            record: Record = read_record(path)
            if record.spec["n_examples"] == images:
                cell = f"{record.spec['threat']} {record.spec['defense']} {record.spec['attack']}"
                rows = zip(
                    record.rows["sample"], record.rows["adversarial_prediction"], record.distance, strict=True
                )
                found |= {(cell, int(i)): (int(c), float(d)) for i, c, d in rows}
        return found

    whole = by_sample(12)
    shutil.rmtree(store / "records")
    assert bench(*SMALL, "--batch-size", 5, "--out", store).status == 0
    assert bench(*SMALL, "--n-examples", 6, "--threat", "white", "--out", store).status == 0
    small, half = by_sample(12), by_sample(6)
    assert small.keys() == whole.keys()
    assert len(half) == 4 * 6
    assert half.keys() < whole.keys()
    for other in (small, half):
        for key, (predicted, distance) in other.items():
            assert predicted == whole[key][0]
            assert distance == pytest.approx(whole[key][1], abs=1e-3)


def test_checkpoints_may_go_once_their_cells_are_done(bench: Bench, store: Path) -> None:
    shutil.rmtree(store / "checkpoints")
    shutil.rmtree(store / "crafted")
    assert "nothing to do" in bench(*SMALL, "--out", store).out


PLANTED = {("white", "planted"), ("white", "worst-case")}


def test_a_cell_that_raises_is_an_error_and_the_rest_goes_on(
    bench: Bench, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, "Raises")
    command = [*SMALL, "--attacks", "planted", "--threat", "white", "--out", store, "--workers", 2]
    said = bench(*command)
    assert said.status == 1
    assert "digits linf white-box namid × planted, seed 0: RuntimeError: planted failure" in said.err
    assert said.out.count("ERROR") >= 2
    assert "ERROR" in (store / "tables" / "digits-white.html").read_text()
    assert "ERROR" in (store / "tables" / "digits-white.tex").read_text()
    rows = read_lines(store)
    hit = [row for row in rows if (row["threat"], row["attack"]) in PLANTED]
    assert {row["mean"] for row in hit} == {"ERROR"}
    assert all(row["mean"] != "ERROR" for row in rows if row not in hit)


def test_a_failed_cell_is_tried_again(bench: Bench, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "Cheats")
    command = [*SMALL, "--attacks", "planted", "--threat", "white", "--out", store]
    assert "left its budget" in bench(*command).err
    assert "2 of" in bench(*command).out, "a failed cell is tried again"


def test_a_training_that_fails_takes_its_cells_with_it(bench: Bench, tmp_path: Path) -> None:
    config = tmp_path / "hot.toml"
    config.write_text("[dataset.digits.training]\nlr = 1e30\nclip_norm = 0.0\n")
    white = [*SMALL, "--threat", "white", "--config", config, "--epochs", 4, "--workers", 1]
    said = bench(*white, "--out", tmp_path / "r")
    assert said.status == 1
    assert "training diverged in epoch" in said.err
    assert "digits linf white-box namid × none, seed 0" in said.err
    rows = read_lines(tmp_path / "r")
    assert [row["mean"] for row in rows] == ["ERROR"] * 6


def test_a_task_whose_worker_is_killed_twice_is_an_error_and_nothing_is_lost(
    bench: Bench, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(store)
    plant(monkeypatch, "Kills")
    planted = ["--attacks", "planted", "--threat", "white", "--defense", "standard"]
    said = bench(*SMALL[:-2], *planted, "--out", store, "--workers", 2)
    assert said.status == 1
    assert (
        said.out.count("a worker process was killed; once more: digits linf white-box standard × planted")
        == 1
    )
    assert "standard × planted, seed 0: its worker process was killed twice" in said.err
    hit = [row for row in read_lines(store) if row["defense"] == "standard" and row["attack"] == "planted"]
    assert [row["mean"] for row in hit] == ["ERROR"]
    assert {name: snapshot(store)[name] for name in before} == before


def test_damage_is_named_and_nothing_is_overwritten(bench: Bench, store: Path) -> None:
    record = next(store.glob("records/digits/linf/white/namid/pgd-40*"))
    whole = record.read_bytes()
    record.write_bytes(whole[:-50])
    before = snapshot(store)
    said = bench(*SMALL, "--out", store)
    assert said.status == 2
    assert record.name in said.err
    assert "delete it and run the same command again" in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert snapshot(store) == before

    record.unlink()
    checkpoint = next(store.glob("checkpoints/digits/namid*.safetensors"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    before = snapshot(store)
    said = bench(*SMALL, "--out", store)
    assert said.status == 2
    assert checkpoint.name in said.err
    assert snapshot(store) == before


def test_dry_run_and_plan_touch_nothing(bench: Bench, tmp_path: Path, store: Path) -> None:
    said = bench(*SMALL, "--out", tmp_path / "new", "--dry-run")
    assert said.status == 0
    assert "8 cells, 0 done, 8 to do" in said.out
    assert "digits train MI estimators-eq-5-on-standard-linf, seed 0" in said.out
    assert "from a timed batch" in said.out
    assert not (tmp_path / "new").exists()
    assert "8 cells, 8 done, 0 to do" in bench("plan", *SMALL[1:], "--out", store).out


WRONG = [
    (["--defense", "namdi"], "unknown defense 'namdi'; did you mean namid"),
    (["--attacks", "pgd"], "unknown attack 'pgd'; did you mean pgd-40 or"),
    (["--attacks", "cw", "--norm", "linf"], "attack cw works in l2, not in linf"),
    (["--dataset", "cifar"], "unknown data set 'cifar'; did you mean cifar10?"),
    (["--dataset", "cifar10", "--data-dir", "nowhere"], "no cifar10 in nowhere: put cifar-10-python.tar.gz"),
    (["--norm", "l3"], "unknown norm 'l3'"),
    (["--threat", "grey"], "unknown threat 'grey'"),
    (["--eps-linf", "-0.1"], "ε must be positive, got -0.1"),
    (["--seeds", "0"], "seeds must be at least 1, got 0"),
    (["--epochs", "0"], "epochs must be at least 1, got 0"),
    (["--width", "-1"], "width must be at least 1, got -1"),
    (["--n-examples", "-5"], "n_examples must be at least 0, got -5"),
    (["--batch-size", "many"], "--batch-size must be a positive number or auto, got 'many'"),
    (["--workers", "-1"], "--workers must be 0 (automatic) or more, got -1"),
    (["--device", "tpu"], "--device must be auto, cpu or cuda, got 'tpu'"),
    (["--shard-size", "-1"], "--shard-size must be 0 (automatic) or more, got -1"),
    (["--engine", "rai"], "unknown engine 'rai'; did you mean ray"),
    (["--address", "first:6379"], "--address first:6379 is that of a Ray cluster: add --engine ray"),
    (["--engine-option", "num_gpus=1"], "--engine-option num_gpus=1 is for a cluster: add --engine"),
    (["--engine", "slurm", "--engine-option", "gpu"], "--engine-option must be KEY=VALUE, got 'gpu'"),
    (["--engine", "slurm"], "--engine slurm needs --workers"),
    (["--config", "missing.toml"], "cannot read --config missing.toml"),
    (["--out", "/proc/nowhere"], "cannot write into --out /proc/nowhere"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_wrong_input_is_one_clear_line(
    bench: Bench, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = [] if "--out" in arguments else ["--out", tmp_path / "r"]
    said = bench("run", *TINY, *out, *arguments)
    assert said.status == 2
    assert message in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("verb", ["run", "plan", "estimate-mi", "figure", "tables", "compare"])
def test_help_lists_every_shared_option_under_a_heading(verb: str, bench: Bench) -> None:
    parts = dict(part.split(":\n", 1) for part in bench(verb, "--help").out.split("\n\n") if ":\n" in part)
    assert [heading for heading in parts if heading in PANELS] == list(PANELS)
    for name, hint in get_type_hints(Request, include_extras=True).items():
        (option,) = hint.__metadata__
        line = re.compile(rf"^  {option.default}[, ]", re.MULTILINE)
        assert [heading for heading, lines in parts.items() if line.search(lines)] == [
            option.rich_help_panel
        ], name


def test_lists_and_version(bench: Bench) -> None:
    for what, member in (
        ("defenses", "namid"),
        ("attacks", "aa"),
        ("datasets", "tiny-imagenet"),
        ("models", "vgg-19"),
    ):
        assert member in bench("list", what).out
        assert member in {entry["name"] for entry in json.loads(bench("list", what, "--json").out)}
    assert bench("--version").out.startswith("bench 0.")
    assert bench("list", "attacks", "--jsn").status == 2


def test_killed_at_any_moment_it_ends_with_the_same_results(
    bench: Bench, finished: Path, tmp_path: Path
) -> None:
    """SIGKILL in training, of a command whose two workers must not outlive it, then of one among cells."""
    command = [
        sys.executable,
        "-m",
        "robustness_bench.benchmark.cli",
        *map(str, SMALL),
        "--out",
        str(tmp_path / "broken"),
    ]
    broken = tmp_path / "broken"
    for workers, moment in ((2, "checkpoints/**/*.safetensors"), (1, "records/**/*.parquet")):
        process = subprocess.Popen(
            [*command, "--workers", str(workers)],
            stdout=subprocess.DEVNULL,
            # As in this process: a task's rounding depends on its threads.
            preexec_fn=lambda: os.sched_setaffinity(0, CORE),
        )
        deadline = time.monotonic() + 300
        while not list(broken.glob(moment)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None, "the run was over before it was killed: lengthen it"
        children = _children(process.pid)
        assert workers == 1 or len(children) >= 2  # and the process that keeps multiprocessing's books
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 60
        while _running(children) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not _running(children)
    said = bench(*SMALL, "--out", broken)
    assert said.status == 0, said.err
    assert re.search(r"\b[1-7] of 8 cells to do", said.out), said.out
    assert (broken / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()
    assert not list(broken.rglob("*.partial"))


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "robustness_bench.benchmark.cli", "run", *map(str, TINY), "--seeds", "2"]
    process = subprocess.Popen(
        [*command, "--workers", "2", "--out", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores the signal, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / ".lock").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted; the same command goes on from here" in said
    assert "Traceback" not in said


def _children(parent: int) -> list[int]:
    """Processes that a process has started, whichever thread did."""
    lists = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(pid) for each in lists for pid in each.read_text().split()]


def _running(pids: list[int]) -> list[int]:
    """Those that have not ended; one that nobody has waited for has."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            found += [pid] if state not in "ZX" else []
    return found


def test_stored_images_are_judged_beside_their_attack(store: Path, bench: Bench) -> None:
    (plain,) = store.glob("records/*/linf/white/standard/pgd-40-*.parquet")
    before = read_record(plain)
    plain.unlink()
    asked = [*SMALL[:-1], "standard", "--threat", "white", "--keep-examples", "--out", store, "--attacks"]
    said = bench(*asked, "pgd-40@8-bit,none@jpeg-30")
    assert said.status == 0, said.err
    assert "PGD-40 8-bit" in said.out
    assert "8-bit: the same images, judged after rounding to 256 levels; not in Worst." in said.out
    after = read_record(plain)
    assert after.id == before.id
    assert all(np.array_equal(after.rows[name], column) for name, column in before.rows.items())
    lines = {line["attack"]: line["mean"] for line in read_lines(store) if line["threat"] == "white"}
    assert lines["worst-case"] == lines["pgd-40"]
    (judged,) = store.glob("records/*/linf/white/standard/pgd-40@8-bit-*.parquet")
    (crafted,) = store.glob("crafted/*/linf/pgd-40-on-standard-*.safetensors")
    images, rows, kept = (
        load_tensors(crafted)["x_adv"],
        read_record(judged).rows,
        read_evidence(evidence_of(judged)),
    )
    fooled = (rows["clean_prediction"] == rows["label"]) & (rows["adversarial_prediction"] != rows["label"])
    assert kept.form == "uint8"
    assert np.array_equal(kept.stored, np.rint(images.numpy()[fooled] * 255))
    assert np.array_equal(rows["linf"], before.rows["linf"])
    assert bench("verify", judged).status == 0
    assert "names no storage" in bench(*asked, "pgd-40@7-bit").err
