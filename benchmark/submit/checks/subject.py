"""Load the model of a submission, and measure it under check, each number only once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from robustness_bench.benchmark.data import DATASETS, Located
from robustness_bench.benchmark.data.base import DatasetInfo
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.measure.attacks import Columns, Sample
from robustness_bench.benchmark.measure.gradients import Piece, measure
from robustness_bench.benchmark.networks import build_model
from robustness_bench.benchmark.networks.fold import folded
from robustness_bench.benchmark.networks.matching import fit_weights
from robustness_bench.benchmark.networks.weights import read_weights
from robustness_bench.benchmark.store.flags import Measured
from robustness_bench.benchmark.store.models import confined_model
from robustness_bench.benchmark.submit.intake.static import MODEL_FILE
from robustness_bench.benchmark.submit.manifest.defense import Submission

BATCH = 100
_QUICK = {
    "images": 64,
    "passes": 2,
    "mixed": 16,
    "attacks": {
        "images": 64,
        "steps": 10,
        "rel_step_size": 0.25,
        "restarts": 1,
        "square_queries": 100,
        "budgets": [0.5, 1.0, 2.0, 4.0],
    },
}
_MODEST = 50_000_000  # parameters that fit on any machine


@dataclass(frozen=True)
class Subject:
    """A model, its claims, and test images to try it on."""

    submission: Submission
    model: nn.Module
    x: Tensor
    y: Tensor
    data: Located
    weights: Path

    @property
    def info(self) -> DatasetInfo:
        return self.data.info

    def accuracy(self, model: nn.Module, x: Tensor) -> float:
        """Return the share of correct predictions, in [0, 1]."""
        batches = zip(x.split(BATCH), self.y.split(BATCH), strict=True)
        with torch.no_grad():
            right = sum(int((model(rows).argmax(1) == y).sum()) for rows, y in batches)
        return right / len(self.y)

    @cached_property
    def natural(self) -> float:
        """Accuracy on the test images, in [0, 1]."""
        return self.accuracy(self.model, self.x)

    @cached_property
    def measured(self) -> Measured:
        """The measurements of the diagnosis's quick probe."""
        threat = {"norm": self.submission.norm, "eps": self.submission.eps}
        sample = Sample(torch.arange(len(self.y), device=self.y.device), self.x, self.y)
        return measure(self.model, sample, {**threat, "probe": _QUICK}, _at_once)


def _at_once(name: str, n: int, piece: Piece) -> Columns:
    return piece(slice(0, n), lambda done, total, unit: None)


@contextmanager
def loaded(submission: Submission, folder: Path, device: str) -> Iterator[nn.Module]:
    """Yield the model with its weights: a listed one in this process, submitted code in a confined one."""
    info, weights = DATASETS[submission.dataset].info, folder / submission.weights
    if not submission.own:
        yield listed_model(submission, weights, plain=submission.weights_plain).to(device)
        return
    model = confined_model(folder / MODEL_FILE, weights, info, device)
    try:
        yield model
    finally:
        model.close()


def listed_model(submission: Submission, weights: Path, *, plain: bool) -> nn.Module:
    """Return the listed architecture with these weights, frozen, evaluating; BenchError if they misfit."""
    tensors = read_weights(weights)
    _check_width(submission, sum(tensor.numel() for tensor in tensors.values()))
    with torch.random.fork_rng(devices=[]):
        model = build_model(submission.architecture, DATASETS[submission.dataset].info, submission.width)
    state = fit_weights(tensors, model, str(weights), plain=plain)
    model.load_state_dict(state, strict=True)
    return folded(model).requires_grad_(False)


def _check_width(submission: Submission, held: int) -> None:
    """Raise BenchError for a width far beyond the weights, before it takes all memory."""
    with torch.device("meta"):
        model = build_model(submission.architecture, DATASETS[submission.dataset].info, submission.width)
    wanted = sum(tensor.numel() for tensor in model.state_dict().values())
    if wanted > max(4 * held, _MODEST):
        raise BenchError(
            f"width {submission.width} makes {wanted:,} numbers, the file has {held:,}: fix model.width"
        )
