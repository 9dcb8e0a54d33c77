"""The model and the images on which our attacks and those of other libraries are compared.

A small convolutional network trained on scikit-learn's digits. Its weights are kept, not trained anew,
because another release of torch would round differently and end at another network.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load
from torch import Tensor, nn

FOLDER = Path(__file__).parent
WEIGHTS, RECORDED = FOLDER / "digits.safetensors", FOLDER / "recorded.json"


class Problem(NamedTuple):
    """What is attacked: every image is classified correctly."""

    model: nn.Module
    x: Tensor
    """(100, 1, 8, 8), in seventeen grey levels with many pixels of exactly 0 and 1."""
    y: Tensor
    """(100,)."""


def network() -> nn.Sequential:
    """One channel of 8×8 pixels, ten classes; weights from the global generator."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 16, 10),
    )


def digits() -> tuple[Tensor, Tensor]:
    """All 1797 images and their classes."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    x = torch.tensor(loaded.images / 16.0, dtype=torch.float32)[:, None]
    return x, torch.tensor(loaded.target, dtype=torch.int64)


def problem() -> Problem:
    """The kept weights, and the images whose row numbers are kept with them."""
    tensors = load(WEIGHTS.read_bytes())
    rows = tensors.pop("rows")
    model = network()
    model.load_state_dict(tensors)
    model.eval().requires_grad_(False)
    x, y = digits()
    return Problem(model, x[rows], y[rows])


def fingerprint() -> str:
    """Of the weights and the row numbers: recorded figures belong to no others."""
    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
