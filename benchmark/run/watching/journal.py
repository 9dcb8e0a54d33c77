"""The journal, a file in the folder of results that says how far its run is, and what it shows of the run."""

import os
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustness_bench.benchmark.errors import BenchError, StoreError, last_line
from robustness_bench.benchmark.files import check_format, read_json, write_json
from robustness_bench.benchmark.mirror import place
from robustness_bench.benchmark.plan.kinds import TASK_KINDS
from robustness_bench.benchmark.run.watching.progress import Progress
from robustness_bench.benchmark.store.parquet import find_tables, read_story

FORMAT = 1
EVERY = 5.0
"""Seconds between two entries."""
_FILE = ".progress"
Journal = dict[str, Any]
_SILENT = 12 * EVERY  # seconds without an entry, after which a run counts as dead
STATES = ("done", "running", "failed", "waiting")


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Writes one run's journal."""

    out: Path
    command: str
    progress: Progress
    began: float = field(default_factory=time.time)

    def write(self, ended: str = "") -> None:
        """Write how far the run is; a journal that cannot be written never fails the run.

        Args:
            ended: how, if it has: done, failed, interrupted, or stopped.
        """
        tasks = [
            {
                "title": state.task.title,
                "cell": state.task.is_cell,
                "state": state.name,
                "done": round(state.fraction, 4),
                "error": last_line(state.error) if state.error else "",
            }
            for state in self.progress.states()
        ]
        entry: Journal = {
            "format": FORMAT,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "command": self.command,
            "began": self.began,
            "updated": time.time(),
            "ended": ended,
            "left": self.progress.seconds_left(),
            "tasks": tasks,
        }
        with suppress(StoreError):
            write_json(self.out / _FILE, entry)


def read_journal(out: Path) -> Journal | None:
    """Return the journal of a folder's last run, or None; StoreError if damaged or of another format."""
    path = out / _FILE
    if not path.is_file():
        return None
    journal = read_json(path, "delete it")
    check_format(path, journal.get("format"), FORMAT)
    return journal


def status_of(out: Path) -> dict[str, Any]:
    """Return what a folder holds, and how its last run is.

    Returns:
        ``results``: numbers of cells done and failed, and the damaged files; ``run``: None without a
        journal, else its state (running, silent, done, failed, interrupted or stopped), times in seconds,
        counts of tasks and of cells, and the tasks that run or failed.

    Raises:
        BenchError: not a folder of results.
    """
    journal = read_journal(out)
    counts, damaged = Counter[str](), []
    for folder in dict.fromkeys(kind.folder for kind in TASK_KINDS.values() if kind.result):
        for path in find_tables(out, folder):
            try:
                counts[read_story(path).get("status", "ok")] += 1
            except StoreError as error:
                damaged.append(str(error))
    results = {"done": counts["ok"], "failed": counts["error"], "damaged": damaged}
    if journal is None and not any(results.values()):
        raise BenchError(f"{place(out)} holds no results: name a folder that bench run has as --out")
    return {"folder": place(out), "results": results, "run": None if journal is None else _run(journal)}


def _run(journal: Journal) -> dict[str, Any]:
    silent = max(0.0, time.time() - journal["updated"])
    tasks = journal["tasks"]
    running = not journal["ended"]
    return {
        "state": journal["ended"] or ("silent" if silent > _SILENT else "running"),
        **{key: journal[key] for key in ("host", "process", "command", "began", "updated")},
        "silent": silent,
        "left": max(0.0, journal["left"] - silent) if running and journal["left"] is not None else None,
        "tasks": _counts(tasks),
        "cells": _counts([task for task in tasks if task["cell"]]),
        "running": [{"title": t["title"], "done": t["done"]} for t in tasks if t["state"] == "running"],
        "failed": [{"title": t["title"], "error": t["error"]} for t in tasks if t["state"] == "failed"],
    }


def _counts(tasks: list[dict[str, Any]]) -> dict[str, int]:
    counts = Counter(task["state"] for task in tasks)
    return {state: counts[state] for state in STATES}
