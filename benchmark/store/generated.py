"""A conditional generator's images of a few test images for every class, for viewing."""

import io
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustness_bench.benchmark.files import reading, write_atomic

SUFFIX = ".examples.npz"
Images = NDArray[np.uint8]
Classes = NDArray[np.int64]


class ConditionalExamples(NamedTuple):
    """n images; the generator knows K classes."""

    x: Images
    """(n, C, H, W), the natural images."""
    reconstruction: Images
    """(n, C, H, W), x as it is rebuilt."""
    conditional: Images
    """(n, K, C, H, W), G(E(x), j) for every class j."""
    label: Classes
    """(n,)."""
    predicted: Classes
    """(n, K), what the classifier calls each of ``conditional``."""


def examples_of(checkpoint: Path) -> Path:
    """Return where the images of a generator are: beside its checkpoint."""
    return checkpoint.with_name(checkpoint.stem + SUFFIX)


def find_conditional_examples(out: Path, dataset: str) -> list[Path]:
    """Return all files of one data set in a store, in a fixed order."""
    folder = out / "checkpoints" / dataset
    return sorted(path for path in folder.glob(f"**/*{SUFFIX}") if not path.name.startswith("."))


def write_conditional_examples(path: Path, examples: ConditionalExamples) -> None:
    """Write them, atomically; equal images give equal bytes, other shapes or types a ValueError."""
    _check(examples)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **examples._asdict())
    write_atomic(path, buffer.getvalue())


def read_conditional_examples(path: Path) -> ConditionalExamples:
    """Read and check them; StoreError, which names the file, if altered or not such a file."""
    with reading(path, _REMEDY, *_DAMAGED):
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
            if not isinstance(found, np.lib.npyio.NpzFile) or set(found.files) != set(_FIELDS):
                raise ValueError(f"it does not hold {', '.join(_FIELDS)}")
            examples = ConditionalExamples(*(found[name] for name in _FIELDS))
        _check(examples)
        return examples


_FIELDS = ConditionalExamples._fields
_DAMAGED = (EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)
_REMEDY = "delete it and its generator's checkpoint and run the same command again"


def _check(examples: ConditionalExamples) -> None:
    """Raise ValueError for other shapes, types or classes than ``ConditionalExamples`` has."""
    x, conditional = examples.x, examples.conditional
    if x.ndim != 4 or conditional.ndim != 5 or 0 in conditional.shape or x.shape[1] not in (1, 3):
        raise ValueError(f"images of shape {x.shape}, under every class {conditional.shape}")
    n, classes = conditional.shape[:2]
    shapes = {
        "x": (n, *conditional.shape[2:]),
        "reconstruction": (n, *conditional.shape[2:]),
        "conditional": conditional.shape,
        "label": (n,),
        "predicted": (n, classes),
    }
    for name, array in examples._asdict().items():
        kind = np.int64 if name in ("label", "predicted") else np.uint8
        if array.shape != shapes[name] or array.dtype != kind:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not {kind.__name__} {shapes[name]}")
        if kind is np.int64 and not (array.min() >= 0 and array.max() < classes):
            raise ValueError(f"{name} has a class outside 0 … {classes - 1}")
