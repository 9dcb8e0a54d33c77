"""What a worker does: it joins the command, and runs one task after another."""

import os
import queue
import socket
import sys
import threading
import time
import traceback
from functools import partial
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

from robustness_bench.attacks.class_names import load
from robustness_bench.benchmark.context import Advance, Context
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.mirror import mirror_of
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.run.engines.base import Meeting
from robustness_bench.benchmark.sandbox.failures import ModelError
from robustness_bench.benchmark.store.cards import environment_of

_REPORT_EVERY = 0.2  # seconds between two progress messages
# A machine that is switched off says nothing: after this many seconds of silence it is asked, again every so
# many seconds, and after this many questions without an answer the connection has ended.
_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


def serve(meeting: Meeting, number: int, context: Context) -> None:
    """Join the command as its worker ``number``, and do the tasks that it hands out, until it lets go.

    The process ends with the command, even in the middle of a task.
    """
    os.environ.update(meeting.variables)
    connection = _join(meeting, number)
    tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
    own_process = threading.current_thread() is threading.main_thread()
    threading.Thread(target=_listen, args=(connection, tasks, own_process), daemon=True).start()
    try:
        _settle(meeting, context)
        _say(connection, True)
        while (task := tasks.get()) is not None:
            _say(connection, perform(task, context, partial(_tell_progress, connection, task.id)))
    except BenchError as error:
        _say(connection, error)


def _settle(meeting: Meeting, context: Context) -> None:
    """Make this process one that can take the command's tasks."""
    try:
        os.chdir(meeting.folder)
    except OSError as error:
        host = socket.gethostname()
        raise BenchError(
            f"{host} has no {meeting.folder} ({error.strerror}): run the command in a folder that all have"
        ) from error
    set_threads(context)
    context.load_plugins()


def _tell_progress(connection: Connection, task_id: str, done: float, total: float, unit: str) -> None:
    _say(connection, (task_id, done, total, unit))


def _say(connection: Connection, what: object) -> None:
    try:
        connection.send(what)
    except OSError:
        sys.exit(1)  # the command has gone; as an exception it would pass for a failure of the task


def _join(meeting: Meeting, number: int) -> Connection:
    peer = socket.create_connection((meeting.host, meeting.port))
    keep_alive(peer)
    connection = Connection(peer.detach())
    answer_challenge(connection, meeting.key)
    deliver_challenge(connection, meeting.key)
    connection.send(number)
    return connection


def _listen(connection: Connection, tasks: "queue.SimpleQueue[Task | None]", own_process: bool) -> None:
    """Take tasks; where the command goes without a word, end this process, if it is the worker's own."""
    task: Task | None = None
    try:
        while (task := connection.recv()) is not None:
            tasks.put(task)
    except (OSError, EOFError):
        if own_process:
            os._exit(1)
    tasks.put(None)


def keep_alive(peer: socket.socket) -> None:
    """Let the operating system find out if the other machine has gone."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in _ALIVE.items():
        if hasattr(socket, name):  # not on every system
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def set_threads(context: Context) -> None:
    """Give torch the context's threads."""
    import torch

    torch.set_num_threads(context.threads)


def perform(task: Task, context: Context, advance: Advance) -> str:
    """Run one task; return the traceback if it raised, else an empty string.

    A cell that raises becomes a failure record, also if a submitted model fails. Other errors that the user
    can fix (BenchError: a full disk, a damaged file) are not results of the cell, and are raised.
    """
    work, story = load(task.how.run), ""
    if mirror := mirror_of(context.out):
        mirror.fetch(each.path for each in task.lineage())
    try:
        work(task, context, _throttled(advance))
    except Exception as error:
        if isinstance(error, BenchError) and not isinstance(error, ModelError):
            raise
        story = traceback.format_exc()
        record_failure(task, context, story)
    if mirror:
        mirror.put(task.path, whole=not task.shard)
    return story


def record_failure(task: Task, context: Context, story: str) -> None:
    """Keep the traceback as a cell's record: shown as ERROR, never as a number. Other tasks leave nothing.

    Nor does a shard: the cell fails with it.
    """
    if task.how.failed and not task.shard:
        load(task.how.failed)(context.out / task.path, task, environment_of(task, context), story)


def _throttled(advance: Advance) -> Advance:
    last = 0.0

    def report(done: float, total: float, unit: str) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last > _REPORT_EVERY:
            last = time.monotonic()
            advance(done, total, unit)

    return report
