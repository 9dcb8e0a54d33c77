"""Facts about one file of results, which other files must agree with."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustness_bench.benchmark.files import canonical_json
from robustness_bench.benchmark.plan.kinds import TASK_KINDS


class Flagging(NamedTuple):
    """A detector's threshold, and the remark on it."""

    threshold: float
    remark: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts that other files must agree with.

    Attributes:
        ok: False for a cell that failed.
        result: hash of the result without time, place and speed; equal results have equal hashes.
        sha256: for a card, the hash of its tensors.
        family, model_family: as a record states them; empty if it does not.
        found: for a calibration, its result.
        used: for a detector cell, calibration id -> what the cell took from it.
    """

    id: str
    seed: int
    spec: dict[str, Any]
    result: str
    ok: bool = True
    sha256: str = ""
    family: str = ""
    model_family: str = ""
    found: Flagging | None = None
    used: dict[str, Flagging] = field(default_factory=dict)

    @property
    def parents(self) -> dict[str, str]:
        """Role -> id."""
        return dict(self.spec["parents"])

    @property
    def cell(self) -> str:
        """Which cell it is of, in words; nothing if it is of none."""
        kind = TASK_KINDS.get(self.spec["kind"])
        return kind.cell.format(**{**self.spec, "seed": self.seed}) if kind else ""


def digest(rows: dict[str, NDArray[Any]], *more: Any) -> str:
    """Return a hash of the content of columns and of further JSON values."""
    seen = hashlib.sha256(canonical_json([sorted(rows), *more]).encode())
    for name in sorted(rows):
        seen.update(np.ascontiguousarray(rows[name] + 0).tobytes())  # -0.0 becomes 0.0
    return seen.hexdigest()
