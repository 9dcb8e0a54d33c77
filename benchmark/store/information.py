"""Estimates of mutual information that are kept: a Parquet file per model and attack, a row per image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.store.parquet import Measurement, find_tables, read_as, story_of, write_table

FORMAT = 1
_FACTS = ("sample", "label", "clean_prediction", "adversarial_prediction")


@dataclass(frozen=True, kw_only=True)
class MIRecord(Measurement):
    """The estimates of one model under one attack.

    Attributes:
        rows: "sample", "label", "clean_prediction", "adversarial_prediction" and each estimate in nats,
            name -> (n,) array.
    """

    @property
    def estimates(self) -> dict[str, NDArray[Any]]:
        return {name: column for name, column in self.rows.items() if name not in _FACTS}


def write_mi_record(
    path: Path, task: Task, rows: dict[str, NDArray[Any]], *, environment: dict[str, Any], seconds: float
) -> None:
    columns = {name: pa.array(column) for name, column in rows.items()}
    write_table(path, columns, story_of(task, FORMAT, environment, seconds))


def is_kept(path: Path, task: Task) -> bool:
    """Return whether a store has the estimates."""
    return path.is_file() and bool(read_mi_record(path).rows)


def read_mi_record(path: Path) -> MIRecord:
    """Read and verify one file; StoreError, which names it, if altered or of another format."""
    return read_as(MIRecord, path, FORMAT)


def find_mi_records(out: Path) -> list[Path]:
    """Return all files of estimates of a store, in a fixed order."""
    return find_tables(out, "mi")
