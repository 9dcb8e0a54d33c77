"""A Slurm cluster, by submitit: each worker is a job of one array, and lasts as long as the run.

A job per cell would wait in the queue and load torch once per cell. Jobs that take one task after another do
so once; one that Slurm ends early (preempted, out of time or memory) is asked for again.
"""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from socket import getfqdn
from typing import Any

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.errors import BenchError, first_line
from robustness_bench.benchmark.run.engines.base import Meeting, Options, cluster_device, cluster_seats
from robustness_bench.benchmark.run.engines.worker import serve

_FOLDER = ".slurm"
_GRACE, _LOOK_EVERY = 10.0, 0.05  # seconds
_DAY = 24 * 60  # minutes: submitit's own default of five ends most runs in the middle


class Slurm:
    """Workers as Slurm jobs.

    Args:
        folder: of results; what jobs print is kept in a folder below it, which the workers must see too.
        options: of submitit's ``AutoExecutor.update_parameters``, for each worker: ``cpus_per_task``,
            ``gpus_per_node``, ``mem_gb``, ``timeout_min`` (a day unless given), ``slurm_partition``,
            ``slurm_account`` and so on. ``cluster``: in place of "slurm" "local", or "debug" for one worker
            in this process, to try it without one. ``host``: this machine's name for the nodes, if its own
            is not the one.
    """

    own_process = False

    def __init__(self, folder: Path, options: Options) -> None:
        parameters = {"name": "bench", "timeout_min": _DAY, "cpus_per_task": 1, **options}
        self._cluster = parameters.pop("cluster", "slurm")
        here = getfqdn() if self._cluster == "slurm" else "127.0.0.1"
        self.host: str = parameters.pop("host", here)
        self._parameters: dict[str, Any] = parameters
        self._folder = folder.resolve() / _FOLDER
        self._jobs: list[_Job] = []

    def device(self, wanted: str) -> str:
        return cluster_device(wanted, self._parameters.get("gpus_per_node", 0))

    def seats(self, context: Context, workers: int, chains: int) -> list[Context]:
        if not workers:
            raise BenchError("--engine slurm needs --workers: the number of jobs to ask for")
        if context.device == "cuda":
            self._parameters.setdefault("gpus_per_node", context.processes)
        if self._cluster == "debug":
            workers = 1  # tasks in one process would draw from the same generators
        return cluster_seats(context, workers, self._parameters["cpus_per_task"])

    def launch(self, meeting: Meeting, seats: Mapping[int, Context]) -> "dict[int, _Job]":
        import submitit

        # The pickled jobs hold the key.
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        try:
            executor = submitit.AutoExecutor(self._folder, cluster=self._cluster)
            executor.update_parameters(**self._parameters)
            jobs = executor.map_array(serve, [meeting] * len(seats), *zip(*seats.items(), strict=True))
        except (RuntimeError, NameError, ValueError, AssertionError, TypeError, OSError) as error:
            raise BenchError(
                f"submitit cannot start jobs on {self._cluster!r}: {first_line(error)}"
            ) from error
        run_here = self._cluster == "debug"
        launched = {number: _Job(job, run_here) for number, job in zip(seats, jobs, strict=True)}
        self._jobs += launched.values()
        return launched

    def close(self) -> None:
        """Slurm sees to its jobs; of those on this machine none is left running."""
        deadline = time.monotonic() + _GRACE
        if self._cluster != "slurm":
            while not all(job.ended() for job in self._jobs) and time.monotonic() < deadline:
                time.sleep(_LOOK_EVERY)


class _Job:
    """A submitted job. submitit's debug jobs run in this process, when they are asked how they are."""

    def __init__(self, job: Any, run_here: bool) -> None:
        self._job = job
        self._thread = threading.Thread(target=job.wait, daemon=True) if run_here else None
        if self._thread:
            self._thread.start()

    def ended(self) -> str:
        alive = self._thread.is_alive() if self._thread else not self._job.done()
        if alive:
            return ""
        said = (self._job.stderr() or "").strip().splitlines()
        return f"job {self._job.job_id} ended: {said[-1] if said else self._job.state}"

    def stop(self) -> None:
        self._job.cancel(check=False)
