"""A submitted ``attack.py`` as an ordinary attack that runs in a fresh confined process per batch."""

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
    """Where a submitted attack's code is, and its limits. None of this is part of a result's identity."""

    path: Path
    allowance: Allowance
    limits: Limits = LIMITS


_at_hand: dict[str, Code] = {}


@contextmanager
def at_hand(sha256: str, code: Code) -> Iterator[None]:
    """Allow the attack with this hash to run inside; ``code`` must be a copy that nobody else can change."""
    _at_hand[sha256] = code
    try:
        yield
    finally:
        del _at_hand[sha256]


@dataclass(frozen=True, kw_only=True)
class SubmittedAttack(BudgetAttack):
    """A submitted attack. Its code is found by its hash, see ``at_hand``.

    Args:
        sha256: hash of its attack.py.
        name, authors, link: the authors' information, for the records.
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
    """Return the seed for a submitted attack, below 2³¹: that of the first image under attack."""
    return int(noise.keys[0]) % _SEEDS
