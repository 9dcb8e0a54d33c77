"""How a run is, from the files in its folder alone: it may run on another machine, or have ended."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

from robustness_bench.benchmark.errors import BenchError, StoreError
from robustness_bench.benchmark.mirror import place
from robustness_bench.benchmark.plan.kinds import TASK_KINDS
from robustness_bench.benchmark.run.watching.journal import EVERY, Journal, read_journal
from robustness_bench.benchmark.store.parquet import find_tables, read_story

_SILENT = 12 * EVERY  # seconds without an entry, after which a run counts as dead
STATES = ("done", "running", "failed", "waiting")


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
    results = _results(out)
    if journal is None and not any(results.values()):
        raise BenchError(f"{place(out)} holds no results: name a folder that bench run has as --out")
    return {"folder": place(out), "results": results, "run": None if journal is None else _run(journal)}


def _results(out: Path) -> dict[str, Any]:
    counts, damaged = Counter[str](), []
    for folder in dict.fromkeys(kind.folder for kind in TASK_KINDS.values() if kind.result):
        for path in find_tables(out, folder):
            try:
                counts[read_story(path).get("status", "ok")] += 1
            except StoreError as error:
                damaged.append(str(error))
    return {"done": counts["ok"], "failed": counts["error"], "damaged": damaged}


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
