"""Records of guarded classifiers: what is written is read, damage is named, and how images are counted."""

from pathlib import Path

import numpy as np
import pytest

from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.plan.detectors import make_detection_plan
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.store.detections import (
    Detection,
    find_detections,
    read_detection,
    write_detection,
)

#                 right  fooled  reformed  flagged  both   wrong before
LABELS = [0, 1, 2, 3, 4, 5]
CLEAN = [0, 1, 2, 3, 4, 9]
PREDICTION = [0, 8, 8, 8, 8, 9]
REFORMED = [0, 8, 2, 8, 4, 5]
SCORES = [0.1, 0.2, 0.3, 0.9, 0.8, 0.7]


@pytest.fixture(scope="module")
def task() -> Task:
    protocol = load_protocol(None, {"defenses": ["magnet"]})
    tasks = make_detection_plan(protocol, {"digits": locate("digits", Path("data"))})
    return next(task for task in tasks if task.kind == "detect" and task.spec["setting"] == "oblivious")


@pytest.fixture
def path(task: Task, tmp_path: Path) -> Path:
    zeros = np.zeros(6)
    scores = np.array(SCORES)
    path = tmp_path / "detections" / "digits" / "cell.parquet"
    write_detection(
        path,
        task,
        {
            "sample": np.arange(6),
            "label": np.array(LABELS),
            "clean_prediction": np.array(CLEAN),
            "prediction": np.array(PREDICTION),
            "reformed_prediction": np.array(REFORMED),
            **dict.fromkeys(("linf", "l2", "l1", "forwards", "backwards"), zeros),
            "score:one": scores,
            "flag:one": scores >= 0.75,
            "score:two": scores,
            "flag:two": scores >= 0.85,
        },
        thresholds={"one": 0.75, "two": 0.85},
        remarks={"two": "undertrained"},
        environment={},
        seconds=1.0,
    )
    return path


def _list(mask: object) -> list[bool]:
    return [bool(each) for each in np.asarray(mask)]


def test_what_is_written_is_read(path: Path, task: Task) -> None:
    cell = read_detection(path)
    assert (cell.id, cell.family, cell.seed, cell.spec) == (task.id, task.family, task.seed, task.spec)
    assert (cell.detectors, cell.thresholds) == (["one", "two"], {"one": 0.75, "two": 0.85})
    assert cell.remarks == {"two": "undertrained"}
    assert cell.scores("one").dtype == np.float64
    assert cell.scores("one").tolist() == SCORES
    assert find_detections(path.parents[2]) == [path]


def test_how_images_are_counted(path: Path) -> None:
    cell = read_detection(path)
    assert _list(cell.selected) == [True] * 5 + [False]
    assert _list(cell.fooled) == [False, True, True, True, True, False]
    assert _list(cell.flagged) == [False, False, False, True, True, False]
    assert _list(cell.defended(detectors=False, reformer=False)) == [True] + [False] * 5
    assert _list(cell.defended(reformer=False)) == [True, False, False, True, True, False]
    assert _list(cell.defended(detectors=False)) == [True, False, True, False, True, True]
    assert _list(cell.defended()) == [True, False, True, True, True, True]
    assert _list(cell.accepted) == [True, False, True, False, False, True]


@pytest.mark.parametrize("damage", ["cut", "bit", "format"])
def test_damage_is_named(path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "bit":
        content[200] ^= 255
    else:
        monkeypatch.setattr("robustness_bench.benchmark.store.detections.FORMAT", 9)
    path.write_bytes(bytes(content))
    told = "has format 1, this is bench's format 9" if damage == "format" else "is damaged"
    with pytest.raises(StoreError, match=f"{path.name} {told}"):
        read_detection(path)


def test_a_failed_cell_has_its_traceback_and_no_rows(path: Path, task: Task) -> None:
    write_detection(
        path, task, {}, thresholds={}, remarks={}, environment={}, seconds=0.0, error="Boom: it broke"
    )
    cell = read_detection(path)
    assert isinstance(cell, Detection)
    assert (cell.status, cell.error, len(cell.rows["label"])) == ("error", "Boom: it broke", 0)
