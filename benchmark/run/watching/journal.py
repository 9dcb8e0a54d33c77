"""The journal: a file in the folder of results that says how far its run is."""

import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustness_bench.benchmark.errors import StoreError, last_line
from robustness_bench.benchmark.files import check_format, read_json, write_json
from robustness_bench.benchmark.run.watching.course import Course

FORMAT = 1
EVERY = 5.0
"""Seconds between two entries."""
_FILE = ".progress"
Journal = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Writes one run's journal."""

    out: Path
    command: str
    progress: Course
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
    """Return the journal of the last run in a folder; None if there was none.

    Raises:
        StoreError: damaged, or of another format.
    """
    path = out / _FILE
    if not path.is_file():
        return None
    journal = read_json(path, "delete it")
    check_format(path, journal.get("format"), FORMAT)
    return journal
