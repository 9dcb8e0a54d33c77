"""A folder of results: which tasks are done, one writer at a time, and the protocols of its results."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robustness_bench.attacks.class_names import load
from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.files import write_atomic
from robustness_bench.benchmark.mirror import place
from robustness_bench.benchmark.plan.layers import to_toml
from robustness_bench.benchmark.plan.protocol import Protocol
from robustness_bench.benchmark.plan.tasks import Task

_LOCK = ".lock"
_DIGITS = 12


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Make the folder if needed, and lock it against other writers; the lock ends with the process.

    Raises:
        StoreError: it is not writable, or another run is writing into it.
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
            f"another bench run is writing into {place(out)}: wait for it or choose another --out"
        ) from error
    try:
        yield
    finally:
        os.close(handle)


def is_done(out: Path, task: Task) -> bool:
    """Return whether ``task`` has its result; StoreError if it has one that is damaged."""
    try:
        done: bool = load(task.how.done)(out / task.path, task)
    except StoreError as error:
        raise StoreError(f"{error}, or let bench mend {place(out)} move all that is damaged aside") from error
    return done


def open_tasks(out: Path, tasks: list[Task]) -> list[Task]:
    """Return what still has to run: cells and estimates without a record, and their missing parents.

    A finished cell needs none of its parents, so checkpoints may be deleted once their cells are done. No
    model is trained again only for a diagnosis.
    """
    roots = [task for task in tasks if task.how.result or task.how.afterwards]
    wanted: dict[str, Task] = {}
    for root in (root for root in roots if not is_done(out, root)):
        if not root.how.afterwards or _at_hand(out, root.parents["model"], wanted):
            _want(out, root, wanted)
    return [task for task in tasks if task.id in wanted]


def _at_hand(out: Path, model: Task, wanted: dict[str, Task]) -> bool:
    return model.how.given or model.id in wanted or is_done(out, model)


def _want(out: Path, task: Task, wanted: dict[str, Task]) -> None:
    if task.id in wanted:
        return
    wanted[task.id] = task
    for parent in task.needs:
        if not is_done(out, parent):
            _want(out, parent, wanted)


def protocol_name(content: bytes) -> str:
    """Return what records call a protocol file with this content."""
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def protocol_file(out: Path, protocol: Protocol | str) -> Path:
    """Return where a protocol, or the one of this name, is kept; ``bench run --config`` takes the file."""
    name = protocol if isinstance(protocol, str) else protocol_name(_content(protocol))
    return out / "protocols" / f"{name}.toml"


def keep_protocol(out: Path, protocol: Protocol) -> str:
    """Write a protocol unless it is there, and return its name."""
    path = protocol_file(out, protocol)
    if not path.is_file():
        write_atomic(path, _content(protocol))
    return path.stem


def _content(protocol: Protocol) -> bytes:
    return to_toml(protocol.resolved).encode()
