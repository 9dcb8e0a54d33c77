"""What an engine is: it starts worker processes, which then join the command and get tasks from it.

So all that decides an outcome, order, retries and progress, is the same for every engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.errors import BenchError

Options = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where a worker joins the command that hands out tasks.

    Args:
        key: both sides prove to the other that they know it.
        folder: the command's, where relative paths begin.
        variables: of the command's environment, which decide where data and caches are.
    """

    host: str
    port: int
    key: bytes = field(repr=False)
    folder: str
    variables: dict[str, str]


class Launched(Protocol):
    """A worker process that was asked for."""

    def ended(self) -> str:
        """Return why it ended; nothing as long as it waits to start or runs."""
        ...

    def stop(self) -> None:
        """End it, whether it runs or waits to start."""
        ...


class Engine(Protocol):
    """Where worker processes run.

    Attributes:
        host: under which workers reach this machine.
        own_process: whether the command's own process can be a worker, if there is only one.
    """

    own_process: bool

    @property
    def host(self) -> str: ...

    def device(self, wanted: str) -> str:
        """Return the torch device for ``--device``.

        Raises:
            BenchError: the name is unknown, or there is no such device.
        """
        ...

    def seats(self, context: Context, workers: int, chains: int) -> list[Context]:
        """Return one context per worker.

        Args:
            workers: 0 = automatic.
            chains: how many trainings can run in parallel. It is a property of the whole plan, so that a task
                gets the same number of threads, on which its rounding depends, when a run is resumed.

        Raises:
            BenchError: there is no room for a worker.
        """
        ...

    def launch(self, meeting: Meeting, seats: Mapping[int, Context]) -> Mapping[int, Launched]:
        """Ask for a worker per seat: each is to run ``worker.serve(meeting, number, context)``.

        Raises:
            BenchError: the cluster refuses.
        """
        ...

    def close(self) -> None:
        """Let go of the cluster; all workers have been told to end."""
        ...


def cluster_device(wanted: str, gpus: float) -> str:
    """Return the torch device of a cluster's workers, of which each is given ``gpus``.

    This machine may have no GPU where they have some, so torch is not asked. "auto" takes what is given.

    Raises:
        BenchError: the name is unknown, or "cpu" although GPUs are asked for.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise BenchError(f"--device must be auto, cpu or cuda, got {wanted!r}")
    if wanted == "cpu" and gpus:
        raise BenchError("--device cpu, but --engine-option asks for GPUs: leave out one of them")
    return "cuda" if wanted == "cuda" or gpus else "cpu"


def cluster_seats(context: Context, count: int, cpus: float) -> list[Context]:
    """Return the contexts of ``count`` equal workers with ``cpus`` cores each, on their own first GPU."""
    threads = max(1, int(cpus) // context.processes)
    device = "cuda:0" if context.device == "cuda" else context.device
    return [context.on(device, threads)] * count
