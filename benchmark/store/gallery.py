"""A few images of every cell, for viewing; no number is computed from them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustness_bench.benchmark.files import reading, write_atomic


class Examples(NamedTuple):
    """The first K test images of a cell and their adversarial images."""

    x: NDArray[np.uint8]
    """(K, C, H, W), the natural images"""
    x_adv: NDArray[np.float32]
    """(K, C, H, W) in [0, 1]"""
    label: NDArray[np.int64]
    clean_prediction: NDArray[np.int64]
    adversarial_prediction: NDArray[np.int64]
    """the last three (K,)"""


def examples_of(record: Path) -> Path:
    """Return where the images of a record are: ``examples/`` in place of ``records/``, as safetensors."""
    store = record.parents[5]
    return (store / "examples" / record.relative_to(store / "records")).with_suffix(".safetensors")


def write_examples(path: Path, examples: Examples) -> None:
    """Write the images of one cell, atomically."""
    from safetensors.numpy import save

    tensors: dict[str, NDArray[Any]] = examples._asdict()
    write_atomic(path, save({name: np.ascontiguousarray(value) for name, value in tensors.items()}))


def read_examples(path: Path) -> Examples:
    """Read the images of one cell; StoreError, which names the file, if truncated or without a tensor."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with reading(path, "delete it, the page goes without images", SafetensorError):
        found = load(path.read_bytes())
        return Examples(**{name: found[name] for name in Examples._fields})
