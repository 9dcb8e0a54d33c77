"""The walls around a submitted model: what gets through nowhere, and what is said of them."""

import errno
import fcntl
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from robustness_bench.benchmark.sandbox.confinement import (
    ConfinementError,
    Limits,
    Platform,
    environment,
    protections,
    readable,
    require,
)
from robustness_bench.benchmark.sandbox.walls import bubblewrap, kernel, landlock, seccomp
from tests.benchmark.sandbox.forked import fork
from tests.benchmark.sandbox.hostile import escaping, needs_walls, run_python, targets, tree_hash
from tests.conftest import ROOT

_CONFINED = """
import os, sys
from pathlib import Path
from robustness_bench.benchmark.sandbox.confinement import Limits, confine
program = Path("model.py").read_text()
confine(
    Path.cwd(), Limits(), parent=os.getppid(), packages=Path(sys.prefix, "lib"), device="cpu"
)
exec(compile(program, "model.py", "exec"), {"__name__": "__main__"})
"""
_FREE = 'exec(compile(open("model.py").read(), "model.py", "exec"), {"__name__": "__main__"})'
_LANDLOCK = "landlock.restrict({Path('shown'): landlock.READ, Path('kept'): landlock.KEEP_FILES})"


def _scratch(tmp_path: Path, source: str) -> Path:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "model.py").write_text(source)
    return scratch


def _confined(tmp_path: Path, body: str, before: str = "") -> str:
    """What ``body`` prints where nothing but ``before`` restricts it."""
    return run_python(f"{before}\n{body}", tmp_path)


@needs_walls
def test_no_escape_succeeds(tmp_path: Path) -> None:
    with targets(tmp_path) as aim:
        scratch = _scratch(tmp_path, escaping(aim))
        before = [tree_hash(tmp_path / name) for name in ("store", "submission")]
        told = json.loads(run_python(_CONFINED, scratch, inherit=()))
        assert told == {"succeeded": [], "odd": []}
        assert [tree_hash(tmp_path / name) for name in ("store", "submission")] == before
    assert not (tmp_path / "elsewhere").exists()


@needs_walls
def test_every_escape_succeeds_where_nothing_hinders_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the test above would prove nothing."""
    monkeypatch.setenv("BENCH_TEST_SECRET", "secret")
    with targets(tmp_path) as aim:
        source = escaping(aim)
        scratch = _scratch(tmp_path, source)
        told = json.loads(run_python(_FREE, scratch, inherit=(aim["inherited"],)))
    names = set(re.findall(r"@attempt\ndef (\w+)", source))
    assert len(names) > 50
    assert names == set(told["succeeded"])


@needs_walls
@pytest.mark.parametrize(
    ("act", "wanted"),
    [
        ("os.open('victim', os.O_WRONLY)", errno.EACCES),
        ("os.truncate('victim', 0)", errno.EACCES),
        ("os.open('victim', os.O_RDONLY | os.O_TRUNC)", errno.EACCES),
        ("os.unlink('victim')", errno.EACCES),
        ("os.rename('victim', 'other')", errno.EACCES),
        ("os.mkdir('folder')", errno.EACCES),
        ("os.listdir('.')", errno.EACCES),
        ("os.chmod('victim', 0o644)", 0),
        ("os.open('shown/file', os.O_RDONLY)", 0),
        ("os.listdir('shown')", 0),
        ("os.open('shown/file', os.O_WRONLY)", errno.EACCES),
        ("os.truncate('shown/file', 0)", errno.EACCES),
        ("os.unlink('shown/file')", errno.EACCES),
        ("os.open('shown/new', os.O_CREAT)", errno.EACCES),
        ("os.execv('shown/file', ['file'])", errno.EACCES),
        ("os.open('kept/file', os.O_RDWR | os.O_TRUNC)", 0),
        ("os.open('kept/new', os.O_RDWR | os.O_CREAT)", 0),
        ("os.unlink('kept/file')", 0),
        ("os.mkdir('kept/folder')", errno.EACCES),
        ("os.symlink('victim', 'kept/link')", errno.EACCES),
        ("os.mkfifo('kept/fifo')", errno.EACCES),
        ("os.rename('victim', 'kept/victim')", errno.EACCES),
    ],
)
def test_landlock_alone(tmp_path: Path, act: str, wanted: int) -> None:
    assert _alone(tmp_path, _LANDLOCK, act) == wanted


@pytest.mark.skipif(landlock.abi() < 6, reason="needs Landlock ABI 6, for signals and sockets")
@pytest.mark.parametrize(
    "act",
    [
        "os.kill(os.getppid(), 0)",
        "socket.create_connection(('127.0.0.1', 9), timeout=5)",
        "socket.socket().bind(('127.0.0.1', 0))",
    ],
)
def test_landlock_alone_stops_signals_and_tcp(tmp_path: Path, act: str) -> None:
    assert _alone(tmp_path, _LANDLOCK, act) in (
        errno.EPERM,
        errno.EACCES,
    )


@pytest.mark.skipif(not seccomp.available(), reason="this kernel has no seccomp filters")
@pytest.mark.parametrize(
    ("act", "wanted"),
    [
        ("os.chmod('victim', 0o600)", errno.EPERM),
        ("os.utime('victim')", errno.EPERM),
        ("os.fork()", errno.EPERM),
        ("os.execv('/bin/true', ['true'])", errno.EPERM),
        ("socket.socket()", errno.EPERM),
        ("os.kill(os.getppid(), 0)", errno.EPERM),
        ("os.kill(1, 0)", errno.EPERM),
        ("os.kill(0, 0)", errno.EPERM),
        ("signal.pidfd_send_signal(parent, 0)", errno.EPERM),
        ("os.setpriority(os.PRIO_PROCESS, os.getppid(), os.getpriority(os.PRIO_PROCESS, 0))", errno.EPERM),
        ("os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))", errno.EPERM),
        ("os.kill(os.getpid(), 0)", 0),
        ("os.open('victim', os.O_WRONLY)", 0),
        ("resource.prlimit(os.getppid(), resource.RLIMIT_CORE)", errno.EPERM),
        ("resource.prlimit(0, resource.RLIMIT_CORE)", 0),
        ("resource.prlimit(os.getpid(), resource.RLIMIT_CORE)", 0),
        ("fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())", errno.EPERM),
        ("fcntl.fcntl(0, 10, 9)", errno.EPERM),
        ("fcntl.ioctl(0, 0x8901, b'1234')", errno.EPERM),
        ("fcntl.fcntl(0, fcntl.F_GETFD)", 0),
        ("threading.Thread(target=int).start()", 0),
    ],
)
def test_seccomp_alone(tmp_path: Path, act: str, wanted: int) -> None:
    assert _alone(tmp_path, "seccomp.restrict()", act) == wanted


def _alone(folder: Path, before: str, act: str) -> int:
    """The error number of ``act`` after ``before``, 0 if it succeeds, in a fork of this process."""
    for name in ("shown", "kept"):
        (folder / name).mkdir()
    for path in (folder / "victim", folder / "shown" / "file", folder / "kept" / "file"):
        path.write_text("#!/bin/true")
        path.chmod(0o755)
    if pid := fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = -1
    try:
        os.chdir(folder)
        modules = {each.__name__: each for each in (fcntl, os, resource, signal, socket, threading)}
        walls = {"landlock": landlock, "seccomp": seccomp, "Path": Path}
        known = {**modules, **walls, "parent": os.pidfd_open(os.getppid())}
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        exec(f"{before}\n{act}", known)
        status = 0
    except OSError as error:
        status = error.errno or status
    finally:
        os._exit(status)


@needs_walls
def test_privileges_are_gone(tmp_path: Path) -> None:
    scratch = _scratch(
        tmp_path,
        "import resource\n"
        "for name in ('CORE', 'NOFILE', 'CPU', 'FSIZE'):\n"
        "    print(resource.getrlimit(getattr(resource, 'RLIMIT_' + name)))\n"
        "try:\n"
        "    resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))\n"
        "except ValueError:\n"
        "    print('kept')\n"
        "try:\n"
        "    open('closed')\n"  # of our own, and root may open it all the same
        "except PermissionError:\n"
        "    print('closed')\n",
    )
    (scratch / "closed").touch(0)
    limits = Limits()
    most = (0, limits.open_files, limits.cpu_seconds, limits.scratch)
    assert run_python(_CONFINED, scratch).split("\n") == [
        *(f"({n}, {n})" for n in most),
        "kept",
        "closed",
        "",
    ]


@needs_walls
def test_large_file_is_refused(tmp_path: Path) -> None:
    source = "try:\n    open('own', 'wb').truncate(2**40)\nexcept OSError as error:\n    print(error.errno)"
    assert int(run_python(_CONFINED, _scratch(tmp_path, source))) == errno.EFBIG


@needs_walls
def test_process_ends_where_its_parent_is_not_the_one_that_was_named(tmp_path: Path) -> None:
    program = _CONFINED.replace("os.getppid()", "1 if os.getppid() != 1 else 2")
    with pytest.raises(AssertionError):
        run_python(program, _scratch(tmp_path, "print('ran')"))


@pytest.mark.parametrize(
    ("at", "missing"),
    [
        (Platform("Linux", 2, True), {"writes"}),
        (Platform("Linux", 0, True), {"writes", "reads"}),
        (Platform("Linux", 7, False), {"writes", "network", "processes"}),
        (Platform("Darwin", 0, False), {"writes", "reads", "network", "processes"}),
        (Platform("Linux", 3, True), set()),
    ],
)
def test_missing_walls_are_refused(at: Platform, missing: set[str]) -> None:
    assert {wall.name for wall in protections(at) if not wall.stands} == missing
    if not missing:
        require(at=at)
        return
    with pytest.raises(ConfinementError, match=r"Linux 6\.2 or later") as refusal:
        require(at=at)
    assert all(name in str(refusal.value) for name in missing)


def test_windows_is_refused() -> None:
    with pytest.raises(ConfinementError, match="Windows"):
        require(at=Platform("Windows", 0, False))


def test_environment_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_TEST_SECRET", "secret")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    made = environment(tmp_path, 3)
    assert "secret" not in made.values()
    assert made["HOME"] == str(tmp_path)
    assert made["LD_LIBRARY_PATH"] == "/opt/lib"
    assert made["ATEN_CPU_CAPABILITY"] == "avx2"  # other instructions would round otherwise than this process
    assert made["OMP_NUM_THREADS"] == "3"
    assert os.environ["HOME"] != made["HOME"]


def test_limits_must_be_positive() -> None:
    with pytest.raises(ConfinementError, match="memory must be above 0, got 0"):
        Limits(memory=0)


@pytest.mark.skipif(bool(bubblewrap.problem()), reason=f"needs bubblewrap: {bubblewrap.problem()}")
def test_bubblewrap_shows_its_process_nothing_else(tmp_path: Path) -> None:
    """A file beside the scratch folder has no name; Python has what it needs; only the scratch is written."""
    scratch, secret = tmp_path / "scratch", tmp_path / "secret"
    scratch.mkdir()
    secret.write_text("mine")
    program = f"""
import json, os, socket, sys
try:
    open({str(Path(sys.prefix) / "written")!r}, "w")
    wrote = True
except OSError:
    wrote = False
import robustness_bench.benchmark.sandbox.child, torch.version
found = [os.path.exists({str(secret)!r}), os.path.exists("/etc/passwd"), wrote]
found += [name for _, name in socket.if_nameindex() if name != "lo"]
open("found", "w").write(json.dumps(found))
"""
    packages = Path(torch.__file__).parents[1]
    words = bubblewrap.command(readable(packages, "cpu"), [], scratch)
    start = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(packages)!r}]\n"
    done = subprocess.run(
        [*words, sys.executable, "-I", "-B", "-c", start + program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((scratch / "found").read_text()) == [False, False, False]
