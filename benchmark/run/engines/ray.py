"""A Ray cluster that is up: each worker is a Ray task that lasts as long as the run."""

import importlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.run.engines.base import Meeting, Options, cluster_device, cluster_seats
from robustness_bench.benchmark.run.engines.worker import serve

_ANSWER = 10.0  # seconds
_NAMES = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}  # as options -> as nodes have them


class Ray:
    """Workers on the nodes of a Ray cluster, of which this machine is one.

    Args:
        address: as ``ray.init`` takes it; empty: the cluster of this machine.
        options: ``num_cpus`` (1 unless given), ``num_gpus``, ``memory`` in bytes, ``resources`` and what
            else Ray's ``remote`` takes, for each worker.
    """

    own_process = False

    def __init__(self, address: str, options: Options) -> None:
        self._address = address or "auto"
        self._options = {"num_cpus": 1, **options}

    @property
    def host(self) -> str:
        host: str = self._ray.util.get_node_ip_address()
        return host

    def device(self, wanted: str) -> str:
        return cluster_device(wanted, self._options.get("num_gpus", 0))

    def seats(self, context: Context, workers: int, chains: int) -> list[Context]:
        """Without a number there are as many workers as the cluster has room for."""
        if context.device == "cuda":
            self._options.setdefault("num_gpus", context.processes)
        self._connect()
        count = workers or self._room()
        if not count:
            asked = ", ".join(f"{name}={value}" for name, value in self._options.items())
            raise BenchError(
                f"no node of the Ray cluster has {asked}: ask for less, or give --workers, to wait for nodes"
            )
        return cluster_seats(context, count, self._options["num_cpus"])

    def _connect(self) -> None:
        self._ray = importlib.import_module("ray")  # two seconds, which a run with nothing to do can save
        try:
            _reach(self._address)
            self._ray.init(
                address=self._address, log_to_driver=False, logging_level="ERROR", configure_logging=False
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise BenchError(
                f"no Ray cluster at --address {self._address} ({_line(error)}): start one on this machine "
                "with `ray start --head`, or join it with `ray start --address`"
            ) from error

    def _room(self) -> int:
        """Return how many workers fit on all nodes."""
        wanted = {_NAMES[name]: self._options.get(name, 0) for name in _NAMES}
        wanted |= self._options.get("resources", {})
        needs = {name: value for name, value in wanted.items() if value}
        return sum(
            min((int(node["Resources"].get(name, 0) / value) for name, value in needs.items()), default=0)
            for node in self._ray.nodes()
            if node["Alive"]
        )

    def launch(self, meeting: Meeting, seats: Mapping[int, Context]) -> "dict[int, _Running]":
        # The run itself sees to a worker that is killed.
        options = {"scheduling_strategy": "SPREAD", **self._options, "max_retries": 0}
        try:
            worker = self._ray.remote(serve).options(**options)
            return {
                number: _Running(self._ray, worker.remote(meeting, number, context))
                for number, context in seats.items()
            }
        except (ValueError, TypeError) as error:
            raise BenchError(f"Ray refuses --engine-option: {_line(error)}") from error

    def close(self) -> None:
        self._ray.shutdown()


@dataclass(frozen=True)
class _Running:
    ray: Any
    reference: Any

    def ended(self) -> str:
        done, _ = self.ray.wait([self.reference], timeout=0)
        if not done:
            return ""
        try:
            self.ray.get(done)
        except self.ray.exceptions.RayError as error:
            return _line(error)
        return "it ended at once"

    def stop(self) -> None:
        self.ray.cancel(self.reference, force=True)


def _reach(address: str) -> None:
    """Raise OSError or ValueError if nobody listens there: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "://" not in address:
        socket.create_connection((host, int(port)), timeout=_ANSWER).close()


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
