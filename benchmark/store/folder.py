"""A folder of results: which tasks are done, and one writer at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.plan.tasks import ROOTS, Task
from robustness_bench.benchmark.store.cells import read_record
from robustness_bench.benchmark.store.detections import read_detection
from robustness_bench.benchmark.store.diagnoses import read_diagnosis
from robustness_bench.benchmark.store.information import read_mi_record

_LOCK = ".lock"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Make the folder if need be and keep other writers out; the lock goes with the process.

    Raises:
        StoreError: not writable, or another run is at work in it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(f"cannot write into --out {out}: {error.strerror}; choose another folder") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise StoreError(
            f"another bench run is writing into {out}: wait for it or choose another --out"
        ) from error
    try:
        yield
    finally:
        os.close(handle)


def is_done(out: Path, task: Task) -> bool:
    """Whether ``task`` has its result; a cell that failed has not, and will be tried again.

    A checkpoint's card without its tensors tells how it was trained, but is no result to go on from.

    Raises:
        StoreError: the result is there but damaged.
    """
    path = out / task.path
    if task.kind == "evaluate":
        return path.is_file() and read_record(path).status == "ok"
    if task.kind == "detect":
        return path.is_file() and read_detection(path).status == "ok"
    if task.kind == "diagnose":
        return any(read_diagnosis(other).covers(task.spec) for other in _of_model(path))
    if task.kind == "measure-mi":
        return path.is_file() and bool(read_mi_record(path).rows)
    return path.is_file() and path.with_suffix(".json").is_file()


def _of_model(diagnosis: Path) -> list[Path]:
    """Every diagnosis that may be of the same model: a more thorough one of another plan counts too."""
    stem = diagnosis.stem.rpartition("-")[0]
    return sorted(diagnosis.parent.glob(f"{escape(stem)}-*.json"))


def open_tasks(out: Path, tasks: list[Task]) -> list[Task]:
    """What still has to run: cells and estimates without a record, and what they need that is not there.

    A finished cell needs none of its parents, so checkpoints may be deleted once their cells are done. A
    diagnosis alone is no reason to train a model again.
    """
    roots = [task for task in tasks if task.kind in ROOTS and not is_done(out, task)]
    wanted: dict[str, Task] = {}
    for root in roots:
        if root.kind != "diagnose" or _at_hand(out, root.parents["model"], wanted):
            _want(out, root, wanted)
    return [task for task in tasks if task.id in wanted]


def _at_hand(out: Path, model: Task, wanted: dict[str, Task]) -> bool:
    return model.kind == "load" or model.id in wanted or is_done(out, model)


def _want(out: Path, task: Task, wanted: dict[str, Task]) -> None:
    if task.id in wanted:
        return
    wanted[task.id] = task
    for parent in task.parents.values():
        if not is_done(out, parent):
            _want(out, parent, wanted)
