"""A submitted ``attack.py`` as an ordinary attack: it runs in a confined process, a fresh one per batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from robustness_bench.attacks.base import BudgetAttack
from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.sandbox.attack_process import LIMITS, AttackProcess
from robustness_bench.benchmark.sandbox.confinement import Allowance, Limits

_SEEDS = 2**31


class Code(NamedTuple):
    """Where the code of a submitted attack is, and what it may use. None of it decides a result."""

    path: Path
    allowance: Allowance
    limits: Limits = LIMITS


_at_hand: dict[str, Code] = {}


@contextmanager
def at_hand(sha256: str, code: Code) -> Iterator[None]:
    """Let the attack with this hash run inside; ``code`` must be a copy that nobody else can change."""
    _at_hand[sha256] = code
    try:
        yield
    finally:
        del _at_hand[sha256]


@dataclass(frozen=True, kw_only=True)
class SubmittedAttack(BudgetAttack):
    """An attack that someone sent in. Its code is found by its hash, see ``at_hand``.

    Args:
        sha256: of its attack.py.
        name, authors, link: whose it is, for the records.
    """

    name: str
    authors: Sequence[str] = field(repr=False)
    link: str = field(repr=False)
    sha256: str = field(repr=False)

    def passes(self, classes: int) -> tuple[int, int]:
        return self._code().allowance

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        code = self._code()
        with AttackProcess.start(code.path, code.limits) as process:
            return process.perturb(
                model, x, y, norm=self.norm, eps=self.eps, seed=seed_of(noise), allowance=code.allowance
            )

    def _code(self) -> Code:
        if self.sha256 not in _at_hand:
            raise BenchError(
                f"the code of the submitted attack {self.name!r} is not at hand: bench submit run runs it"
            )
        return _at_hand[self.sha256]


def seed_of(noise: Noise) -> int:
    """What a submitted attack is given as its seed, below 2³¹: that of the first image under attack."""
    return int(noise.keys[0]) % _SEEDS
