"""Estimates of mutual information that are kept: a Parquet file per model and attack, a row per image."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.files import write_atomic
from robustness_bench.benchmark.plan.tasks import Task

FORMAT = 1
_KEY = b"bench"
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
    table = pa.table(rows).replace_schema_metadata({_KEY: json.dumps(story).encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    write_atomic(path, buffer.getvalue())


def read_mi_record(path: Path) -> MIRecord:
    """Read and verify one file.

    Raises:
        StoreError: truncated, altered, or of another format; the message names the file.
    """
    try:
        table = pq.read_table(path, page_checksum_verification=True, partitioning=None)
        story = json.loads(table.schema.metadata[_KEY])
        if story.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        rows = {name: table.column(name).to_numpy() for name in table.column_names}
        return MIRecord(rows=rows, **story)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise StoreError(f"{path} is damaged ({reason}); delete it and run the same command again") from error


def find_mi_records(out: Path) -> list[Path]:
    """All files of estimates of a store, in a fixed order."""
    return sorted(path for path in out.glob("mi/**/*.parquet") if not path.name.startswith("."))
