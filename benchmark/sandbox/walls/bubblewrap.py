"""Bubblewrap: a namespace in which only a few folders exist, around what seccomp and Landlock forbid anyway.

https://github.com/containers/bubblewrap. It adds what they leave open: other files have not even a name, and
there is no network interface, System V memory or host name of this machine.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_PROGRAM = "bwrap"
_SECONDS = 20.0  # for the trial
_NAMESPACES = (
    "--unshare-user-try",
    "--unshare-ipc",
    "--unshare-net",
    "--unshare-uts",
    "--unshare-cgroup-try",
)
_START = (_PROGRAM, "--die-with-parent", *_NAMESPACES)
_WHOLE = ("/proc", "/sys/devices/system")
_PACKAGE = Path(__file__).parents[3]
"""This package's folders; in a checkout, links lead to them."""


def command(visible: Iterable[Path], devices: Iterable[Path], scratch: Path) -> list[str]:
    """Return the words before a command that confine it: it sees only these paths, and its scratch folder.

    Args:
        visible: read-only; those that are absent are skipped. What Python needs to start is added.
        devices: of /dev, beside its harmless ones.
    """
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    links = [path.resolve() for path in _PACKAGE.iterdir() if path.is_symlink()]
    paths = {*visible, *map(Path, prefixes), *map(Path, _WHOLE), _PACKAGE, *links}
    words = [*_START]
    for path in sorted(paths, key=lambda path: len(path.parts)):  # what is inside another after it
        if path.parts[:2] != ("/", "dev"):
            words += ["--ro-bind-try", str(path), str(path)]
    words += ["--dev", "/dev"]
    for path in devices:
        words += ["--dev-bind-try", str(path), str(path)]
    return [*words, "--bind", str(scratch), str(scratch), "--chdir", str(scratch)]


@cache
def problem() -> str:
    """Return why bubblewrap cannot be used here, found out by a trial; nothing if it can."""
    if shutil.which(_PROGRAM) is None:
        return "it is not installed"
    words = [*_START, "--ro-bind", "/", "/", "--dev", "/dev", sys.executable, "-I", "-S", "-c", ""]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it does not run: {error}"
    said = next(iter(done.stderr.strip().splitlines()), f"it ends with status {done.returncode}")
    return said if done.returncode else ""


def inner_pid(info: int) -> int | None:
    """Return the process inside, as bubblewrap writes it to its ``--info-fd``; None if it never started."""
    text = b""
    while chunk := os.read(info, 4096):
        text += chunk
        if b"}" in text:
            return int(json.loads(text)["child-pid"])
    return None
