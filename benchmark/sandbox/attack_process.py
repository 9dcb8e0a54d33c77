"""The process of a submitted attack: it gets images, requests passes, and returns adversarial images."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.benchmark.sandbox.confinement import Allowance, Limits, require
from robustness_bench.benchmark.sandbox.failures import SubmittedAttackError
from robustness_bench.benchmark.sandbox.process import ConfinedProcess, Settings
from robustness_bench.benchmark.sandbox.serving import Desk
from robustness_bench.benchmark.sandbox.untrusted import ATTACK, raw
from robustness_bench.benchmark.sandbox.wire import Frame, WireError

LIMITS = Limits(seconds_per_call=1800.0)
"""Time limits of an attack on one batch of images, not counting the model's passes."""


class AttackProcess(ConfinedProcess):
    """One confined process with a copy of an ``attack.py``; it ends with the first failure.

    It never has the model's weights: it sends requests, and the model answers on this side. The attack's
    own arithmetic runs on the CPU.
    """

    error = SubmittedAttackError
    starting = "import"

    @classmethod
    def start(cls, code: Path, limits: Limits = LIMITS) -> "AttackProcess":
        """Start the process and import the file there.

        Raises:
            ConfinementError: this machine lacks a protection.
            SubmittedAttackError: the file cannot be imported, or defines no ``perturb``.
            BenchError: the file cannot be read.
        """
        require(file=ATTACK)
        packages = str(Path(torch.__file__).parents[1])
        shape = {"classes": 0, "channels": 0, "size": 0}
        threads = torch.get_num_threads()
        settings = Settings(**shape, device="cpu", threads=threads, packages=packages, file=ATTACK)
        return cls(code, None, limits, settings)

    def perturb(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        norm: Norm,
        eps: float,
        seed: int,
        allowance: Allowance,
    ) -> Tensor:
        """Run the attack on ``x`` (N, C, H, W): returns float32 of that shape with any values.

        Raises:
            SubmittedAttackError: it gives an invalid answer.
        """
        desk, clock = Desk(model, x, allowance), _Clock(self._limits.seconds_per_call)
        shape = tuple(x.shape)
        header = {"shape": shape, "norm": norm, "eps": eps, "seed": seed, "most": desk.most}
        answer: memoryview | bytes = b"".join([raw(x), raw(y)])
        with self._lock:
            if self._ended is not None:
                raise self._ended
            with self._answering(self._limits.seconds_per_call, "perturb(), passes of the model not counted"):
                while True:
                    with clock.running() as deadline:
                        self._channel.send(header, answer, deadline)
                        frame = self._channel.receive(desk.longest, deadline)
                    if self._kind_of(frame, "forward", "backward", "found") == "found":
                        return _found(frame, shape).to(x.device)
                    header, answer = desk.answer(frame)

    def __enter__(self) -> "AttackProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Clock:
    """The time that the process may still use itself."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    @contextmanager
    def running(self) -> Iterator[float]:
        started = time.monotonic()
        yield started + self._left
        self._left -= time.monotonic() - started


def _found(frame: Frame, shape: tuple[int, ...]) -> Tensor:
    if len(frame.payload) != 4 * math.prod(shape):
        raise WireError("an answer of another size")
    return torch.frombuffer(frame.payload, dtype=torch.float32).reshape(shape)
