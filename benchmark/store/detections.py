"""A guarded classifier's verdict on each image: a Parquet file per system, attack, confidence and seed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.store.parquet import (
    CellMeasurement,
    find_tables,
    read_as,
    story_of,
    typed,
    write_table,
)

FORMAT = 1
SCORE, FLAG = "score:", "flag:"  # + a detector's name: a column of its own
_SCHEMA = {
    "sample": pa.int32(),  # index in the test set
    "label": pa.int16(),
    "clean_prediction": pa.int16(),  # the bare classifier on the natural image
    "prediction": pa.int16(),  # the bare classifier on the image that was judged
    "reformed_prediction": pa.int16(),  # the same after reforming; equal without a reformer
    "linf": pa.float32(),  # norms of x' - x, 0 where the attack found nothing
    "l2": pa.float32(),
    "l1": pa.float32(),
    "forwards": pa.float32(),  # passes per sample of the attack, mean over its images
    "backwards": pa.float32(),
}
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Detection(CellMeasurement):
    """One cell.

    Attributes:
        spec: the task's: ``dataset``, ``system``, ``attack`` ("none", "cw", "ead-l1", "ead-en", …),
            ``confidence`` (κ; 0.0 for natural images), ``setting`` ("natural", "oblivious", "white",
            "grey"), ``parameters`` of the attack, ``detectors``: name -> identity.
        thresholds: detector -> the score from which on it flags.
        remarks: detector -> what must be said of it (a part that failed its quality gate).
        rows: column name -> (n,) array; ``score:NAME`` and ``flag:NAME`` for every detector.
    """

    thresholds: dict[str, float]
    remarks: dict[str, str]

    @property
    def detectors(self) -> list[str]:
        """The system's detectors, in its order."""
        return list(self.thresholds)

    def scores(self, detector: str) -> NDArray[np.float64]:
        """(n,); higher is more suspicious."""
        return np.asarray(self.rows[SCORE + detector], dtype=np.float64)

    def flags(self, detector: str) -> Mask:
        """(n,)."""
        return np.asarray(self.rows[FLAG + detector], dtype=bool)

    @property
    def flagged(self) -> Mask:
        """By any detector: (n,)."""
        masks = [self.flags(name) for name in self.detectors]
        return np.logical_or.reduce(masks) if masks else np.zeros(len(self.rows["label"]), bool)

    @property
    def selected(self) -> Mask:
        """Images whose natural version the bare classifier gets right: the denominator under attack."""
        return np.asarray(self.rows["clean_prediction"] == self.rows["label"])

    @property
    def fooled(self) -> Mask:
        """Selected images on which the attack beats the bare classifier."""
        return np.asarray(self.selected & (self.rows["prediction"] != self.rows["label"]))

    @property
    def right(self) -> Mask:
        """Images that the bare classifier gets right as judged."""
        return np.asarray(self.rows["prediction"] == self.rows["label"])

    @property
    def reformed_right(self) -> Mask:
        """The same after reforming."""
        return np.asarray(self.rows["reformed_prediction"] == self.rows["label"])

    def defended(self, detectors: bool = True, reformer: bool = True) -> Mask:
        """Return which images are flagged or correctly classified by the given parts of the system: (n,).

        This is how Meng and Chen 2017, https://arxiv.org/abs/1705.09064, count adversarial images. On natural
        images a flag is an error: use ``accepted`` there.
        """
        right = self.reformed_right if reformer else self.right
        return np.asarray(right | self.flagged) if detectors else right

    @property
    def accepted(self) -> Mask:
        """Images neither flagged nor misclassified after reforming, for accuracy on natural images: (n,)."""
        return np.asarray(~self.flagged & self.reformed_right)


def write_detection(
    path: Path,
    task: Task,
    rows: dict[str, NDArray[Any]],
    *,
    thresholds: dict[str, float],
    remarks: dict[str, str],
    environment: dict[str, Any],
    seconds: float,
    error: str = "",
) -> None:
    """Write the cell of ``task``; without rows and with a traceback if it failed."""
    story = story_of(task, FORMAT, environment, seconds) | {"thresholds": thresholds, "remarks": remarks}
    kinds = dict(_SCHEMA)
    for name in thresholds:
        kinds |= {SCORE + name: pa.float64(), FLAG + name: pa.bool_()}
    status = "error" if error else "ok"
    write_table(path, typed(rows, kinds), {**story, "status": status, "error": error})


def keep_failure(path: Path, task: Task, environment: dict[str, Any], error: str) -> None:
    """Write the record of a cell that failed."""
    write_detection(
        path, task, {}, thresholds={}, remarks={}, environment=environment, seconds=0.0, error=error
    )


def is_kept(path: Path, task: Task) -> bool:
    """Return whether the cell has its result; one that failed is tried again."""
    return path.is_file() and read_detection(path).status == "ok"


def read_detection(path: Path) -> Detection:
    """Read and verify one cell; StoreError, which names the file, if altered or of another format."""
    return read_as(Detection, path, FORMAT)


def find_detections(out: Path) -> list[Path]:
    """Return all cells of a store, in a fixed order."""
    return find_tables(out, "detections")
