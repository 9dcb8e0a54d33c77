"""Watch a process's use of resources from outside, where the kernel's limits do not cover it."""

import os
import signal
import threading
from pathlib import Path

from robustness_bench.benchmark.sandbox.confinement import MIB, Limits

SCRATCH_FILES = 100
_EVERY = 0.05  # seconds


class Watcher(threading.Thread):
    """Kills a process that exceeds ``limits``. ``stop`` it before waiting for the process."""

    def __init__(self, pid: int, scratch: Path, limits: Limits) -> None:
        super().__init__(daemon=True)
        self.verdict: tuple[str, str] | None = None
        """The stage and the reason, if it was killed."""
        self._pid, self._scratch, self._limits = pid, scratch, limits
        self._baseline = private_memory(pid)
        self._stopped = threading.Event()

    def run(self) -> None:
        while self.verdict is None and not self._stopped.wait(_EVERY):
            self.verdict = self._excess()
            if self.verdict is not None:
                os.kill(self._pid, signal.SIGKILL)

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def _excess(self) -> tuple[str, str] | None:
        limits = self._limits
        if private_memory(self._pid) - self._baseline > limits.memory:
            return "memory", f"its process took more than {limits.memory / MIB:.4g} MiB of memory"
        if status_of(self._pid).get("Threads", 0) > limits.threads:
            return "limit", f"its process had more than {limits.threads} threads"
        if _overfull(self._scratch, limits.scratch):
            most = f"{limits.scratch / MIB:.4g} MiB or {SCRATCH_FILES} files"
            return "limit", f"it put more than {most} into its scratch folder"
        return None


def private_memory(pid: int) -> int:
    """Return a process's private memory in bytes, without files; 0 if it cannot be read."""
    status = status_of(pid)
    return 1024 * (status.get("RssAnon", 0) + status.get("RssShmem", 0))


def status_of(pid: int) -> dict[str, int]:
    """Return the numbers of /proc/PID/status, memory in kB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.split()[:2] for line in lines)
    return {pair[0].rstrip(":"): int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _overfull(scratch: Path, most: int) -> bool:
    taken = 0
    try:
        with os.scandir(scratch) as entries:
            for number, entry in enumerate(entries, start=1):
                taken += entry.stat(follow_symlinks=False).st_blocks * 512
                if taken > most or number > SCRATCH_FILES:
                    return True
    except OSError:
        return False
    return False
