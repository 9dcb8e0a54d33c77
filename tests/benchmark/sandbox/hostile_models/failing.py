"""Submissions that do not start, or whose process does not survive: what they do, and what must be said."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

_MIB = 2**20
_NETWORK = """
import ctypes, json, mmap, os, signal, struct, sys, threading, time
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        {forward}
        return self.linear(x.flatten(1))

def build(*, classes, channels, size):
    {build}
    return Network(channels * size * size, classes)
"""
_PIPE = 'pipe = json.loads(sys.argv[1])["writing"]; '
_FRAME = (
    "head = json.dumps({head}).encode(); "
    'os.write(pipe, struct.pack("<4sIQ", b"RBM1", len(head), {size}) + head)'
)
_SLEEP = "time.sleep(600)"
_WAIT = "; time.sleep(60)"


class Failing(NamedTuple):
    """A source and what must become of it."""

    source: str
    stage: str
    says: str
    """A regular expression."""
    limits: Mapping[str, Any] = MappingProxyType({})
    backward: bool = False
    """Whether a gradient is asked for."""
    fresh: bool = False
    """Whether it needs a Python that nothing has been imported into, or autograd, which no fork can run."""


def _in_forward(code: str, stage: str, says: str, **more: Any) -> Failing:
    return Failing(_NETWORK.format(forward=code, build="pass"), stage, says, **more)


def _in_build(code: str, stage: str, says: str, **more: Any) -> Failing:
    return Failing(_NETWORK.format(forward="pass", build=code), stage, says, **more)


def _sends(head: str, size: str, says: str) -> Failing:
    return _in_forward(_PIPE + _FRAME.format(head=head, size=size), "garbled", says)


_SHORT = {"seconds_per_call": 1.0}
_SMALL = {"memory": 512 * _MIB}
_BACKWARD = "x.requires_grad and x.register_hook(lambda gradient: time.sleep(600))"
_SHARED = "self.eaten = mmap.mmap(-1, 2**31); [self.eaten.write(b'x' * 2**20) for _ in range(2**11)]" + _WAIT
_THREADS = "[threading.Thread(target=time.sleep, args=(60,)).start() for _ in range(100)]" + _WAIT
_FILES = "[open(f'file-{i}', 'w') for i in range(200)]" + _WAIT
_LARGE = "[open(f'file-{i}', 'wb').write(bytes(2**20)) for i in range(40)]" + _WAIT
_KEYWORDS = "def build(classes):\n    return None"

STARTING = {
    "syntax": Failing("def build(:\n", "import", r"SyntaxError.*\(model\.py, line 1\)"),
    "import": Failing("import torch\nimport no_such_thing\n", "import", r"No module named.*line 2"),
    "exits": Failing("import sys\nsys.exit(0)\n", "import", "SystemExit: 0"),
    "no-build": Failing("x = 1\n", "build", r"no function build\("),
    "keywords": Failing(_KEYWORDS, "build", "unexpected keyword argument"),
    "no-module": Failing("def build(**shape):\n    return dict\n", "build", "returned a type, not"),
    "build-raises": _in_build(
        "raise ValueError('because')", "build", r"ValueError: because \(model\.py, line 1"
    ),
    "import-sleeps": Failing(
        f"import time\n{_SLEEP}\n", "time", r"no answer within 1 s \(import", {"seconds_to_start": 1.0}
    ),
    "build-sleeps": _in_build(_SLEEP, "time", r"no answer within 1 s", limits={"seconds_to_start": 1.0}),
    "build-eats": _in_build("global eaten; eaten = torch.ones(2**29)", "memory", "build: ", limits=_SMALL),
    "import-ends": Failing(
        "import os, sys\nprint('\\x1b[1mfare\\twell', file=sys.stderr, flush=True)\nos._exit(7)\n",
        "died",
        r"ended with status 7 \(import and build\(\)\), its last words: \?\[1mfare well; fix",
    ),
}
CALLED = {
    "sleeps": _in_forward(_SLEEP, "time", r"no answer within 1 s \(forward\)", limits=_SHORT),
    "backward-sleeps": _in_forward(
        _BACKWARD, "time", r"no answer within 1 s \(backward\)", limits=_SHORT, backward=True, fresh=True
    ),
    "shared-memory": _in_forward(_SHARED, "memory", "more than 512 MiB", limits=_SMALL),
    "threads": _in_forward(_THREADS, "limit", "more than 50 threads", limits={"threads": 50}),
    "files": _in_forward(_FILES, "limit", "or 100 files"),
    "large-files": _in_forward(_LARGE, "limit", "more than 16 MiB", limits={"scratch": 16 * _MIB}),
    "ends": _in_forward("os._exit(3)", "died", r"ended with status 3 \(forward\)"),
    "crashes": _in_forward("ctypes.string_at(0)", "died", "ended by SIGSEGV"),
    "kills-itself": _in_forward("os.kill(os.getpid(), signal.SIGKILL)", "died", "ended by SIGKILL"),
    "closes": _in_forward(_PIPE + "os.close(pipe)" + _WAIT, "died", "closed its end of the pipe"),
    "noise": _in_forward(_PIPE + "os.write(pipe, b'noise' * 1000)", "garbled", "bytes that are no message"),
    "long": _sends('{"kind": "logits", "token": 0}', "2**60", "which is too long"),
    "another": _sends('{"kind": "logits", "token": 7}', "0", "an answer to something else"),
    "empty": _sends('{"kind": "logits", "token": 0, "missing": True}', "0", "an answer of another size"),
    "liar": _sends(
        '{"kind": "error", "token": 0, "stage": "\\u001b[31m", "text": [1]}',
        "0",
        "an error of an unknown kind",
    ),
}
