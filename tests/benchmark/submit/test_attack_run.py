"""From the template of an attack to a lowered worst case, and what a store must not suffer."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from robustness_bench.benchmark.context import Context, environment
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.files import write_atomic
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Task, make_plan
from robustness_bench.benchmark.report.lines.worst_case import SUBMITTED, worst_case
from robustness_bench.benchmark.run.engines.worker import perform
from robustness_bench.benchmark.store.cells import find_records, read_record
from robustness_bench.benchmark.submit.checks import attack as attack_checks
from tests.benchmark.sandbox.forked import forking
from tests.benchmark.sandbox.hostile import needs_walls
from tests.benchmark.sandbox.hostile_attacks.sent import sent_in
from tests.benchmark.submit.submissions import EXAMPLE, WEIGHTS
from tests.conftest import Bench, Said

pytestmark = needs_walls

MOVES = "x = (x + eps * (1 - 2 * (x > 0.5).float())).clamp(0, 1)"
TINY: list[object] = ["run", "--defense", "undefended", "--threat", "white", "--weights", EXAMPLE / WEIGHTS]
TINY += ["--width", "4", "--n-examples", "24", "--attacks", "none,ti-dim", "--norm", "linf", "--gallery", "0"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What TINY makes, but for the diagnoses: two defenses with the weights of the worked example."""
    out = tmp_path_factory.mktemp("attacked") / "results"
    data = {"digits": locate("digits", Path())}
    context = Context(out=out, device="cpu", batch_size=0, threads=1, gallery=0)
    tree = {"weights": str(EXAMPLE / WEIGHTS), "model": {"width": 4}, "n_examples": 24}
    tree |= {"norms": ["linf"], "threats": ["white"], "attacks": {"strict": {"linf": ["none", "ti-dim"]}}}
    for defense in ("undefended", "standard"):
        for task in make_plan(load_protocol(None, {**tree, "defenses": [defense]}), data):
            _do(task, context)
    return out


def _do(task: Task, context: Context) -> None:
    if task.kind != "diagnose":
        assert perform(task, context, lambda done, total, unit: None) == ""
        return
    card = {"id": task.id, "seed": task.seed, "spec": task.spec, "measured": {}, "flags": []}
    card |= {"environment": environment("cpu"), "seconds": 0.0}
    write_atomic(context.out / task.path, json.dumps(card).encode())


@pytest.fixture
def tried_elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The checks that run the code have tests of their own; here it runs in forks, without gradients."""
    monkeypatch.setattr(attack_checks, "_tried", lambda attack, folder: iter(()))
    with forking():
        yield


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "results"))


def send(bench: Bench, folder: Path, store: Path, *more: object) -> Said:
    return bench("submit", "run", folder, "--trust-code", "--out", store, *more)


def contents(store: Path) -> dict[str, str]:
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def sent_records(store: Path, defense: str = "*") -> list[Path]:
    return sorted(store.glob(f"records/digits/linf/white/{defense}/{SUBMITTED}-*.parquet"))


def worst(store: Path, defense: str = "undefended") -> float:
    lines = worst_case([read_record(path) for path in find_records(store)], "strict")
    (value,) = (line.bounded.mean for line in lines if line.defense == defense and line.bounded)
    return value


def row_of(said: str, label: str) -> list[float]:
    """The figures of a row of the last table."""
    (line,) = (line for line in said.splitlines() if line.startswith(label))
    return [float(word) for word in re.findall(r"\d+\.\d", line)]


def test_from_template_to_a_lowered_worst_case(bench: Bench, store: Path, tmp_path: Path) -> None:
    mine = sent_in(tmp_path / "mine")
    before, kept = {name: worst(store, name) for name in ("undefended", "standard")}, contents(store)
    said = send(bench, mine, store)
    assert said.status == 0, said.err
    assert "2 of 2 cells to do on cpu" in said.out
    assert "[2/2]" in said.out
    assert "L∞ (ε = 0.18)  Worst before  This attack  Worst after" in said.out
    for name, label in (("undefended", "Undefended"), ("standard", "Standard AT")):
        assert row_of(said.out, label)[0] == pytest.approx(before[name], abs=0.05)
        assert row_of(said.out, label)[2] == pytest.approx(worst(store, name), abs=0.05)
    assert worst(store) < before["undefended"]
    (path,) = sent_records(store, "undefended")
    record = read_record(path)
    assert row_of(said.out, "Undefended")[1] == pytest.approx(100 * record.robust.mean(), abs=0.05)
    told = record.spec["parameters"]
    assert (told["name"], told["authors"], told["link"]) == (
        "My PGD",
        ["Ada Lovelace"],
        "https://example.org/paper",
    )
    assert told["sha256"] == hashlib.sha256((mine / "attack.py").read_bytes()).hexdigest()
    assert (record.spec["kind_of_attack"], record.spec["attack"]) == (SUBMITTED, "submitted-my-pgd")
    assert set(record.spec["parents"]) == {"model"}
    assert record.rows["backwards"].max() > 0
    after = contents(store)
    assert {name: after[name] for name in kept} == kept
    assert all("/submitted-my-pgd-seed0-" in name for name in after.keys() - kept.keys())


@pytest.mark.usefixtures("tried_elsewhere")
def test_tables_site_and_archive_have_it_with_credit(bench: Bench, store: Path, tmp_path: Path) -> None:
    mine, site = sent_in(tmp_path / "mine", MOVES), tmp_path / "site"
    assert send(bench, mine, store).status == 0
    said = bench(*TINY, "--out", store)
    assert "nothing to do" in said.out
    assert "submitted-my-pgd against standard, submitted-my-pgd against undefended" in " ".join(
        said.out.split()
    )
    assert row_of(said.out, "Undefended")[-1] == pytest.approx(worst(store), abs=0.05)
    assert bench("leaderboard", "build", store, "--out", site).status == 0
    (page,) = site.glob("defenses/undefended-*.html")
    text = page.read_text(encoding="utf-8")
    assert "My PGD" in text
    assert "Ada Lovelace" in text
    assert 'href="https://example.org/paper"' in text
    assert bench("verify", *sent_records(store)).status == 0
    archive, other = tmp_path / "results.zip", tmp_path / "other"
    assert bench("export", store, archive).status == 0
    assert bench("import", archive, "--out", other).status == 0
    assert worst(other) == worst(store)


@pytest.mark.usefixtures("tried_elsewhere")
def test_the_same_command_goes_on(bench: Bench, store: Path, tmp_path: Path) -> None:
    mine = sent_in(tmp_path / "mine", MOVES)
    first = send(bench, mine, store)
    made = {path: read_record(path) for path in sent_records(store)}
    said = send(bench, mine, store)
    assert "nothing to do: all 2 cells are done" in said.out
    assert row_of(said.out, "Undefended") == row_of(first.out, "Undefended")
    lost = sent_records(store, "standard")[0]
    lost.unlink()
    assert "1 of 2 cells to do" in send(bench, mine, store).out
    again = read_record(lost)
    assert again.id == made[lost].id
    assert all(np.array_equal(again.rows[name], made[lost].rows[name]) for name in again.rows)
    shutil.rmtree(store / "checkpoints")
    assert "nothing to do: all 2 cells are done" in send(bench, mine, store).out


@pytest.mark.usefixtures("tried_elsewhere")
def test_other_code_is_another_result(bench: Bench, store: Path, tmp_path: Path) -> None:
    mine = sent_in(tmp_path / "mine", MOVES)
    assert send(bench, mine, store, "--defense", "undefended").status == 0
    with (mine / "attack.py").open("a") as file:
        file.write("# other code\n")
    assert "1 of 1 cells to do" in send(bench, mine, store, "--defense", "undefended").out
    assert len(sent_records(store)) == 2


@pytest.mark.usefixtures("tried_elsewhere")
def test_only_what_is_asked_for(bench: Bench, store: Path, tmp_path: Path) -> None:
    mine = sent_in(tmp_path / "mine", MOVES)
    said = send(bench, mine, store, "--defense", "undefende")
    assert said.status == 2
    assert "unknown defense 'undefende'; did you mean undefended" in said.err
    before = worst(store)
    said = send(bench, mine, store, "--defense", "undefended", "--quick")
    assert said.status == 0, said.err
    assert "Accuracy in % on 20 test images" in said.out
    assert "Standard AT" not in said.out
    (path,) = sent_records(store)
    record = read_record(path)
    assert (record.spec["n_examples"], len(record.rows["sample"])) == (20, 20)
    assert worst(store) == before
    assert (
        "nothing to do: all 1 cells are done"
        in send(bench, mine, store, "--defense", "undefended", "--quick").out
    )
    (full,) = store.glob("records/digits/linf/white/undefended/ti-dim-*.parquet")
    ti_dim = read_record(full)
    shown = np.isin(ti_dim.rows["sample"], record.rows["sample"])
    assert row_of(said.out, "Undefended")[0] == pytest.approx(100 * ti_dim.robust[shown].mean(), abs=0.05)
    both = 100 * (ti_dim.robust[shown] & record.robust).mean()
    assert row_of(said.out, "Undefended")[2] == pytest.approx(both, abs=0.05)


@pytest.mark.usefixtures("tried_elsewhere")
def test_models_whose_weights_are_gone_are_a_line_each(bench: Bench, store: Path, tmp_path: Path) -> None:
    mine = sent_in(tmp_path / "mine", MOVES)
    (gone,) = store.glob("checkpoints/digits/standard-*.safetensors")
    gone.unlink()
    said = send(bench, mine, store)
    assert said.status == 0, said.err
    skipped = [line for line in said.out.splitlines() if line.startswith("skipped")]
    assert len(skipped) == 1
    assert re.match(r"skipped +digits standard, seed 0: its weights \(\w{12}\) are not in ", skipped[0])
    assert "1 of 1 cells to do" in said.out
    for path in store.glob("checkpoints/digits/*.safetensors"):
        path.unlink()
    (sent,) = sent_records(store)
    sent.unlink()
    before = contents(store)
    said = send(bench, mine, store)
    assert said.status == 2
    assert said.out.count("skipped ") == 2
    assert "nothing to attack: each model of" in said.err
    assert contents(store) == before


@pytest.mark.usefixtures("tried_elsewhere")
def test_where_there_is_nothing_to_attack(bench: Bench, store: Path, tmp_path: Path) -> None:
    mine = sent_in(tmp_path / "mine", MOVES)
    said = send(bench, mine, tmp_path / "nowhere")
    assert said.status == 2
    assert "nothing to attack: " in said.err
    assert "has no white-box results for any in linf, l2; bench run makes some" in said.err
    assert not (tmp_path / "nowhere").exists()
    said = send(bench, mine, store.parent)
    assert f"is a folder of stores: name one with --out, such as {store}" in said.err
    other = sent_in(tmp_path / "other", datasets='["cifar10"]')
    assert "no white-box results for cifar10" in send(bench, other, store).err
    other = sent_in(tmp_path / "another", norms='["l2"]')
    assert "no white-box results for any in l2" in send(bench, other, store).err


@pytest.mark.usefixtures("tried_elsewhere")
def test_options_of_the_other_kind_are_refused(bench: Bench, store: Path, tmp_path: Path) -> None:
    mine = sent_in(tmp_path / "mine", MOVES)
    said = send(bench, mine, store, "--workers", "2")
    assert said.status == 2
    assert "--workers is for a defense, which this submission is not" in said.err
    assert "--keep-examples is for a defense" in send(bench, mine, store, "--keep-examples").err
    before = contents(store)
    said = bench("submit", "run", mine, "--out", store)
    assert "read its attack.py, then add --trust-code" in said.err
    assert contents(store) == before


HOSTILE = {
    "raises": ("raise ValueError('only now')", "ValueError: only now (attack.py, line 7)"),
    "budget": ("return (x + 2 * eps).clamp(0, 1)", "left its budget: linf distance"),
    "box": ("return x + 2", "the attack returned pixels in ["),
    "nan": ("return x * float('nan')", "pixels that are not finite"),
    "endless": ("while True: model(x)", "more than 21 forward passes"),
    "writes": ("open({victim!r}, 'w')", "PermissionError"),
    "ends": ("os._exit(0)", "ended with status 0"),
}


@pytest.mark.usefixtures("tried_elsewhere")
@pytest.mark.parametrize("name", HOSTILE)
def test_an_attack_that_fails_is_an_error_and_harms_nothing(
    bench: Bench, store: Path, tmp_path: Path, name: str
) -> None:
    body, says = HOSTILE[name]
    victim = str(next(store.glob("checkpoints/digits/*.safetensors")))
    mine = sent_in(tmp_path / "mine", body.format(victim=victim), norms='["linf"]')
    before = contents(store)
    said = send(bench, mine, store, "--defense", "undefended")
    assert said.status == 1
    assert "1 cells failed" in said.err
    assert says in said.err
    assert re.search(r"Undefended +\d+\.\d +ERROR +\d+\.\d", said.out)
    (path,) = sent_records(store)
    record = read_record(path)
    assert record.status == "error"
    assert says in record.error
    after = contents(store)
    assert after.pop(path.relative_to(store).as_posix())
    assert after == before
    assert "1 of 1 cells to do" in send(bench, mine, store, "--defense", "undefended").out


@pytest.mark.usefixtures("tried_elsewhere")
def test_a_cell_that_failed_is_in_no_table_and_on_no_page(bench: Bench, store: Path, tmp_path: Path) -> None:
    mine, site = sent_in(tmp_path / "mine", "raise ValueError('only now')"), tmp_path / "site"
    before = worst(store)
    assert send(bench, mine, store).status == 1
    assert worst(store) == before
    said = bench(*TINY, "--out", store)
    assert said.status == 0, said.err
    assert row_of(said.out, "Undefended")[-1] == pytest.approx(before, abs=0.05)
    assert "submitted-my-pgd" not in said.out
    assert "ValueError: only now" in (store / "results.csv").read_text()
    assert bench("leaderboard", "build", store, "--out", site).status == 0
    (page,) = site.glob("defenses/undefended-*.html")
    assert "My PGD" not in page.read_text(encoding="utf-8")


@pytest.mark.usefixtures("tried_elsewhere")
def test_one_that_fails_does_not_keep_the_others(bench: Bench, store: Path, tmp_path: Path) -> None:
    (gone,) = store.glob("checkpoints/digits/standard-*.safetensors")
    gone.write_bytes(gone.read_bytes()[:-1])
    said = send(bench, sent_in(tmp_path / "mine", MOVES), store)
    assert said.status == 1
    assert "is damaged" in said.err
    (path,) = sent_records(store)
    assert "/undefended/" in path.as_posix()


def test_checks_that_fail_end_it_before_anything_runs(bench: Bench, store: Path, tmp_path: Path) -> None:
    before = contents(store)
    with forking():
        said = send(bench, sent_in(tmp_path / "mine", "return x + 2"), store)
    assert said.status == 1
    assert "end with clamp(0, 1)" in said.out
    assert contents(store) == before
