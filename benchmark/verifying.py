"""Look again at the images that are said to have fooled a model: `bench verify`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from attacks import geometry
from benchmark.checkpoints import read_card
from benchmark.context import Context
from benchmark.datasets import Located
from benchmark.errors import BenchError
from benchmark.evaluation import Sample, still_fools
from benchmark.evidence import Evidence, evidence_of, read_evidence
from benchmark.loading import load_model
from benchmark.plan import Task
from benchmark.records import Record, read_record

if TYPE_CHECKING:
    from torch import nn


class Verdict(NamedTuple):
    """What was found of the images of one record; counts of images.

    An image holds if the natural one is classified correctly, it is not, and it lies in the pixel box and
    as near as the record says.
    """

    record: Record
    images: int
    hold: int
    within: int
    """Of those that hold, how many lie within the record's ε."""
    faults: dict[str, int]
    """What is wrong with the others."""


def verify_record(path: Path, context: Context, find: Callable[[str], Located]) -> Verdict:
    """Evaluate the kept images of the record at ``path`` anew, on the model it is of.

    Args:
        find: data set label -> where it is.

    Raises:
        BenchError: no images, no weights, another data set, or a file that is damaged.
    """
    record = read_record(path)
    if record.status == "error":
        raise BenchError(f"{path} is of a cell that failed, it has no images: run the same command again")
    evidence = read_evidence(evidence_of(path))
    if evidence.record != record.id:
        raise BenchError(f"the evidence beside {path} is of {evidence.record}, not of {record.id}")
    data = find(record.spec["dataset"])
    if data.hash != record.spec["data"]:
        raise BenchError(f"{path} was made on other images than these of {data.label}: name their --data-dir")
    model = load_model(_model_task(path.parents[5], record, data), context)
    return _judge(record, evidence, model, data, context)


def _model_task(store: Path, record: Record, data: Located) -> Task:
    """The task whose weights the record is of, from the card that lies beside them."""
    identity = record.spec["parents"]["model"]
    for card_file in store.glob(f"checkpoints/*/*-{identity}.json"):
        path = card_file.with_suffix(".safetensors")
        if path.is_file():
            card = read_card(path)
            relative = path.relative_to(store)
            title, kind = path.stem, card["spec"]["kind"]
            spec, seed = card["spec"], card["seed"]
            return Task(
                kind=kind, title=title, spec=spec, seed=seed, id=identity, family="", path=relative, data=data
            )
    raise BenchError(
        f"the weights of {record.spec['defense']} ({identity}) are not in {store}/checkpoints: run "
        "the command that made the record again there, or import them with their store"
    )


def _judge(
    record: Record, evidence: Evidence, model: "nn.Module", data: Located, context: Context
) -> Verdict:
    splits = data.load()
    pixels = np.asarray(splits.test_x[evidence.sample])
    x_adv = evidence.images(pixels)
    x = torch.from_numpy(pixels).to(context.device).float() / 255
    labels = torch.from_numpy(np.asarray(splits.test_y[evidence.sample])).to(context.device)
    piece = Sample(torch.from_numpy(evidence.sample), x, labels)
    distance = _distance(x, x_adv, record)
    claimed = _claimed(record, evidence.sample)
    faults = {
        "the natural image is misclassified": still_fools(model, piece, x.cpu().numpy(), context.batch_size),
        "is classified correctly": ~still_fools(model, piece, x_adv, context.batch_size),
        "leaves the pixel box": ~_in_box(x_adv),
        "is farther away than recorded": distance > claimed * (1 + 1e-5) + 1e-6,
    }
    hold = ~np.logical_or.reduce(list(faults.values()))
    eps = record.spec["eps"]
    return Verdict(
        record=record,
        images=len(hold),
        hold=int(hold.sum()),
        within=int((hold & (distance <= eps * (1 + 1e-5) + 1e-6)).sum()),
        faults={reason: int(mask.sum()) for reason, mask in faults.items() if mask.any()},
    )


def _claimed(record: Record, sample: NDArray[np.int64]) -> NDArray[np.float64]:
    """How far away the record says each image is; nothing for one the record does not know."""
    by_sample = dict(zip(record.rows["sample"].tolist(), record.distance.tolist(), strict=True))
    return np.array([by_sample.get(each, -1.0) for each in sample.tolist()])


def _distance(x: torch.Tensor, x_adv: NDArray[np.float32], record: Record) -> NDArray[np.float64]:
    moved = torch.from_numpy(x_adv).to(x) - x
    return geometry.size(moved, record.spec["norm"]).double().cpu().numpy()


def _in_box(x_adv: NDArray[np.float32]) -> NDArray[np.bool_]:
    flat = x_adv.reshape(len(x_adv), -1)
    return np.asarray(((flat >= 0) & (flat <= 1)).all(1))
