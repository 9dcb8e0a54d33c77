"""`bench mend`: every kind of file of a store, damaged one at a time."""

import os
import shutil
import zipfile
from pathlib import Path

import pytest

from robustness_bench.benchmark.exchange.layout import companions_of, finished, owner_of
from tests.benchmark.exchange.test_archive import ASKED, write_store
from tests.conftest import Bench


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_store(tmp_path / "r")
    return tmp_path / "r"


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_each_damaged_file_is_named_and_moved_with_what_was_made_with_it(
    store: Path, bench: Bench, tmp_path: Path
) -> None:
    names = finished(store)
    assert {name.partition("/")[0] for name in names} >= {
        *("checkpoints", "crafted", "diagnoses", "evidence", "examples", "mi", "records")
    }
    assert f"all {len(names)} files of {store} are whole" in bench("mend", store).out
    for name in names:
        broken = Path(shutil.copytree(store, tmp_path / "broken"))
        cut(broken / name)
        before = contents(broken)
        looked = bench("mend", broken, "--dry-run")
        assert looked.status == 1
        assert [line for line in looked.out.splitlines() if str(broken / name) in line], name
        assert contents(broken) == before
        said = bench("mend", broken)
        assert said.status == 0, said.err
        owner = owner_of(name) or name
        family = {each for each in (owner, *companions_of(owner)) if each in names}
        assert set(finished(broken)) == set(names) - family
        assert contents(broken / "damaged") == {each: before[each] for each in family}
        assert bench("mend", broken).out.startswith("all ")
        shutil.rmtree(broken)


def test_damaged_twice_both_are_kept(store: Path, bench: Bench) -> None:
    name = next(name for name in finished(store) if name.startswith("records/"))
    whole = (store / name).read_bytes()
    for text in (b"once", b"twice"):
        (store / name).write_bytes(text)
        assert bench("mend", store).status == 0
    assert {p.read_bytes() for p in (store / "damaged").rglob("*none*")} >= {b"once", b"twice"}
    (store / name).write_bytes(whole)
    assert bench("mend", store, "--dry-run").status == 0


def test_what_a_killed_task_left_is_read_too(store: Path, bench: Bench) -> None:
    training, cells = store / "checkpoints/digits/x.partial", store / "records/digits/linf/white/x/y.partial"
    cells.parent.mkdir(parents=True)
    model = next(store.glob("checkpoints/*/*.safetensors"))
    shutil.copy(model, training)
    with zipfile.ZipFile(cells, "w") as file:
        file.writestr("forwards.npy", b"0" * 300)
    assert "are whole" in bench("mend", store, "--dry-run").out
    cut(training)
    cells.write_bytes(cells.read_bytes().replace(b"0" * 300, b"0" * 150 + b"1" * 150))
    said = bench("mend", store)
    assert f"{training} is damaged" in said.out
    assert f"{cells} is damaged" in said.out
    assert not list((store / "checkpoints").rglob("*.partial"))
    assert len(list((store / "damaged").rglob("*.partial"))) == 2
    assert bench("mend", store).out.startswith("all ")


def test_what_is_damaged_at_a_url_is_moved_aside_there(
    store: Path, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, cell = f"file://{tmp_path}/there", next(store.glob("records/**/*.parquet")).relative_to(store)
    there = Path(shutil.copytree(store, tmp_path / "there"))
    cut(there / cell)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "one"))
    run = bench("run", *ASKED, "--out", url)
    assert f"or let bench mend {url} move all that is damaged aside" in run.err
    assert bench("mend", url, "--dry-run").status == 1
    assert (there / cell).is_file()
    said = bench("mend", url)
    assert f"{url}/{cell} is damaged" in said.out
    assert f"files are in {url}/damaged now" in said.out
    assert not (there / cell).exists()
    assert (there / "damaged" / cell).is_file()
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "two"))
    assert bench("mend", url).out.startswith("all ")


def test_a_half_written_file_is_swept_away(store: Path, bench: Bench) -> None:
    half = store / "records" / ".x1y2.tmp"
    half.write_bytes(b"half")
    assert bench("mend", store, "--dry-run").status == 0
    assert half.exists()
    assert bench("mend", store).status == 0
    assert not half.exists()


def test_a_run_that_meets_damage_says_what_mends_it(store: Path, bench: Bench) -> None:
    cut(next(store.glob("records/**/*.parquet")))
    said = bench("run", *ASKED, "--out", store)
    assert said.status == 2
    assert f"or let bench mend {store} move all that is damaged aside" in said.err
    assert len(said.err.strip().splitlines()) == 1


def test_a_folder_without_results_is_not_made(bench: Bench, tmp_path: Path) -> None:
    assert bench("mend", tmp_path / "resluts").status == 2
    assert not (tmp_path / "resluts").exists()
