"""Submitted adversarial images against a model: once verified, they lower its worst case."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from robustness_bench.attacks.base import predict
from robustness_bench.attacks.numerics import geometry
from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.data import Located
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.files import file_hash
from robustness_bench.benchmark.measure.attacks import Sample, still_fools
from robustness_bench.benchmark.measure.verification import Found, judge, model_of, natural_images
from robustness_bench.benchmark.networks.weights import reading
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.report.lines.worst_case import SUBMITTED
from robustness_bench.benchmark.store.cards import environment_of
from robustness_bench.benchmark.store.cells import DISTANCES, Record, write_record
from robustness_bench.benchmark.store.evidence import Evidence, evidence_of, pack, write_evidence
from robustness_bench.benchmark.submit.attacks.against import spec_against, task_against
from robustness_bench.benchmark.submit.manifest.text import slug_of

_MOST = 8 * 2**30


class Credit(NamedTuple):
    """Who found the images, and how."""

    name: str
    authors: tuple[str, ...]
    link: str


class Sent(NamedTuple):
    """The content of a file."""

    sample: NDArray[np.int64]
    """(K,), indices in the test set"""
    x_adv: NDArray[np.float32]
    """(K, C, H, W) in [0, 1]"""


def read_sent(path: Path) -> Sent:
    """Read a .safetensors file with ``sample`` (K integers) and ``x_adv`` (K, C, H, W), uint8 or floats.

    Raises:
        BenchError: it is not such a file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if path.suffix != ".safetensors":
        raise BenchError(f"{path} is no .safetensors file: save sample and x_adv with safetensors")
    with reading(path):
        if path.stat().st_size > _MOST:
            raise BenchError(f"{path} is larger than 8 GiB: submit only images that fool the model")
        try:
            tensors = load(path.read_bytes())
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    if set(tensors) != {"sample", "x_adv"}:
        raise BenchError(
            f"{path} must hold sample and x_adv, it has {', '.join(sorted(tensors)) or 'nothing'}"
        )
    sample, x_adv = tensors["sample"], tensors["x_adv"]
    if sample.ndim != 1 or sample.dtype.kind not in "iu" or x_adv.ndim != 4 or len(x_adv) != len(sample):
        raise BenchError(
            f"{path}: sample must be (K,) integers and x_adv (K, C, H, W), got {sample.shape} {sample.dtype} "
            f"and {x_adv.shape}"
        )
    if x_adv.dtype.kind not in "fu" or (x_adv.dtype.kind == "u" and x_adv.dtype != np.uint8):
        raise BenchError(f"{path}: x_adv must be uint8, or floating point in [0, 1], got {x_adv.dtype}")
    images = x_adv.astype(np.float32) / np.float32(255 if x_adv.dtype == np.uint8 else 1)
    if not np.isfinite(images).all():
        raise BenchError(f"{path}: x_adv has values that are not finite; leave such images out")
    if len(np.unique(sample)) < len(sample):
        raise BenchError(f"{path}: a sample is in it more than once; keep the best image of each")
    return Sent(sample.astype(np.int64), images)


def add_sent(
    path: Path, against: Path, record: Record, credit: Credit, context: Context, data: Located
) -> tuple[Found, Path | None]:
    """Verify the images of ``path`` on the model of ``record``; those that pass become a record.

    Returns:
        The verification, and the new record; None, with nothing written, if no image passes.

    Raises:
        BenchError: samples or shapes differ from the record's, there are no weights, or the data set
            differs.
    """
    sent = read_sent(path)
    strangers = sorted(set(sent.sample.tolist()) - set(record.rows["sample"].tolist()))
    if strangers:
        raise BenchError(f"{path}: {against.name} has no sample {strangers[0]}: name its own test images")
    shape = (len(sent.sample), data.info.channels, data.info.size, data.info.size)
    if sent.x_adv.shape != shape:
        raise BenchError(f"{path}: x_adv must be {shape} for {data.label}, got {sent.x_adv.shape}")
    order = np.argsort(sent.sample)
    sent = Sent(sent.sample[order], sent.x_adv[order])
    store = against.parents[5]
    model = model_of(store, record, data, context)
    pixels, piece = natural_images(sent.sample, data, context.device)
    found = judge(
        model,
        piece,
        sent.x_adv,
        norm=record.spec["norm"],
        limits=np.full(len(order), record.spec["eps"]),
        too_far=f"is farther away than ε = {record.spec['eps']:.4g}",
        batch_size=context.batch_size,
    )
    if not found.hold.any():
        return found, None
    task = _task(store, record, credit, file_hash(path), data)
    target = store / task.path
    held = torch.from_numpy(np.flatnonzero(found.hold)).to(piece.y.device)
    kept = Sample(piece.ids[held.cpu()], piece.x[held], piece.y[held])
    x_adv = sent.x_adv[found.hold]

    def holds(images: NDArray[np.float32]) -> bool:
        return bool(still_fools(model, kept, images, context.batch_size).all())

    form, stored = pack(pixels[found.hold], x_adv, holds)
    write_evidence(evidence_of(target), Evidence(task.id, sent.sample[found.hold], form, stored))
    rows = _rows(record, kept, torch.from_numpy(x_adv).to(kept.x), model)
    write_record(target, task, rows, environment=environment_of(task, context), seconds=0.0)
    return found, target


def _task(store: Path, record: Record, credit: Credit, digest: str, data: Located) -> Task:
    """Return the cell for the images."""
    told: dict[str, Any] = {"attack": SUBMITTED, **credit._asdict(), "sha256": digest}
    spec = spec_against(record, f"{SUBMITTED}-{slug_of(credit.name)}", told)
    return task_against(store, record, spec, data)


def _rows(record: Record, kept: Sample, x_adv: torch.Tensor, model: nn.Module) -> dict[str, NDArray[Any]]:
    """Return a row per image of the record; without success it keeps the natural image."""
    n = len(record.rows["sample"])
    rows: dict[str, NDArray[Any]] = {
        name: record.rows[name] for name in ("sample", "label", "clean_prediction")
    }
    rows["adversarial_prediction"] = record.rows["clean_prediction"].copy()
    rows |= {name: np.zeros(n, np.float32) for name in (*DISTANCES, "forwards", "backwards")}
    places = np.searchsorted(record.rows["sample"], kept.ids.numpy())
    rows["adversarial_prediction"][places] = predict(model, x_adv).cpu().numpy()
    for norm in DISTANCES:
        rows[norm][places] = geometry.size(x_adv - kept.x, norm).cpu().numpy()
    return rows
