"""The model under check, with measurements that are made only once."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from robustness_bench.benchmark.data import Located
from robustness_bench.benchmark.data.base import DatasetInfo
from robustness_bench.benchmark.measure.attacks import Columns, Sample
from robustness_bench.benchmark.measure.gradients import Piece, measure
from robustness_bench.benchmark.store.flags import Measured
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
