"""Estimates of mutual information that are kept: a Parquet file per model and attack, a row per image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.store.parquet import read_as, write_table

FORMAT = 1
_FACTS = ("sample", "label", "clean_prediction", "adversarial_prediction")


@dataclass(frozen=True, kw_only=True)
class MIRecord:
    """The estimates of one model under one attack, as read back.

    Attributes:
        spec: the task's.
        family: what it has in common with the same measurement of other seeds.
        rows: "sample", "label", "clean_prediction", "adversarial_prediction" and each estimate in nats,
            name -> (n,) array.
    """

    id: str
    family: str
    seed: int
    spec: dict[str, Any]
    environment: dict[str, Any]
    seconds: float
    rows: dict[str, NDArray[Any]]

    @property
    def estimates(self) -> dict[str, NDArray[Any]]:
        """The estimates alone."""
        return {name: column for name, column in self.rows.items() if name not in _FACTS}


def write_mi_record(
    path: Path, task: Task, rows: dict[str, NDArray[Any]], *, environment: dict[str, Any], seconds: float
) -> None:
    """Write the estimates of ``task``."""
    story = {
        "format": FORMAT,
        "id": task.id,
        "family": task.family,
        "seed": task.seed,
        "spec": task.spec,
        "environment": environment,
        "seconds": seconds,
    }
    write_table(path, {name: pa.array(column) for name, column in rows.items()}, story)


def is_kept(path: Path, task: Task) -> bool:
    """Whether the estimates are there."""
    return path.is_file() and bool(read_mi_record(path).rows)


def read_mi_record(path: Path) -> MIRecord:
    """Read and verify one file.

    Raises:
        StoreError: truncated, altered, or of another format; the message names the file.
    """
    return read_as(MIRecord, path, FORMAT)


def find_mi_records(out: Path) -> list[Path]:
    """All files of estimates of a store, in a fixed order."""
    return sorted(path for path in out.glob("mi/**/*.parquet") if not path.name.startswith("."))
