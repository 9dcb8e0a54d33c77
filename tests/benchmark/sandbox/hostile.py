"""What escapes.py is aimed at, and a hash that shows whether it hit."""

import contextlib
import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustness_bench.benchmark.sandbox.confinement import Platform, protections
from tests.conftest import ROOT

ESCAPES = ROOT / "tests" / "benchmark" / "sandbox" / "hostile_models" / "escapes.py"
_VICTIMS = 60
_TGKILL = {"x86_64": 234, "aarch64": 131}

needs_walls = pytest.mark.skipif(
    not all(wall.stands for wall in protections()),
    reason=f"this kernel cannot confine a process: {Platform.here()}",
)


def tree_hash(folder: Path) -> str:
    """Of names, content, modes, owners and times of all beneath ``folder``."""
    found = hashlib.sha256()
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        told = (path.relative_to(folder).as_posix(), status.st_mode, status.st_uid, status.st_mtime_ns)
        found.update(repr((told, hashlib.sha256(content).hexdigest())).encode())
    return found.hexdigest()


@contextlib.contextmanager
def targets(folder: Path) -> Iterator[dict[str, Any]]:
    """A store, a secret, sockets that listen, and a process to harm, all in ``folder`` or of our own."""
    store, submission = folder / "store", folder / "submission"
    (store / "tree" / "branch").mkdir(parents=True)
    submission.mkdir()
    victims = [store / f"record-{number:02}" for number in range(_VICTIMS)]
    for path in (*victims, store / "tree" / "leaf", submission / "model.py", folder / "secret"):
        path.write_text("as it was")
    abstract = f"\0bench-test-{os.getpid()}-{folder.name}"
    inherited = os.open(folder / "secret", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(abstract)
        unix.listen()
        try:
            yield {
                "victims": [str(path) for path in victims],
                "store": str(store),
                "submission": str(submission),
                "elsewhere": str(folder / "elsewhere"),
                "secret": str(folder / "secret"),
                "port": tcp.getsockname()[1],
                "abstract": abstract,
                "inherited": inherited,
                "process": sleeper.pid,
                "tgkill": _TGKILL.get(platform.machine(), 0),
            }
            assert sleeper.poll() is None
        finally:
            sleeper.kill()
            sleeper.wait()
            os.close(inherited)


def escaping(aim: dict[str, Any]) -> str:
    """The source of escapes.py, aimed."""
    empty = "TARGETS: dict[str, Any] = {}\n"
    source = ESCAPES.read_text()
    assert source.count(empty) == 1
    return source.replace(empty, f"TARGETS: dict[str, Any] = json.loads({json.dumps(aim)!r})\n")


def run_python(program: str, folder: Path, *arguments: str, inherit: tuple[int, ...] = ()) -> str:
    """What a program says, run in ``folder`` with this checkout importable."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", start + program, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        pass_fds=inherit,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
