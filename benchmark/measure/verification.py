"""Verify images that are claimed to fool a model: `bench verify`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from robustness_bench.attacks.numerics import geometry
from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.data import Located
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.measure.attacks import Sample, still_fools
from robustness_bench.benchmark.measure.storage import allowance
from robustness_bench.benchmark.store.cards import find_model
from robustness_bench.benchmark.store.cells import Record, read_record
from robustness_bench.benchmark.store.evidence import evidence_of, read_evidence
from robustness_bench.benchmark.store.models import load_model

if TYPE_CHECKING:
    from torch import nn


class Found(NamedTuple):
    """The verification of K images.

    An image holds if the natural image is classified correctly, the image is not, and it is inside the pixel
    box and within its distance limit.
    """

    hold: NDArray[np.bool_]
    """(K,)"""
    distance: NDArray[np.float64]
    """(K,), distance from the natural image in the norm of the threat model"""
    faults: dict[str, int]
    """Reason why an image does not hold -> number of images."""


class Verdict(NamedTuple):
    """The verification of one record's kept images; counts of images."""

    record: Record
    images: int
    hold: int
    within: int
    """How many of those that hold are within the record's ε."""
    faults: dict[str, int]


def verify_record(path: Path, context: Context, find: Callable[[Mapping[str, Any]], Located]) -> Verdict:
    """Evaluate the kept images of the record at ``path`` anew, on the model it is of.

    Args:
        find: data set label -> its location.

    Raises:
        BenchError: no images, no weights, another data set, or a damaged file.
    """
    record = read_record(path)
    if record.status == "error":
        raise BenchError(f"{path} is of a cell that failed, it has no images: run the same command again")
    evidence = read_evidence(evidence_of(path))
    if evidence.record != record.id:
        raise BenchError(f"the evidence next to {path} is for {evidence.record}, not for {record.id}")
    data = data_of(record, path, find)
    pixels, piece = natural_images(evidence.sample, data, context.device)
    storage, norm = record.spec.get("storage", ""), record.spec["norm"]
    more = allowance(storage, norm, pixels[:1].size) if storage else 0.0
    store = path.parents[5]  # records/DATA/NORM/THREAT/DEFENSE/FILE is below it
    found = judge(
        model_of(store, record, data, context),
        piece,
        evidence.images(pixels),
        norm=norm,
        limits=_recorded(record, evidence.sample) + more,
        too_far="is farther away than recorded",
        batch_size=context.batch_size,
    )
    near = found.distance <= allowed(record.spec["eps"])
    hold, within = int(found.hold.sum()), int((found.hold & near).sum())
    return Verdict(record, len(found.hold), hold, within, found.faults)


def data_of(record: Record, path: Path, find: Callable[[Mapping[str, Any]], Located]) -> Located:
    """The very data set that a record is of.

    Raises:
        BenchError: it is missing, or differs.
    """
    data = find(record.spec)
    if data.hash != record.spec["data"]:
        raise BenchError(f"{path} was made on other images than these of {data.label}: name their --data-dir")
    return data


def model_of(store: Path, record: Record, data: Located, context: Context) -> "nn.Module":
    """Return the model of a record, ready to be attacked.

    Raises:
        BenchError: its weights are not in the store.
    """
    identity = record.spec["parents"]["model"]
    if task := find_model(store, identity, record.model_family, data):
        return load_model(task, context)
    raise BenchError(
        f"the weights of {record.spec['defense']} ({identity}) are not in {store}/checkpoints: run "
        "the command that made the record again there, or import them with their store"
    )


def natural_images(sample: NDArray[np.int64], data: Located, device: str) -> tuple[NDArray[np.uint8], Sample]:
    """Return some natural test images, as stored in the data set and as a model's input."""
    splits = data.load()
    pixels = np.asarray(splits.test_x[sample])
    y = torch.from_numpy(np.asarray(splits.test_y[sample])).to(device)
    return pixels, Sample(torch.from_numpy(sample), torch.from_numpy(pixels).to(device).float() / 255, y)


def judge(
    model: "nn.Module",
    piece: Sample,
    x_adv: NDArray[np.float32],
    *,
    norm: geometry.Norm,
    limits: NDArray[np.float64],
    too_far: str,
    batch_size: int = 0,
) -> Found:
    """Verify K images that are claimed to fool ``model``.

    Args:
        limits: (K,), the largest distance of each, before the tolerance of ``allowed``.
        too_far: the reason given for an image beyond its limit.
    """
    moved = torch.from_numpy(x_adv).to(piece.x) - piece.x
    distance = geometry.size(moved, norm).double().cpu().numpy()
    faults = {
        "the natural image is misclassified": still_fools(model, piece, piece.x.cpu().numpy(), batch_size),
        "is classified correctly": ~still_fools(model, piece, x_adv, batch_size),
        "leaves the pixel box": ~((x_adv >= 0) & (x_adv <= 1)).all((1, 2, 3)),
        too_far: ~(distance <= allowed(limits)),
    }
    hold = ~np.logical_or.reduce(list(faults.values()))
    counts = {reason: int(mask.sum()) for reason, mask in faults.items() if mask.any()}
    return Found(hold, distance, counts)


def allowed(limit: Any) -> Any:
    """Return a limit with the tolerance that applies to every budget (``Record.robust_at``)."""
    return limit * (1 + 1e-5) + 1e-6


def _recorded(record: Record, sample: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each image's recorded distance; negative for an image that the record does not have."""
    by_sample = dict(zip(record.rows["sample"].tolist(), record.distance.tolist(), strict=True))
    return np.array([by_sample.get(each, -1.0) for each in sample.tolist()])
