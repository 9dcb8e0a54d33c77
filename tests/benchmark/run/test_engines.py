"""The same plan in shards on every engine: the same bytes, the same lines, though a worker is killed."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustness_bench.attacks import registry
from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.errors import BenchError, StoreError
from robustness_bench.benchmark.run.engines.local import Local
from robustness_bench.benchmark.run.engines.ray import Ray
from tests.conftest import Bench

PLAN = """
defenses = ["undefended"]
norms = ["linf"]
diagnosis = false
[dataset.digits]
n_examples = 12
[dataset.digits.model]
name = "magnet-cnn"
width = 2
[dataset.digits.surrogate]
model = "magnet-cnn"
width = 2
[dataset.digits.training]
epochs = 1
train_limit = 48
[dataset.digits.attacks.strict]
linf = ["none", "pgd-40", "planted"]
"""
TASKS = 18  # two trainings, two craftings on the surrogate, six cells; two shards of four of these


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """A cluster of two nodes with a core each."""
    pytest.importorskip("ray", reason="needs the extra ray")
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster: Any = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(params=["local", "ray", "submitit local", "submitit debug"])
def engine(request: pytest.FixtureRequest) -> list[str]:
    """The options that choose an engine with two workers; submitit's debugging has one, in this process."""
    name, _, cluster = request.param.partition(" ")
    if name == "local":
        return ["--workers", "2"]
    if name == "ray":
        return ["--engine", "ray", "--address", request.getfixturevalue("ray_address")]
    pytest.importorskip("submitit", reason="needs the extra slurm")
    return ["--engine", "slurm", "--workers", "2", "--engine-option", f"cluster={cluster}"]


@pytest.fixture(scope="module")
def deadly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file, if it is made, for which a process that runs the attack "planted" is killed."""
    file = tmp_path_factory.mktemp("deadly") / "kill"
    parameters = {"source": "test", "file": str(file)}
    preset: dict[str, Any] = {"label": "Planted", "norms": ["linf"], "kind": "budget", "strict": parameters}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._tables(), "planted", preset | {"attack": "tests.support:KillsOnce"})
        yield file


@pytest.fixture(scope="module")
def plan(bench: Bench, deadly: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[object], Path]:
    """A command, and what it leaves in a folder without any worker or shard."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "plan.toml").write_text(PLAN)
    command = ["run", "--config", folder / "plan.toml", "--batch-size", 4]
    said = bench(*command, "--out", folder / "here", "--workers", 1)
    assert said.status == 0, said.err
    assert "shard" not in said.out
    return command, folder / "here"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit leaves logs open
def test_every_engine_leaves_the_same_bytes_though_a_worker_is_killed(
    bench: Bench, plan: tuple[list[object], Path], deadly: Path, engine: list[str], tmp_path: Path
) -> None:
    command, here = plan
    kills = "cluster=debug" not in engine
    if kills:
        deadly.touch()
    said = bench(*command, "--out", tmp_path, "--shard-size", 6, *engine)
    assert said.status == 0, said.err
    assert not deadly.exists()
    assert said.out.count("a worker process was killed; once more: digits linf") == kills
    finished = re.findall(
        rf"^\[(\d+)/{TASKS}\] +[\d.]+ s  digits .*\(\d+ (?:s|min) left\)$", said.out, re.MULTILINE
    )
    assert [int(number) for number in finished] == list(range(1, TASKS + 1))
    assert contents(tmp_path) == contents(here)
    assert not list(tmp_path.rglob("*.partial"))


def contents(out: Path) -> dict[str, Any]:
    """All results: tables and tensors as bytes; of records, all but the environment and the seconds."""
    from robustness_bench.benchmark.store.cells import find_records, read_record

    found: dict[str, Any] = {
        str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*.safetensors")
    }
    found["results.csv"] = (out / "results.csv").read_bytes()
    assert len(found) == 9  # two models, two times crafted, four galleries
    for path in find_records(out):
        record = read_record(path)
        rows = {name: column.tobytes() for name, column in record.rows.items()}
        found[str(path.relative_to(out))] = (record.id, record.status, rows)
    assert len(found) == 9 + 6
    return found


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_results_at_a_url_are_the_same_bytes_and_another_machine_goes_on_with_them(
    bench: Bench,
    plan: tuple[list[object], Path],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import fsspec

    command, here = plan
    url = f"{kind}://{tmp_path}/there"
    files, root = fsspec.url_to_fs(url)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "one"))
    said = bench(*command, "--out", url, "--workers", 1)
    assert said.status == 0, said.err
    assert f"tables are in {url}/" in said.out

    (lost,) = files.glob(f"{root}/records/digits/linf/white/undefended/pgd-40*")
    files.rm(lost)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "two"))
    said = bench(*command, "--out", url, "--workers", 1)
    assert "1 of 6 cells to do, 1 tasks on cpu" in said.out
    files.get(f"{root}/", f"{tmp_path}/got/", recursive=True)
    assert contents(tmp_path / "got") == contents(here)
    assert "nothing to do" in bench(*command, "--out", url).out
    assert bench(*command, "--out", f"nowhere://{tmp_path}").err.count("\n") == 1


def test_a_worker_with_its_own_disk_fetches_what_a_task_needs_and_puts_what_it_made(
    tmp_path: Path,
) -> None:
    from robustness_bench.benchmark.mirror import Mirror

    cell, model = Path("records/a/pgd-0123.parquet"), Path("checkpoints/a/vgg-4567.safetensors")
    first, second = (Mirror("memory://apart", tmp_path / name) for name in ("first", "second"))
    made = [
        "records/a/pgd-0123.8.0-2.partial",
        "records/a/pgd-9.parquet",
        str(model),
        str(model.with_suffix(".json")),
    ]
    for name in made:
        (first.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (first.folder / name).write_text(name)
    first.push()
    second.fetch([cell, model])
    there = {path.relative_to(second.folder).as_posix() for path in second.folder.rglob("[!.]*.*")}
    assert there == {name for name in made if "pgd-9" not in name}

    rows = second.folder / made[0]
    (first.folder / made[0]).write_text("more rows than before, by the same worker")
    first.put(cell, whole=False)
    second.fetch([cell])
    assert rows.read_text().startswith("more rows")
    rows.unlink()
    (second.folder / cell).write_text("record")
    second.put(cell, whole=False)
    third = Mirror("memory://apart", tmp_path / "third")
    third.pull()
    assert (third.folder / made[0]).exists()
    second.put(cell, whole=True)
    (third.folder / made[0]).unlink()
    third.pull()
    assert not (third.folder / made[0]).exists()
    assert (third.folder / cell).read_text() == "record"

    time.sleep(0.002)
    (second.folder / cell).write_text("newer.")
    second.put(cell, whole=True)
    stamp = (second.folder / cell).stat().st_ino
    for machine in (third, second):
        machine.fetch([cell])
        assert (machine.folder / cell).read_text() == "newer."
    second.pull()
    assert (second.folder / cell).stat().st_ino == stamp  # it was not fetched, being what was put

    (third.folder / cell).unlink()  # as bench mend does with what is damaged
    time.sleep(0.002)  # memory:// knows a file by its size and the time it was made
    (first.folder / cell).write_text("made anew")
    first.put(cell, whole=True)
    third.push()
    second.pull()
    assert (second.folder / cell).read_text() == "made anew"
    (second.folder / cell).unlink()
    second.push()
    assert cell.as_posix() not in " ".join(second._files.find("/apart"))


def test_a_name_that_leads_out_of_the_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buckets can hold any name; this file system would tidy it up."""
    from robustness_bench.benchmark.mirror import Mirror

    mirror = Mirror("memory://led-out", tmp_path / "deep" / "here")
    mirror._files.pipe_file("/led-out/records/a.parquet", b"planted")
    found = mirror._files.find("/led-out", detail=True)
    (whole,) = found.values()
    monkeypatch.setattr(type(mirror._files), "cat_file", lambda *_: b"planted")
    monkeypatch.setattr(type(mirror._files), "find", lambda *_, **__: {"/led-out/../../out": whole})
    with pytest.raises(StoreError, match=r"has a file '\.\./\.\./out', which would lie outside"):
        mirror.pull()
    assert not list(tmp_path.rglob("out"))


@pytest.mark.parametrize(
    ("limit", "processes", "threads"),
    [("", 1, [4, 4]), ("3", 1, [3, 3]), ("9", 2, [2, 2]), ("all", 1, [4, 4])],
)
def test_no_worker_has_more_threads_than_openmp_is_told(
    monkeypatch: pytest.MonkeyPatch, limit: str, processes: int, threads: list[int]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    context = Context(out=Path("r"), device="cpu", batch_size=0, threads=1, processes=processes)
    assert [seat.threads for seat in Local().seats(context, 2, 9)] == threads


def test_an_address_where_nobody_listens_is_refused_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would try to reach it for minutes."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(BenchError, match=f"no Ray cluster at --address {address} .*refused"):
        Ray(address, {}).seats(Context(out=Path("r"), device="cpu", batch_size=0, threads=1), 1, 1)
