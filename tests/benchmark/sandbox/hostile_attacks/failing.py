"""Submitted attacks that do what they must not: what they do, and what must be said."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

_MIB = 2**20
HEAD = """
import ctypes, json, mmap, os, random, signal, socket, struct, subprocess, sys, threading, time
import torch

"""
BODY = """
def perturb(model, x, y, *, norm, eps, seed):
    {body}
    return x
"""
_PIPE = 'pipe = json.loads(sys.argv[1])["writing"]; '
_FRAME = (
    "head = json.dumps({head}).encode(); "
    'os.write(pipe, struct.pack("<4sIQ", b"RBM1", len(head), {size}) + head + {payload})'
)
_SLEEP = "time.sleep(600)"
_WAIT = "; time.sleep(60)"
_FORWARD = '{"kind": "forward", "token": 0, "release": [], "gradient": False}'
_BACKWARD = '{"kind": "backward", "token": 5, "release": []}'


class Failing(NamedTuple):
    """A source and what must become of it."""

    source: str
    stage: str
    """Empty: what came back was refused by the contract of all attacks."""
    says: str
    """A regular expression."""
    limits: Mapping[str, Any] = MappingProxyType({})
    fresh: bool = False
    """Whether it needs a Python that nothing has been imported into, or autograd, which no fork can run."""


def _does(body: str, stage: str, says: str, *, fresh: bool = False, **limits: Any) -> Failing:
    return Failing(HEAD + BODY.format(body=body), stage, says, limits, fresh)


def _asks(body: str, stage: str, says: str) -> Failing:
    return _does(body, stage, says)


def _gives(what: str, stage: str, says: str) -> Failing:
    return _asks(f"return {what}", stage, says)


def _sends(head: str, stage: str, says: str, payload: str = "b''", size: str | None = None) -> Failing:
    frame = _FRAME.format(head=head, size=size or f"len({payload})", payload=payload)
    return _asks(_PIPE + frame + _WAIT, stage, says)


_SMALL: dict[str, Any] = {"memory": 512 * _MIB}
_SHARED = "eaten = mmap.mmap(-1, 2**31); [eaten.write(b'x' * 2**20) for _ in range(2**11)]" + _WAIT
_THREADS = "[threading.Thread(target=time.sleep, args=(60,)).start() for _ in range(100)]" + _WAIT
_FILES = "[open(f'file-{i}', 'w') for i in range(200)]" + _WAIT
_SWALLOWS = """
    try:
        model(x * float("nan"))
    except BaseException:
        pass"""
_SWALLOWS_CLOSED = """
    while True:
        try:
            model(x)
        except BaseException:
            pass"""
_GRADIENTS = """
    z = x.clone().requires_grad_()
    logits = model(z)
    while True:
        torch.autograd.grad(logits.sum(), z, retain_graph=True)"""
_TWICE = """
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(z).square().sum(), z, create_graph=True)
    gradient.sum().backward()"""

STARTING = {
    "syntax": Failing("def perturb(:\n", "import", r"SyntaxError.*\(attack\.py, line 1\)"),
    "import": Failing("import torch\nimport no_such_thing\n", "import", r"No module named.*line 2"),
    "of-the-benchmark": Failing(
        "import robustness_bench.benchmark.plan.tasks\n",
        "import",
        "No module named|PermissionError",
        fresh=True,
    ),
    "exits": Failing("import sys\nsys.exit(0)\n", "import", "SystemExit: 0"),
    "nothing": Failing("x = 1\n", "perturb", r"no function perturb\("),
    "import-sleeps": Failing(
        f"import time\n{_SLEEP}\n", "time", r"no answer within 1 s \(import\)", {"seconds_to_start": 1.0}
    ),
    "import-ends": Failing(
        "import os, sys\nprint('\\x1b[1mfare\\twell', file=sys.stderr, flush=True)\nos._exit(7)\n",
        "died",
        r"ended with status 7 \(import\), its last words: \?\[1mfare well; fix attack\.py",
    ),
}
CALLED = {
    "sleeps": _does(_SLEEP, "time", r"no answer within 1 s \(perturb", seconds_per_call=1.0),
    "sleeps-between": _does(
        "[(model(x), time.sleep(0.3)) for _ in range(9)]",
        "time",
        "no answer within 1 s",
        seconds_per_call=1.0,
    ),
    "eats": _does("x = torch.ones(2**29)", "memory", r"perturb: .*allocate memory", **_SMALL),
    "shared-memory": _does(_SHARED, "memory", "more than 512 MiB", **_SMALL),
    "threads": _does(_THREADS, "limit", "more than 50 threads", threads=50),
    "files": _does(_FILES, "limit", "or 100 files"),
    "forks": _does("os.fork()", "perturb", r"PermissionError.*\(attack\.py, line 7\)"),
    "starts": _does("subprocess.run(['/bin/true'])", "perturb", "PermissionError"),
    "socket": _does("socket.socket()", "perturb", "PermissionError"),
    "ends": _does("os._exit(3)", "died", r"ended with status 3 \(perturb"),
    "crashes": _does("ctypes.string_at(0)", "died", "ended by SIGSEGV"),
    "raises": _asks("raise ValueError('\\x1b[31mred\\nwords')", "perturb", r"ValueError: \?\[31mred words"),
    "system-exit": _asks("sys.exit(0)", "perturb", "SystemExit: 0"),
    "keywords": Failing(
        "def perturb(model, x, y):\n    return x\n", "perturb", "unexpected keyword argument"
    ),
    "closes": _does(_PIPE + "os.close(pipe)" + _WAIT, "died", "closed its end of the pipe"),
    # what it returns
    "nan": _gives("x * float('nan')", "", "pixels that are not finite"),
    "infinite": _gives("x / 0", "", "pixels that are not finite"),
    "outside-the-budget": _gives("(x + 1.01 * eps * (1 - 2 * (x > 0.5).float()))", "", "left its budget"),
    "outside-the-box": _gives("x + eps", "", r"pixels in \["),
    "cropped": _gives("x[:, :, :4]", "output", r"returned shape \(\d+, 1, 4, 8\) for \(\d+, 1, 8, 8\)"),
    "fewer": _gives("x[1:]", "output", r"returned shape"),
    "flat": _gives("x.flatten(1)", "output", r"returned shape"),
    "sparse": _gives("x.to_sparse()", "output", "returned shape"),
    "double": _gives("x.double()", "output", r"returned torch\.float64, not torch\.float32"),
    "integers": _gives("(255 * x).long()", "output", r"returned torch\.int64"),
    "none": _gives("None", "output", "returned a NoneType, not a tensor"),
    "tuple": _gives("(x, y)", "output", "returned a tuple"),
    # what it asks for
    "endless": _asks(
        "while True: model(x)", "passes", r"more than 21 forward passes for an image; use fewer"
    ),
    "endless-swallowing": _asks(_SWALLOWS_CLOSED, "passes", "more than 21 forward"),
    "endless-gradients": _does(_GRADIENTS, "passes", "more than 20 backward passes", fresh=True),
    "cropped-question": _asks(
        "model(x[:, :, :4])",
        "perturb",
        r"the model takes float32 images \(N, 1, 8, 8\), got torch\.float32 \(\d+, 1, 4, 8\) .*line 7",
    ),
    "double-question": _asks("model(x.double())", "perturb", r"got torch\.float64"),
    "no-question": _asks("model(x[:0])", "perturb", "the model takes 1 to 1024 images at once, got 0"),
    "many-at-once": _asks("model(x[:1].expand(1025, -1, -1, -1))", "perturb", "at once, got 1025"),
    "nan-question": _asks("model(x * float('nan'))", "query", "images with values that are not finite"),
    "swallows": _asks(_SWALLOWS, "query", "images with values that are not finite"),
    "twice": _does(_TWICE, "perturb", "once_differentiable", fresh=True),
    # what it sends without being asked
    "noise": _asks(_PIPE + "os.write(pipe, b'noise' * 1000)" + _WAIT, "garbled", "bytes that are no message"),
    "half-an-image": _sends(
        _FORWARD, "query", "asked for 7 bytes, which are not 1 to 1024 images", "b'1234567'"
    ),
    "no-image": _sends(_FORWARD, "query", "asked for 0 bytes"),
    "raw-many": _sends(_FORWARD, "query", "which are not 1 to 1024", "bytes(4 * 64 * 1025)"),
    "raw-nan": _sends(_FORWARD, "query", "not finite", "b'\\xff' * 256"),
    "long": _sends(_FORWARD, "garbled", "which is too long", size="2**60"),
    "unknown-graph": _sends(_BACKWARD, "query", "only the latest 2048 images"),
    "no-number": _sends('{"kind": "forward"}', "garbled", "a request without a number"),
    "no-table": _sends("[1, 2]", "garbled", "whose header is no table"),
    "strange": _sends(
        '{"kind": "weights", "token": 0, "release": []}', "garbled", "a message of another kind"
    ),
    "short": _sends('{"kind": "found"}', "garbled", "an answer of another size", "bytes(8)"),
    "liar": _sends(
        '{"kind": "error", "stage": "\\u001b[31m", "text": [1]}', "garbled", "an error of an unknown kind"
    ),
    "accuser": _sends(
        '{"kind": "error", "stage": "died", "text": "no"}', "garbled", "an error of an unknown kind"
    ),
}
ALLOWED = {
    "prints": "print('x' * 10**6); print('y' * 10**6, file=sys.stderr); os.write(1, b'z' * 10**6)",
    "has-no-weights": "assert not list(model.parameters()) and not model.state_dict()",
    "keeps-notes": "open('own', 'w').write('note'); assert open('own').read() == 'note'",
    "asks-without-gradients": "assert not model(x).requires_grad",
}
"""What does no harm: body -> the attack answers all the same."""
