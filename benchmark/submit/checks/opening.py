"""Load the model of a submission, ready for passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from robustness_bench.benchmark.data import DATASETS
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.submit.intake.static import MODEL_FILE
from robustness_bench.benchmark.submit.manifest.defense import Submission

if TYPE_CHECKING:
    from torch import nn

_MODEST = 50_000_000  # parameters that fit on any machine


@contextmanager
def loaded(submission: Submission, folder: Path, device: str) -> "Iterator[nn.Module]":
    """Yield the model with its weights: a listed one in this process, submitted code in a confined one."""
    info, weights = DATASETS[submission.dataset].info, folder / submission.weights
    if not submission.own:
        yield listed_model(submission, weights, plain=submission.weights_plain).to(device)
        return
    from robustness_bench.benchmark.store.models import confined_model

    model = confined_model(folder / MODEL_FILE, weights, info, device)
    try:
        yield model
    finally:
        model.close()


def listed_model(submission: Submission, weights: Path, *, plain: bool) -> "nn.Module":
    """Return the listed architecture with these weights, frozen, in evaluation mode.

    Raises:
        BenchError: the weights do not fit.
    """
    import torch

    from robustness_bench.benchmark.networks import build_model
    from robustness_bench.benchmark.networks.fold import folded
    from robustness_bench.benchmark.networks.matching import fit_weights
    from robustness_bench.benchmark.networks.weights import read_weights

    tensors = read_weights(weights)
    _check_width(submission, sum(tensor.numel() for tensor in tensors.values()))
    with torch.random.fork_rng(devices=[]):
        model = build_model(submission.architecture, DATASETS[submission.dataset].info, submission.width)
    state = fit_weights(tensors, model, str(weights), plain=plain)
    model.load_state_dict(state, strict=True)
    return folded(model).requires_grad_(False)


def _check_width(submission: Submission, held: int) -> None:
    """Raise BenchError for a width far beyond the weights, before it takes all memory."""
    import torch

    from robustness_bench.benchmark.networks import build_model

    with torch.device("meta"):
        model = build_model(submission.architecture, DATASETS[submission.dataset].info, submission.width)
    wanted = sum(tensor.numel() for tensor in model.state_dict().values())
    if wanted > max(4 * held, _MODEST):
        raise BenchError(
            f"width {submission.width} makes {wanted:,} numbers, the file has {held:,}: fix model.width"
        )
