"""The confined process's own code, forked from the tests instead of started anew.

A fresh Python needs two seconds for torch before it says anything. A fork runs the same code behind the same
walls and limits after milliseconds. It has imported all that the tests have, and it cannot run autograd,
which torch refuses after a fork.
"""

import contextlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from robustness_bench.benchmark.sandbox import child
from robustness_bench.benchmark.sandbox.process import ConfinedProcess


class Forked:
    """A child of this process, with what is used of ``subprocess.Popen``."""

    def __init__(self, pid: int) -> None:
        self.pid, self.returncode = pid, 0
        self._waited = False

    def kill(self) -> None:
        if not self._waited:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        if not self._waited:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self._waited = True


def fork() -> int:
    """``os.fork`` for a child that uses no thread of this process, of which Python 3.12 warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Every confined process that is started inside is a fork of this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfinedProcess, "_spawn", _spawn)
        yield


def _spawn(process: ConfinedProcess, told: dict[str, Any], ends: tuple[int, int], threads: int) -> Forked:
    pid = fork()
    return Forked(pid) if pid else _serve(process, told, ends)


def _serve(process: ConfinedProcess, told: dict[str, Any], ends: tuple[int, int]) -> NoReturn:
    try:
        os.setsid()
        os.chdir(process._scratch)
        null = os.open(os.devnull, os.O_RDWR)
        for ours, theirs in ((null, 0), (null, 1), (process._errors.fileno(), 2)):
            os.dup2(ours, theirs)
        for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
            if number > 2 and number not in ends:
                with contextlib.suppress(OSError):
                    os.close(number)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115 - the process's own
        sys.argv = ["", json.dumps(told)]
        child.main()
    finally:
        os._exit(1)
