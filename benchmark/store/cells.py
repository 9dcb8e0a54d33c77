"""A record is one evaluated cell: a Parquet file with a row per sample and the cell's facts as metadata."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.statistics import Audit, Outcomes, withstand_all
from robustness_bench.benchmark.store.diagnoses import BATCH_DEPENDENT, NOT_DIAGNOSED, Diagnoses, Diagnosis
from robustness_bench.benchmark.store.parquet import (
    CellMeasurement,
    Columns,
    find_tables,
    read_as,
    story_of,
    typed,
    write_table,
)

FORMAT = 2
DISTANCES: tuple[Literal["linf", "l2", "l1"], ...] = ("linf", "l2", "l1")
SCHEMA = {
    "sample": pa.int32(),  # index in the test set
    "label": pa.int16(),
    "clean_prediction": pa.int16(),
    "adversarial_prediction": pa.int16(),
    # norms of x_adv - x, 0 where the attack found nothing
    **dict.fromkeys(DISTANCES, pa.float32()),
    "forwards": pa.float32(),  # passes per sample, the mean over its batch
    "backwards": pa.float32(),
}
OPTIONAL = {"way": pa.int8()}  # how aa-fast came by the outcome: see attacks/fast.py
_ALONE, _ESCALATED, _AUDITED = range(3)


@dataclass(frozen=True, kw_only=True)
class Record(CellMeasurement):
    """One cell.

    Attributes:
        model_family: the family of the evaluated model.
        diagnosis: what its store knows of the model, where it was read with its store (``read_records``);
            None: not diagnosed.
    """

    model_family: str
    diagnosis: Diagnosis | None = None

    @property
    def threat_model(self) -> tuple[Any, ...]:
        """What cells have in common that can be compared: the images, and the attacker's limits."""
        return tuple(self.spec[key] for key in ("dataset", "data", "n_examples", "norm", "eps", "threat"))

    @property
    def unranked(self) -> str:
        """Why no place may rest on it, as its model's diagnosis has it; nothing if one may."""
        if self.diagnosis is None or self.diagnosis.spec["eps"] != self.spec["eps"]:
            return NOT_DIAGNOSED
        if "batch-dependent" in self.diagnosis.flags:
            return BATCH_DEPENDENT
        return ""

    @property
    def clean(self) -> NDArray[np.bool_]:
        """Which natural images are classified correctly: (n,)."""
        return np.asarray(self.rows["clean_prediction"] == self.rows["label"])

    @property
    def audit(self) -> Audit | None:
        """What the attack's audit found, if it had one."""
        if "way" not in self.rows:
            return None
        way, fell = self.rows["way"], ~self.withstood
        audited = self.clean & (way == _AUDITED)
        left = audited | (self.clean & (way == _ALONE) & ~fell)
        counts = (left, audited, audited & fell, self.clean & (way == _ESCALATED))
        return Audit(*(int(each.sum()) for each in counts))

    @property
    def distance(self) -> NDArray[np.float32]:
        """The norm of each perturbation in the threat model's norm: (n,)."""
        return np.asarray(self.rows[self.spec["norm"]])

    @property
    def withstood(self) -> NDArray[np.bool_]:
        """Which samples no image at any distance fooled, the natural one included: (n,)."""
        return np.asarray(self.clean & (self.rows["adversarial_prediction"] == self.rows["label"]))

    @property
    def robust(self) -> NDArray[np.bool_]:
        """Which samples no image within the cell's own ε fooled, the natural one included: (n,)."""
        return self.robust_at(self.spec["eps"])

    def robust_at(self, eps: float) -> NDArray[np.bool_]:
        """Return the same at another ε; ValueError unless the attack is a minimum-norm one."""
        kind = self.spec["kind_of_attack"]
        if kind != "minimum-norm" and eps != self.spec["eps"]:
            raise ValueError(f"{self.spec['attack']} ran at ε = {self.spec['eps']}, not {eps}")
        return robust_rows(self.rows, kind=kind, norm=self.spec["norm"], eps=eps)


def robust_rows(rows: Mapping[str, NDArray[Any]], *, kind: str, norm: str, eps: float) -> NDArray[np.bool_]:
    """Return which samples no counting image fooled, including the natural image: (n,).

    Args:
        rows: a record's columns.
        kind: of the attack; every image counts but those of a minimum-norm attack beyond ``eps``.
    """
    clean = rows["clean_prediction"] == rows["label"]
    withstood = clean & (rows["adversarial_prediction"] == rows["label"])
    if kind != "minimum-norm":
        return np.asarray(withstood)
    # The slack of ``attacks.base``, which reading records without torch cannot import.
    return np.asarray(withstood | (clean & (rows[norm] > eps * (1 + 1e-5) + 1e-6)))


def robust_to_all(records: Iterable[Record]) -> Outcomes:
    """Return which images withstood every record, an image each: (n,). See ``withstand_all``."""
    return withstand_all((record.rows["sample"], record.robust) for record in records)


def write_record(
    path: Path,
    task: Task,
    rows: dict[str, NDArray[Any]],
    *,
    environment: dict[str, Any],
    seconds: float,
    error: str = "",
) -> None:
    """Write the record of ``task``; without rows and with a traceback if it failed."""
    story = story_of(task, FORMAT, environment, seconds)
    story |= {"model_family": task.parents["model"].family, "status": "error" if error else "ok"}
    told = {name: kind for name, kind in OPTIONAL.items() if name in rows}
    write_table(path, typed(rows, SCHEMA | told), {**story, "error": error})


def keep_failure(path: Path, task: Task, environment: dict[str, Any], error: str) -> None:
    """Write the record of a cell that failed: shown as ERROR, never as a number."""
    write_record(path, task, {}, environment=environment, seconds=0.0, error=error)


def is_kept(path: Path, task: Task) -> bool:
    """Return whether the cell has its result; one that failed is tried again."""
    return path.is_file() and read_record(path).status == "ok"


def read_record(path: Path, columns: Columns | None = None) -> Record:
    """Read and verify one record.

    Args:
        columns: its story -> the columns that are needed; all unless given.

    Raises:
        StoreError: truncated, altered, or of another format; the message names the file.
    """

    def make(**told: Any) -> Record:
        told.pop("flags", None)  # earlier records kept those of their model
        return Record(**told)

    wanted = columns or (lambda story: list(SCHEMA))
    return read_as(make, path, FORMAT, columns=wanted, optional=() if columns else list(OPTIONAL))


def read_records(out: Path) -> list[Record]:
    """Read all records of a store, each with its model's diagnosis; StoreError if one of these is damaged."""
    diagnoses = Diagnoses([out])
    records = map(read_record, find_records(out))
    return [replace(record, diagnosis=diagnoses.of(record.spec)) for record in records]


def find_records(out: Path) -> list[Path]:
    """Return all record files of a store, in a fixed order, without unfinished cells."""
    return find_tables(out, "records")
