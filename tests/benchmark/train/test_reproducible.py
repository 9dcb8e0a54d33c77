"""Every training in the same bytes again: after other work, resumed, in another process."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.plan.detectors import make_whole_plan
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.randomness import keyed
from robustness_bench.benchmark.run.agenda import run_tasks
from robustness_bench.benchmark.run.engines.local import Local
from robustness_bench.benchmark.run.engines.worker import perform
from robustness_bench.benchmark.train import loop
from robustness_bench.defenses import plugins

CPU = torch.device("cpu")
TRAINING = {"epochs": 2, "batch_size": 24, "train_limit": 100, "holdout": 0.1, "attack_steps": 1}
DETECTION = TRAINING | {"train_limit": 250, "holdout": 0.6}  # a threshold at 1 % needs 100 images
DRAWING = '''
import random
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from robustness_bench.defenses.base import Defense


@dataclass(frozen=True, kw_only=True)
class Drawing(Defense):
    """Natural training on images to which every global generator adds something."""

    adversarial = False

    def terms(self, batch):
        noise = 0.1 * torch.randn_like(batch.x) + float(np.random.beta(1.0, 1.0)) + 0.1 * random.random()
        return {"noisy": functional.cross_entropy(batch.model(batch.x + noise), batch.y)}
'''


def plan(*defenses: str, seeds: int = 1, **changes: Any) -> list[Task]:
    """Of MagNet's classifier, which has dropout, all over."""
    model = {"name": "magnet-cnn", "width": 4}
    overrides = {
        "defenses": list(defenses),
        "norms": ["linf"],
        "threats": ["white"],
        "seeds": seeds,
        "model": model,
        "training": TRAINING,
        "estimators": {"epochs": 1, "batch_size": 24, "attack_steps": 1, "units": 4},
        "attacks": {"strict": {"linf": ["none"], "l2": []}},
        "detection": {"model": model, "training": DETECTION, "part_epochs": 2},
        **changes,
    }
    return make_whole_plan(load_protocol(None, overrides), {"digits": locate("digits", Path("data"))})


def lineage(wanted: str, tmp_path: Path) -> list[Task]:
    """A task and all it needs."""
    if wanted == "calibrate":
        return next(list(t.lineage()) for t in plan("mi-magnet") if t.path.name.startswith("mi-literal"))
    if wanted == "plugin":
        file = tmp_path / "drawing.py"
        file.write_text(DRAWING)
        wanted = plugins.load_plugin(file)
    return [t for t in plan(wanted) if t.kind in ("train", "estimators")]


def where(out: Path) -> Context:
    return Context(out=out, device="cpu", batch_size=0, threads=1)


def ignore(*progress: object) -> None:
    """Who is told how it goes, and does not care."""


def disturb() -> None:
    """Other work that draws from the global generators."""
    torch.rand(7)
    np.random.random(3)
    random.random()


def state() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return (torch.get_rng_state().tolist(), name, list(keys), rest, random.getstate())


def make(tasks: list[Task], out: Path, advance: Callable[..., None] = ignore) -> dict[str, bytes]:
    """Run what is not there; what lies there afterwards."""
    for task in tasks:
        if not (out / task.path).exists():
            assert perform(task, where(out), advance) == ""
    return {str(task.path): (out / task.path).read_bytes() for task in tasks}


@pytest.mark.parametrize("wanted", ["undefended", "namid", "wmim", "calibrate", "plugin"])
def test_twice_in_one_process_is_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    """And the global generators are after it as before it."""
    monkeypatch.setattr(plugins, "_loaded", {})
    tasks = lineage(wanted, tmp_path)
    kinds = {"namid": {"train", "estimators"}, "calibrate": {"train", "part", "calibrate"}}
    assert {task.kind for task in tasks} >= kinds.get(wanted, {"train"})
    before = state()
    first = make(tasks, tmp_path / "first")
    assert state() == before
    disturb()
    assert make(tasks, tmp_path / "second") == first


class KilledError(BaseException):
    """Stands for the end of the process, which nothing catches."""


@pytest.mark.parametrize("wanted", ["undefended", "standard", "generator", "estimators", "prior"])
def test_resumed_within_an_epoch_is_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    names = {"generator": ("mi-magnet", "generator-"), "estimators": ("namid", "estimators-")}
    defense, start = names.get(wanted, (wanted, wanted))
    changes: dict[str, Any] = {}
    if wanted == "prior":
        defense = start = "standard"
        changes["training"] = TRAINING | {"prior": 10.0, "ema": 0.9, "label_smoothing": 0.1}
    task = next(t for t in plan(defense, **changes) if t.path.name.startswith(start))
    parents = list(task.lineage())[:-1]
    make(parents, tmp_path / "whole")
    if parents:
        shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    whole = make([task], tmp_path / "whole")
    monkeypatch.setattr(loop, "_KEEP_EVERY", 0.0)
    steps = 0

    def dying(*progress: object) -> None:
        nonlocal steps
        steps += 1
        if steps == (7 if wanted == "prior" else 3):  # of four in an epoch
            raise KilledError

    monkeypatch.setattr("robustness_bench.benchmark.run.engines.worker._REPORT_EVERY", -1.0)
    with pytest.raises(KilledError):
        make([task], tmp_path / "broken", dying)
    disturb()
    assert make([task], tmp_path / "broken") == whole
    assert steps in (3, 7)


class Silent:
    """Who is told how tasks go."""

    def started(self, task: Task) -> None: ...

    def advanced(self, task_id: str, done: float, total: float, unit: str) -> None: ...

    def finished(self, task: Task, error: str) -> None:
        assert error == ""

    def note(self, text: str) -> None: ...


def test_one_worker_and_two_leave_the_same_bytes(tmp_path: Path) -> None:
    tasks = [t for t in plan("undefended", "mi-magnet", seeds=2) if t.kind in ("train", "part")]
    assert len(tasks) == 2 * 2 + 2 * 3 + 2 * 3  # models with and without detectors; parts, attackers' too
    files = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        assert run_tasks(tasks, [where(out)] * workers, Silent(), Local()) == {}
        files.append({task.id: (out / task.path).read_bytes() for task in tasks})
    assert files[0] == files[1]


def test_streams_differ_and_repeat() -> None:
    def draw(*stream: object) -> tuple[float, float, float]:
        with keyed(CPU, *stream):
            return float(torch.rand(())), float(np.random.random()), random.random()

    assert draw("train", 0, "step", 1, 2) == draw("train", 0, "step", 1, 2)
    drawn = {draw("train", *rest) for rest in ((0, 1, 2), (0, 2, 1), (1, 1, 2), (0, 1, 3))}
    assert len(drawn) == 4
    assert all(len(set(each)) == 4 for each in zip(*drawn, strict=True))


def test_generators_are_restored_after_an_error() -> None:
    def break_down() -> None:
        with keyed(CPU, "broken"):
            disturb()
            raise KilledError

    before = state()
    with pytest.raises(KilledError):
        break_down()
    assert state() == before
