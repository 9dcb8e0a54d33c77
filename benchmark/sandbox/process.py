"""The benchmark's side of a confined process: start it, send requests, end it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.files import scratch_folder
from robustness_bench.benchmark.sandbox.child import WEIGHTS
from robustness_bench.benchmark.sandbox.confinement import (
    ConfinementError,
    Limits,
    devices,
    environment,
    readable,
)
from robustness_bench.benchmark.sandbox.failures import ModelError, one_line
from robustness_bench.benchmark.sandbox.untrusted import MODEL
from robustness_bench.benchmark.sandbox.walls import bubblewrap
from robustness_bench.benchmark.sandbox.watcher import Watcher
from robustness_bench.benchmark.sandbox.wire import Channel, Closed, Frame, Late, WireError, widen

_ROOT = Path(__file__).parents[3]
_START = (
    "import sys; sys.path.insert(0, sys.argv[2]); from robustness_bench.benchmark.sandbox.child import main; "
    "sys.path.pop(0); main()"
)
_SECONDS_FOR_TORCH, _LAST_BREATH = 300.0, 2.0
_SIGNALLED = 128
_LAST_WORDS = 4096  # bytes kept of its standard error


class Settings(NamedTuple):
    """What the process serves."""

    classes: int
    channels: int
    size: int
    device: str
    threads: int
    packages: str
    """The folder that torch is imported from."""
    file: str = MODEL
    """The submitted file's name in the scratch folder, which says whether it is a model or an attack."""


class ConfinedProcess:
    """One confined process. Any failure is an ``error``; once ended, it stays ended."""

    error: ClassVar[type[ModelError]] = ModelError
    starting: ClassVar[str] = "import and build()"

    def __init__(self, code: Path, weights: Path | None, limits: Limits, settings: Settings) -> None:
        self._limits = limits
        self._ended: ModelError | None = None
        self._watcher: Watcher | None = None
        self._inner: int | None = None  # the process inside bubblewrap, if it is used
        self._lock = threading.Lock()
        self._tidying = contextlib.ExitStack()
        self._scratch = self._tidying.enter_context(scratch_folder(Path(settings.file).stem))
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        try:
            _copy(code, self._scratch / settings.file)
            if weights is not None:
                _copy(weights, self._scratch / WEIGHTS)
            self._process, self._channel = self._launch(settings)
        except BaseException:
            self._tidy()
            raise
        self._await_start()

    def close(self) -> None:
        """End the process and everything it started, and delete its scratch folder."""
        with self._lock:
            if self._ended is None:
                self._end(self.error("died", "it was closed"))

    def _launch(self, settings: Settings) -> tuple[subprocess.Popen[bytes], Channel]:
        (to_read, to_send), (from_read, from_send) = os.pipe(), os.pipe()
        told = {
            **settings._asdict(),
            "limits": asdict(self._limits),
            "parent": os.getpid(),
            "reading": to_read,
            "writing": from_send,
        }
        try:
            for end in (to_send, from_send):
                widen(end)
            process = self._spawn(told, (to_read, from_send), settings.threads)
        except OSError as error:
            os.close(to_send)
            os.close(from_read)
            raise ConfinementError(f"cannot start {sys.executable} ({error.strerror}); fix it") from error
        finally:
            os.close(to_read)
            os.close(from_send)
        return process, Channel(from_read, to_send)

    def _spawn(self, told: dict[str, Any], ends: tuple[int, int], threads: int) -> subprocess.Popen[bytes]:
        """Start a fresh Python in the scratch folder, with ``told`` and the two ``ends`` of pipes.

        Where bubblewrap works, it starts the Python, and ends with this process.
        """
        python = [sys.executable, "-I", "-B", "-W", "ignore", "-c", _START]
        if bubblewrap.problem():
            return self._popen([*python, json.dumps(told), str(_ROOT)], ends, threads)
        visible = readable(Path(told["packages"]), told["device"])
        outside = bubblewrap.command(visible, devices(told["device"]), self._scratch)
        inside = [*python, json.dumps({**told, "parent": 0}), str(_ROOT)]
        info, told_there = os.pipe()
        words = [*outside, "--info-fd", str(told_there), *inside]
        try:
            try:
                process = self._popen(words, (*ends, told_there), threads)
            finally:
                os.close(told_there)  # else reading would not end where bubblewrap dies
            self._inner = bubblewrap.inner_pid(info)
            return process
        finally:
            os.close(info)

    def _popen(self, words: list[str], ends: tuple[int, ...], threads: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=ends,
            cwd=self._scratch,
            env=environment(self._scratch, threads),
            start_new_session=True,
        )

    def _await_start(self) -> None:
        with self._lock:
            with self._answering(_SECONDS_FOR_TORCH, "start of Python and torch") as deadline:
                self._kind_of(self._channel.receive(0, deadline), "confined")
            # Torch and weights are loaded, the submitted code is not: it is limited beyond what is taken now.
            self._watcher = Watcher(self._inner or self._process.pid, self._scratch, self._limits)
            self._watcher.start()
            with self._answering(self._limits.seconds_to_start, self.starting) as deadline:
                self._channel.send({"kind": "go"}, deadline=deadline)
                self._kind_of(self._channel.receive(0, deadline), "ready")

    def _kind_of(self, answer: Frame, *expected: str) -> str:
        """Return which of the kinds an answer is of; the failure that it reports is raised."""
        failure, kind = self._reported(answer), answer.header.get("kind")
        if failure is not None:
            raise failure
        if kind not in expected:
            raise WireError("a message of another kind")
        return str(kind)

    @contextlib.contextmanager
    def _answering(self, seconds: float, during: str) -> Iterator[float]:
        """Yield a deadline; any failure inside becomes a ModelError and ends the process."""
        try:
            yield time.monotonic() + seconds
        except ModelError as error:
            self._end(error)
            raise
        except Late as late:
            raise self._end(self.error("time", f"no answer within {seconds:g} s ({during})")) from late
        except WireError as wrong:
            raise self._end(self.error("garbled", f"its process sent {wrong} ({during})")) from wrong
        except Closed as closed:
            raise self._end(None, during) from closed
        except BaseException:
            self._end(self.error("died", f"it was interrupted ({during})"))
            raise

    def _end(self, error: ModelError | None, during: str = "") -> ModelError:
        """Kill the process, clean up, and remember why; without an error, find out how it died."""
        if error is None:
            _await_exit(self._process.pid)
        if self._watcher is not None:
            self._watcher.stop()
        alive = not _exited(self._process.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._ended = error or self._story(alive, during)
        self._channel.close()
        self._tidy()
        return self._ended

    def _story(self, alive: bool, during: str) -> ModelError:
        if self._watcher is not None and self._watcher.verdict is not None:
            return self.error(*self._watcher.verdict)
        status = self._process.returncode
        if self._inner is not None and status > _SIGNALLED:
            status = _SIGNALLED - status  # as bubblewrap tells of a signal
        how = f"ended with status {status}"
        if alive:
            how = "closed its end of the pipe"
        elif status < 0:
            how = f"was ended by {signal.Signals(-status).name}"
        return self.error("died", f"its process {how} ({during}){self._last_words()}")

    def _last_words(self) -> str:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _LAST_WORDS))
        lines = self._errors.read(_LAST_WORDS).decode(errors="replace").split("\n")
        spoken = [line for line in lines if line.strip()]
        return f", its last words: {one_line(spoken[-1])}" if spoken else ""

    def _tidy(self) -> None:
        self._errors.close()
        self._tidying.close()

    def _reported(self, answer: Frame) -> ModelError | None:
        """Return the failure that the process reports about itself; its text is untrusted."""
        if answer.header.get("kind") != "error":
            return None
        stage, text = answer.header.get("stage"), answer.header.get("text")
        if not (isinstance(stage, str) and stage in self.error.reported and isinstance(text, str)):
            raise WireError("an error of an unknown kind")
        return self.error(stage, one_line(text))


class ModelProcess(ConfinedProcess):
    """The process of a submitted model."""

    def ask(self, header: dict[str, Any], payload: memoryview, expected: tuple[str, int]) -> Frame:
        """Send a request and return its answer.

        Args:
            expected: the answer's kind, and the size of its payload in bytes.
        """
        with self._lock:
            if self._ended is not None:
                raise self._ended
            with self._answering(self._limits.seconds_per_call, str(header["kind"])) as deadline:
                self._channel.send(header, payload, deadline)
                answer = self._channel.receive(expected[1], deadline)
                _check(answer, header["token"], *expected)
                failure = self._reported(answer)
        if failure is not None:
            raise failure
        return answer


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise BenchError(f"cannot read {source}: {error.strerror or error}; check the path") from error


def _check(answer: Frame, token: int, kind: str, length: int) -> None:
    header, payload = answer
    if header.get("token") != token or header.get("kind") not in (kind, "error"):
        raise WireError("an answer to something else")
    empty = header["kind"] == "error" or (kind == "gradient" and header.get("missing") is True)
    if len(payload) != (0 if empty else length):
        raise WireError("an answer of another size")


def _await_exit(pid: int) -> None:
    """Give a process that has closed its pipe time to end by itself."""
    deadline = time.monotonic() + _LAST_BREATH
    while not _exited(pid) and time.monotonic() < deadline:
        time.sleep(0.01)


def _exited(pid: int) -> bool:
    """Return whether a child process has ended, without reaping it."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return False
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, pid, flags) is not None
