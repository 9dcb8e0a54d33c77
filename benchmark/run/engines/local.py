"""This machine: one process per GPU or per few cores."""

import multiprocessing
import os
import signal
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from robustness_bench.benchmark.context import Context, choose_device
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.run.engines.base import Meeting
from robustness_bench.benchmark.run.engines.worker import serve


class Local:
    """Worker processes on this machine."""

    own_process = True
    host = "127.0.0.1"

    def __init__(self) -> None:
        self._processes: list[BaseProcess] = []

    def device(self, wanted: str) -> str:
        """Return the torch device; "auto" takes CUDA if there is a GPU."""
        return choose_device(wanted)

    def seats(self, context: Context, workers: int, chains: int) -> list[Context]:
        """Each has a GPU (or ``context.processes`` of them), or a share of the cores.

        Without a number there is one per GPU, or on CPU one per core up to four and up to ``chains``. None
        has more threads than OMP_NUM_THREADS says, where that is set.
        """
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        each, most = context.processes, os.environ.get("OMP_NUM_THREADS", "")
        limit = max(1, int(most)) if most.isdecimal() else cores
        if context.device == "cuda":
            import torch

            gpus = torch.cuda.device_count()
            if each > gpus:
                raise BenchError(f"--processes {each} needs as many GPUs, torch sees {gpus}")
            count = min(workers, gpus // each) if workers else gpus // each
            threads = max(1, min(limit, cores // (count * each)))
            return [context.on(f"cuda:{index * each}", threads) for index in range(count)]
        count = workers or max(1, min(cores, 4, chains) // each)
        return [context.on(context.device, max(1, min(limit, cores // (count * each))))] * count

    def launch(self, meeting: Meeting, seats: Mapping[int, Context]) -> dict[int, "_Process"]:
        spawn = multiprocessing.get_context("spawn")  # fork is not safe with CUDA or torch's threads
        launched = {}
        for number, context in seats.items():
            process = spawn.Process(target=_serve_quietly, args=(meeting, number, context))
            process.start()
            self._processes.append(process)
            launched[number] = _Process(process)
        return launched

    def close(self) -> None:
        for process in self._processes:
            process.join()


class _Process(NamedTuple):
    process: BaseProcess

    def ended(self) -> str:
        return "" if self.process.is_alive() else f"it ended with exit status {self.process.exitcode}"

    def stop(self) -> None:
        self.process.terminate()


def _serve_quietly(meeting: Meeting, number: int, context: Context) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command handles Ctrl-C
    serve(meeting, number, context)
