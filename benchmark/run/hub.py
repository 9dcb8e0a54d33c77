"""The side of the command: the workers that an engine has started, and what they say."""

import contextlib
import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge, wait
from pathlib import Path
from typing import NamedTuple, Self

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.run.engines.base import Engine, Launched, Meeting
from robustness_bench.benchmark.run.engines.worker import keep_alive

FIRST_WORKER = 30.0
"""Seconds without any worker after which a user is told."""
_LOOK_EVERY = 0.2  # seconds between two looks for workers that have ended or joined
_KEY_BYTES = 32


class Progressed(NamedTuple):
    """A task advances; ``done`` and ``total`` are in ``unit``."""

    task_id: str
    done: float
    total: float
    unit: str


class Finished(NamedTuple):
    """A task ended; with its traceback if it failed."""

    task: Task
    error: str


class Lost(NamedTuple):
    """The worker process with this task was killed."""

    task: Task


@dataclass
class Worker:
    """A worker that was asked for.

    Attributes:
        connection: from when it has joined until it ends.
        ready: whether it has ever been able to take a task.
    """

    context: Context
    launched: Launched
    connection: Connection | None = None
    ready: bool = False
    task: Task | None = None


class Hub:
    """Starts workers, replaces those that end, and speaks with them.

    Workers connect to this process by TCP. Both sides first prove that they know a key.
    """

    def __init__(self, engine: Engine, contexts: Sequence[Context]) -> None:
        self._engine = engine
        # A worker that ends before it is ready shows that something is wrong where it runs, not with a task.
        self._spare = len(contexts)
        self._server = socket.create_server(("127.0.0.1" if engine.host == "127.0.0.1" else "", 0))
        self._meeting = Meeting(
            host=engine.host,
            port=self._server.getsockname()[1],
            key=secrets.token_bytes(_KEY_BYTES),
            folder=str(Path.cwd()),
            variables={name: value for name, value in os.environ.items() if name.startswith("BENCH_")},
        )
        self._joined: queue.SimpleQueue[tuple[int, Connection]] = queue.SimpleQueue()
        self._workers: dict[int, Worker] = {}
        self._launches = 0
        self._begun: float | None = time.monotonic()
        try:
            self._launch(contexts)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let idle workers go, and end all others."""
        for worker in self._workers.values():
            if worker.connection is None or worker.task is not None:
                worker.launched.stop()
            if worker.connection is not None:
                _tell(worker.connection, None)
                worker.connection.close()
        self._server.close()
        self._engine.close()

    def idle(self) -> list[Worker]:
        """Return the workers that have nothing to do."""
        return [each for each in self._workers.values() if each.ready and each.connection and not each.task]

    def assign(self, task: Task, worker: Worker) -> None:
        """Give a task to an idle worker."""
        assert worker.connection is not None
        worker.task = task
        _tell(worker.connection, task)  # if it is gone, ``events`` says so

    def overdue(self) -> bool:
        """Return, once, whether no worker has become ready in the first ``FIRST_WORKER`` seconds."""
        if self._begun is None or time.monotonic() - self._begun < FIRST_WORKER:
            return False
        self._begun = None
        return True

    def events(self, wanted: int) -> Iterator[Progressed | Finished | Lost]:
        """Wait for a moment; yield what happened.

        Args:
            wanted: how many workers have any use.

        Raises:
            BenchError: a worker met something that only the user can fix, or none starts.
        """
        heard = {w.connection: w for w in self._workers.values() if w.connection is not None}
        for source in wait([self._server, *heard], timeout=_LOOK_EVERY):
            if source is self._server:
                peer, _ = self._server.accept()
                threading.Thread(target=self._admit, args=(peer,), daemon=True).start()
            else:
                assert isinstance(source, Connection)
                yield from self._hear(heard[source], source)
        while not self._joined.empty():
            number, connection = self._joined.get()
            if number in self._workers:
                self._workers[number].connection = connection
            else:
                connection.close()
        self._replace(wanted)

    def _admit(self, peer: socket.socket) -> None:
        """Let a peer in if it knows the key. In a thread, because a stranger may never answer."""
        keep_alive(peer)
        connection = Connection(peer.detach())
        try:
            deliver_challenge(connection, self._meeting.key)
            answer_challenge(connection, self._meeting.key)
            self._joined.put((connection.recv(), connection))
        except (OSError, EOFError, AuthenticationError):
            connection.close()

    def _hear(self, worker: Worker, connection: Connection) -> Iterator[Progressed | Finished | Lost]:
        try:
            message = connection.recv()
        except (OSError, EOFError):
            connection.close()
            worker.connection = None
            if worker.task is not None:
                lost, worker.task = worker.task, None
                yield Lost(lost)
            return
        if isinstance(message, BenchError):
            raise message
        if message is True:
            worker.ready, self._begun = True, None
        elif isinstance(message, tuple):
            yield Progressed(*message)
        else:
            assert worker.task is not None
            task, worker.task = worker.task, None
            yield Finished(task, message)

    def _replace(self, wanted: int) -> None:
        """Ask for another worker in place of each that has ended, up to ``wanted`` in all."""
        again: list[Context] = []
        for number, worker in list(self._workers.items()):
            # What it said last is heard first: its connection ends after that.
            if worker.connection is None and (reason := worker.launched.ended()):
                del self._workers[number]
                self._spare -= not worker.ready
                again += [worker.context] if worker.ready or self._spare >= 0 else []
                if not self._workers and not again:
                    raise BenchError(f"no worker starts: {reason}; finished tasks are kept")
        if again := again[: max(0, wanted - len(self._workers))]:
            self._launch(again)

    def _launch(self, contexts: Sequence[Context]) -> None:
        seats = dict(enumerate(contexts, start=self._launches))
        self._launches += len(seats)
        for number, launched in self._engine.launch(self._meeting, seats).items():
            self._workers[number] = Worker(seats[number], launched)


def _tell(connection: Connection, what: Task | None) -> None:
    with contextlib.suppress(OSError):  # it has just ended
        connection.send(what)
