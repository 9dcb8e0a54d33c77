"""Every result names the command that made it and the protocol that this came to."""

import html
import shlex
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import robustness_bench as rb
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.files import read_json
from robustness_bench.benchmark.plan.layers import to_toml
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import make_plan
from robustness_bench.benchmark.store.cells import find_records, read_record
from robustness_bench.benchmark.store.folder import protocol_file
from tests.benchmark.run.test_run import plant
from tests.conftest import Bench

TINY = ["run", "--defense", "undefended", "--norm", "linf", "--threat", "white", "--attacks", "none,pgd-40"]
TINY += ["--epochs", "1", "--train-limit", "96", "--width", "2", "--n-examples", "12", "--eps-linf", "0.125"]


@pytest.fixture(scope="module")
def finished(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a run was started; its results are in the folder ``results`` there."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        said = bench(*TINY)
    assert said.status == 0, said.err
    return folder


def environments(store: Path) -> Iterator[dict[str, Any]]:
    """Of every record, card and diagnosis."""
    yield from (read_record(path).environment for path in find_records(store))
    for path in [*store.glob("checkpoints/*/*.json"), *store.glob("diagnoses/*/*.json")]:
        yield read_json(path)["environment"]


def names(store: Path) -> list[str]:
    return [path.name for path in find_records(store)]


def test_every_result_names_its_command_and_its_protocol(finished: Path) -> None:
    store = finished / "results"
    told = list(environments(store))
    assert len(told) == 4  # two cells, a model, its diagnosis
    (protocol,) = (store / "protocols").iterdir()
    assert {(each["command"], each["protocol"]) for each in told} == {
        (shlex.join(["bench", *TINY]), protocol.stem)
    }
    checked = load_protocol(protocol)
    assert to_toml(checked.resolved) == protocol.read_text()
    plan = make_plan(checked, {"digits": locate("digits", Path())})
    assert {read_record(path).id for path in find_records(store)} == {
        task.id for task in plan if task.how.result
    }


def test_the_command_makes_the_same_cells_elsewhere(
    bench: Bench, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = next(environments(finished / "results"))
    monkeypatch.chdir(tmp_path)
    assert bench(*shlex.split(told["command"])[1:]).status == 0
    assert names(tmp_path / "results") == names(finished / "results")
    kept = protocol_file(tmp_path / "results", told["protocol"])
    assert kept.read_bytes() == protocol_file(finished / "results", told["protocol"]).read_bytes()


def test_the_site_shows_exactly_that_command(bench: Bench, finished: Path, tmp_path: Path) -> None:
    assert bench("leaderboard", "build", finished / "results", "--out", tmp_path / "site").status == 0
    (page,) = (tmp_path / "site" / "defenses").iterdir()
    text = html.unescape(page.read_text())
    assert f"<code>{shlex.join(['bench', *TINY])}</code>" in text
    assert "exactly the ids of all 2 records" in text
    (config,) = (tmp_path / "site" / "reproduce").iterdir()
    assert config.read_bytes() == (finished / "results" / "protocols" / config.name).read_bytes()
    assert text.count("<dt>command</dt>") == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit leaves logs open
def test_a_run_from_python_names_the_command_that_does_the_same(
    bench: Bench, finished: Path, tmp_path: Path
) -> None:
    (file,) = (finished / "results" / "protocols").iterdir()
    resolved = load_protocol(file).resolved
    engine: dict[str, Any] = {}
    if find_spec("submitit"):
        engine = {"engine": "slurm", "engine_options": {"cluster": "debug"}, "shard_size": 4, "workers": 1}
    rb.run(resolved, out=tmp_path / "from python", device="cpu", **engine)
    assert (tmp_path / "from python" / ".slurm").exists() == bool(engine)
    told = list(environments(tmp_path / "from python"))
    assert len({each["command"] for each in told}) == 1
    words = shlex.split(told[0]["command"])
    assert words[:3] == ["bench", "run", "--config"]
    assert Path(words[3]).read_bytes() == file.read_bytes()
    assert names(tmp_path / "from python") == names(finished / "results")
    assert "nothing to do: all 2 cells are done" in bench(*words[1:]).out


def test_a_failed_cell_names_it_too(
    bench: Bench, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, "Raises")
    words = [*TINY, "--attacks", "planted", "--no-diagnosis", "--out", str(tmp_path / "failed")]
    assert bench(*words).status == 1
    records = [read_record(path) for path in find_records(tmp_path / "failed")]
    assert sorted(record.status for record in records) == ["error", "ok", "ok"]
    assert {record.environment["command"] for record in records} == {shlex.join(["bench", *words])}


def test_where_all_is_done_a_protocol_is_written_only_if_results_name_one_that_is_gone(
    bench: Bench, finished: Path, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(finished / "results", tmp_path / "store"))
    (protocol,) = (store / "protocols").iterdir()
    whole = protocol.read_bytes()
    protocol.write_bytes(whole[:-9])
    assert str(protocol) in bench("mend", store).out
    fewer = [word.removesuffix(",pgd-40") for word in TINY]
    assert "nothing to do: all 1 cells" in bench(*fewer, "--out", store).out
    assert not list((store / "protocols").iterdir())
    assert "nothing to do" in bench(*TINY, "--out", store).out
    assert [file.read_bytes() for file in (store / "protocols").iterdir()] == [whole]


def test_protocols_move_with_their_results(bench: Bench, finished: Path, tmp_path: Path) -> None:
    assert bench("export", finished / "results", tmp_path / "a.zip").status == 0
    assert bench("import", tmp_path / "a.zip", "--out", tmp_path / "other").status == 0
    (kept,) = (tmp_path / "other" / "protocols").iterdir()
    assert kept.read_bytes() == (finished / "results" / "protocols" / kept.name).read_bytes()
