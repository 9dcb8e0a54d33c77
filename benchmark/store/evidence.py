"""Adversarial images kept as evidence: every image that fooled a model, so that anyone can verify it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.files import reading
from robustness_bench.benchmark.store.parquet import array_of, read_table, write_table

FORMAT = 1
_REMEDY = "delete it and its record and run again"
Form = Literal["uint8", "float16", "float32"]
Images = NDArray[np.float32]
"""(K, C, H, W) in [0, 1]"""
Natural = NDArray[np.uint8]
"""(K, C, H, W), as the data set has them"""


class Evidence(NamedTuple):
    """What fooled a model in one cell."""

    record: str
    """The record's id."""
    sample: NDArray[np.int64]
    """(K,), indices in the test set, rising"""
    form: Form
    stored: NDArray[Any]
    """(K, C, H, W): pixels as bytes, perturbations in half precision, or the images as they were"""

    def images(self, x: Natural) -> Images:
        """The adversarial images, from the natural ones of ``sample``; StoreError for another shape."""
        if x.shape != self.stored.shape:
            raise StoreError(f"evidence of {self.record} is of {self.stored.shape}, the data of {x.shape}")
        return unpack(self.form, self.stored, x)


def evidence_of(record: Path) -> Path:
    """Return where the evidence of a record is: ``evidence/`` in place of ``records/``."""
    store = record.parents[5]
    return store / "evidence" / record.relative_to(store / "records")


def pack(x: Natural, x_adv: Images, holds: Callable[[Images], bool]) -> tuple[Form, NDArray[Any]]:
    """Return the smallest form that is lossless, or in which the images still fool the model.

    Bytes if every pixel is a multiple of 1/255; else the perturbation in half precision, rounded towards
    zero so that no norm grows, if all images still fool according to ``holds``; else the images.
    """
    levels = np.rint(x_adv * 255).astype(np.uint8)
    if np.array_equal(unpack("uint8", levels, x), x_adv):
        return "uint8", levels
    halves = _towards_zero(x_adv - unpack("uint8", x, x))
    if holds(unpack("float16", halves, x)):
        return "float16", halves
    return "float32", x_adv


def unpack(form: Form, stored: NDArray[Any], x: Natural) -> Images:
    """Return the images that ``pack`` stored."""
    if form == "uint8":
        return stored.astype(np.float32) / np.float32(255)
    if form == "float16":
        natural = x.astype(np.float32) / np.float32(255)
        return np.asarray((natural + stored.astype(np.float32)).clip(0, 1))
    return stored


def _towards_zero(delta: Images) -> NDArray[np.float16]:
    halves = delta.astype(np.float16)
    grown = np.abs(halves.astype(np.float32)) > np.abs(delta)
    return np.where(grown, np.nextafter(halves, np.float16(0)), halves)


def write_evidence(path: Path, evidence: Evidence) -> None:
    """Write one cell's evidence, atomically."""
    shape = evidence.stored.shape[1:]
    story = {"format": FORMAT, "record": evidence.record, "form": evidence.form, "shape": shape}
    images = pa.array([image.tobytes() for image in evidence.stored], pa.binary())
    columns = {"sample": pa.array(evidence.sample, pa.int32()), "image": images}
    write_table(path, columns, story, dictionary=False)


def read_evidence(path: Path) -> Evidence:
    """Read what was written; StoreError, which names the file, if absent, truncated or altered."""
    if not path.is_file():
        raise StoreError(f"there is no {path}: add --keep-examples to the run that makes the record")
    story, table = read_table(path, FORMAT, remedy=_REMEDY)
    with reading(path, _REMEDY):
        joined = b"".join(table.column("image").to_pylist())
        stored = np.frombuffer(bytearray(joined), np.dtype(story["form"])).reshape(-1, *story["shape"])
        sample = array_of(table, "sample").astype(np.int64)
        if len(sample) != len(stored):
            raise ValueError("images are missing")
        return Evidence(story["record"], sample, story["form"], stored)
