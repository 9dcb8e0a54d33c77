"""A kind of task stands in one place: planned, run, estimated, found done, kept when it fails, archived."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustness_bench.attacks.class_names import load
from robustness_bench.benchmark.context import Advance, Context
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.exchange.facts import Facts, card_facts, examine
from robustness_bench.benchmark.exchange.sources import Folder
from robustness_bench.benchmark.files import write_json
from robustness_bench.benchmark.plan.cost import Passes, Speed, passes, predicted_seconds
from robustness_bench.benchmark.plan.kinds import TASK_KINDS, TaskKind
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Planner, Task
from robustness_bench.benchmark.run.engines.worker import perform
from robustness_bench.benchmark.store.cards import card_for
from robustness_bench.benchmark.store.folder import is_done, open_tasks

ARGUMENTS = {"run": 3, "passes": 2, "done": 2, "failed": 4, "archived": 2}


@pytest.mark.parametrize("kind", TASK_KINDS.values(), ids=list(TASK_KINDS))
@pytest.mark.parametrize("named", ARGUMENTS)
def test_every_function_that_a_kind_names_is_there(kind: TaskKind, named: str) -> None:
    if name := getattr(kind, named):
        assert len(inspect.signature(load(name)).parameters) == ARGUMENTS[named]
    else:
        assert named == "failed"


def draw(task: Task, context: Context, advance: Advance) -> None:
    """The work of the new kind: a card with a number, unless the number is bad luck."""
    if task.spec["number"] == 13:
        raise RuntimeError("bad luck")
    advance(1, 1, "numbers")
    card = {"format": 1, "sha256": "0" * 64, **card_for(task, context, 0.0)}
    write_json((context.out / task.path), card)


def cost(task: Task, withstanding: float) -> Passes:
    return Passes(("resnet-18", 8, "digits"), task.spec["number"] * withstanding, 0.0)


def is_drawn(path: Path, task: Task) -> bool:
    return path.is_file()


def keep_story(path: Path, task: Task, environment: dict[str, Any], error: str) -> None:
    write_json(path.with_suffix(".failed"), {"error": error, "python": environment["python"]})


def drawn_facts(path: Path, name: str) -> Facts:
    return card_facts(path, name)


@pytest.fixture
def new(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Task]:
    """Make a task of a kind that is known to nothing but its entry."""
    kind = TaskKind(
        name="draw",
        title="{dataset} draw {number} {times}, seed {seed}",
        folder="checkpoints",
        suffix=".json",
        run=f"{__name__}:draw",
        passes=f"{__name__}:cost",
        done=f"{__name__}:is_drawn",
        failed=f"{__name__}:keep_story",
        archived=f"{__name__}:drawn_facts",
        result=True,
        slower=3.0,
    )
    monkeypatch.setitem(TASK_KINDS, "draw", kind)
    planner = Planner(load_protocol().settings[0], locate("digits", Path("data")))
    return lambda number: planner.task(
        "draw", {"number": number, **planner.data.identity}, 2, f"draw-{number}-seed2", {}, times="once"
    )


def test_a_new_kind_is_one_entry(new: Callable[[int], Task], tmp_path: Path) -> None:
    task = new(7)
    assert task.title == "digits draw 7 once, seed 2"
    assert task.path == Path(f"checkpoints/digits/draw-7-seed2-{task.id}.json")
    assert [passes(task, share).forwards for share in (0.0, 1.0)] == [0.0, 7.0]
    assert predicted_seconds(task, {("resnet-18", 8, "digits"): Speed(1.0, 1.0)}).high == 21.0
    assert open_tasks(tmp_path, [task]) == [task]
    context = Context(out=tmp_path, device="cpu", batch_size=0, threads=1)
    assert perform(task, context, lambda *progress: None) == ""
    assert is_done(tmp_path, task)
    assert open_tasks(tmp_path, [task]) == []
    facts = examine(Folder(tmp_path), task.path.as_posix())
    assert (facts.id, facts.seed, facts.spec) == (task.id, 2, json.loads(json.dumps(task.spec)))


def test_what_fails_is_kept_as_its_kind_says(new: Callable[[int], Task], tmp_path: Path) -> None:
    task = new(13)
    context = Context(out=tmp_path, device="cpu", batch_size=0, threads=1)
    assert perform(task, context, lambda *progress: None).endswith("RuntimeError: bad luck\n")
    kept = json.loads((tmp_path / task.path).with_suffix(".failed").read_text())
    assert kept["error"].endswith("RuntimeError: bad luck\n")
    assert not is_done(tmp_path, task)
