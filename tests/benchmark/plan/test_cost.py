"""What `bench plan` says of time: the least and the most, against what was measured."""

import dataclasses
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from robustness_bench.benchmark.cli import app
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.plan.cost import (
    Seconds,
    Speed,
    measure,
    passes,
    predicted_seconds,
    predicted_total,
)
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Task, make_plan
from robustness_bench.benchmark.run.watching.progress import Progress, between, duration
from robustness_bench.benchmark.store.cells import find_records, read_record

DIGITS = Path(__file__).parents[3] / "results" / "digits"
UNIT = Speed(forward=1.0, backward=2.0)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    """Everything that a small white- and black-box plan runs."""
    asked = {"datasets": ["digits"], "defenses": ["standard", "namid"], "norms": ["linf"], "seeds": 1}
    protocol = load_protocol(None, asked)
    return make_plan(protocol, {"digits": locate("digits", Path())})


def one(tasks: list[Task], kind: str, attack: str = "", threat: str = "white") -> Task:
    return next(
        task
        for task in tasks
        if task.kind == kind
        and (not attack or (task.spec["attack"], task.spec["threat"]) == (attack, threat))
    )


def test_what_records_say_lies_between_none_and_all_withstand(tasks: list[Task]) -> None:
    """Every white-box cell of one seed of results/digits, by the passes it really took."""
    model, seen = one(tasks, "evaluate", "aa"), set()
    for path in find_records(DIGITS):
        record = read_record(path)
        if record.spec["threat"] != "white" or record.seed:
            continue
        spec = {**model.spec, **{k: record.spec[k] for k in ("attack", "parameters", "n_examples")}}
        task = dataclasses.replace(model, spec=spec)
        low, high = passes(task, 0.0), passes(task, 1.0)
        took = float(record.rows["forwards"].sum()), float(record.rows["backwards"].sum())
        assert low.forwards - 0.01 <= took[0] <= high.forwards + 0.01, path
        assert low.backwards <= took[1] <= high.backwards + 0.01, path
        seen.add(record.spec["attack"])
    assert {"none", "pgd-40", "aa", "ddn", "ti-dim", "fwa-40"} <= seen


def test_only_what_depends_on_samples_that_withstand_is_uncertain(tasks: list[Task]) -> None:
    train, aa = one(tasks, "train"), one(tasks, "evaluate", "aa")
    assert passes(train, 0.0) == passes(train, 1.0) == passes(train)
    least, half, most = (passes(aa, share).total for share in (0.0, 0.5, 1.0))
    assert half == pytest.approx((least + most) / 2)
    assert passes(aa) == passes(aa, 0.5)
    assert most > 1000 * least
    replayed = one(tasks, "evaluate", "aa", "black")
    assert passes(replayed, 0.0) == passes(replayed, 1.0)
    crafted = one(tasks, "craft")
    assert passes(crafted, 0.0) == passes(crafted, 1.0)  # on a surrogate every sample is attacked to the end
    diagnosed = one(tasks, "diagnose")
    assert passes(diagnosed, 0.0).total < passes(diagnosed, 1.0).total


def test_seconds_follow_the_passes(tasks: list[Task]) -> None:
    aa = one(tasks, "evaluate", "aa")
    speeds = {passes(aa).model: UNIT}
    low, high = predicted_seconds(aa, speeds)
    assert (
        low <= UNIT.seconds(passes(aa, 0.0)) < UNIT.seconds(passes(aa)) < UNIT.seconds(passes(aa, 1.0)) < high
    )
    unsteady = {passes(aa).model: UNIT._replace(unsteady=3.0)}
    slow = predicted_seconds(aa, unsteady)
    assert slow.low == low
    assert slow.high == pytest.approx(3 * high)


def test_the_total_by_hand(tasks: list[Task]) -> None:
    """One chain of train, diagnose, evaluate beside nothing; then a second worker, which cannot help."""
    last = one(tasks, "evaluate", "aa")
    train = last.parents["model"]
    chain = [train, dataclasses.replace(last, parents={"model": train})]
    seconds = {train.id: Seconds(10.0, 20.0), last.id: Seconds(1.0, 100.0)}
    assert predicted_total(seconds, chain, 1) == (10.0 + 1.0 + 1.0, 120.0 + 30.0)
    assert predicted_total(seconds, chain, 2) == (11.0 + 1.0, 120.0 + 30.0)
    apart = [train, dataclasses.replace(last, parents={})]
    assert predicted_total(seconds, apart, 2) == (10.0 + 1.0, 60.0 + 50.0 + 30.0)


def test_the_timed_batch(tasks: list[Task]) -> None:
    import torch

    from robustness_bench.benchmark.context import Context

    train = one(tasks, "train")
    threads = torch.get_num_threads()
    context = Context(out=Path(), device="cpu", batch_size=0, threads=1)
    (speed,) = measure([train], context).values()
    assert speed.forward > 0
    assert speed.backward >= 0
    assert speed.unsteady >= 1
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("seconds", "said"),
    [((3.0, 70.0), "3 s to 70 s"), ((0.1, 0.2), "0 s"), ((80.0, 7200.0), "80 s to 2 h 00 min")],
)
def test_said(seconds: tuple[float, float], said: str) -> None:
    assert between(Seconds(*seconds)) == said


def test_plan_prints_a_range_and_no_assumption(tmp_path: Path) -> None:
    asked = "--defense undefended --norm linf --threat white --attacks none,pgd-40 --n-examples 5 --epochs 1"
    said = CliRunner().invoke(app, ["plan", *asked.split(), "--out", str(tmp_path)])
    assert said.exit_code == 0, said.output
    assert "half of the samples" not in said.output
    assert re.search(r"^4 tasks, \d+ s to \d.* with \d+ workers? on ", said.output, re.MULTILINE)
    (attacked,) = [line for line in said.output.splitlines() if "pgd-40" in line]
    assert re.match(r" +0 s( to \d|  )", attacked)  # on a fast machine even the most rounds to 0


def test_progress_counts_the_middle(tasks: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    """A training done in an hour, an attack to come: one number, from half of the samples withstanding."""
    train, aa = one(tasks, "train"), one(tasks, "evaluate", "aa")
    work = {task.id: passes(task) for task in (train, aa)}
    monkeypatch.setattr(
        "robustness_bench.benchmark.run.watching.progress.time.monotonic",
        iter([0.0, 0.0, *[3600.0] * 9]).__next__,
    )
    progress = Progress([train, aa], work, live=False)
    progress.started(train)
    progress.advanced(train.id, 1, 1, "epochs")
    ends = (passes(aa, 0.0).total + passes(aa, 1.0).total) / 2
    assert progress._left() == duration(3600 * ends / passes(train).total)
