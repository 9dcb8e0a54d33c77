"""Read weights that others trained, without running their code."""

import argparse
import codecs
import importlib
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.files import file_hash
from robustness_bench.benchmark.networks.weight_entries import chosen, shown

if TYPE_CHECKING:
    from torch import Tensor

_NUMPY = ("numpy._core", "numpy.core")  # the first since NumPy 2, the second before
_PATHLIB = ("pathlib", "pathlib._local")  # the second in Python 3.13
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
_OTHER_KINDS = {
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"\x1f\x8b": "compressed by gzip: unpack it",
    b"\x93NUMPY": "a NumPy array",
    b"GGUF": "a GGUF file",
    b"version https://git-lfs": "a pointer of Git LFS: git lfs pull fetches the file",
    b"<": "a web page",
}
# What torch raises, besides UnpicklingError, on bytes that it did not write.
_UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of the file.

    Raises:
        BenchError: absent, a folder, not readable, or empty.
    """
    with reading(path):
        _first_bytes(path)
        return file_hash(path)


def read_weights(path: Path, entry: str = "") -> "dict[str, Tensor]":
    """Read the named tensors of a safetensors or PyTorch file, whatever its extension; on the CPU.

    A PyTorch file holds a state dict, or a checkpoint that contains one besides numbers, text and paths.
    Prefixes that wrappers add to every name are removed. Pickled code is never run.

    Args:
        entry: which of several sets of weights; not needed if there is only one.

    Raises:
        BenchError: absent, a folder, empty, damaged, with code in it, without tensors, not finite, with
            several sets of weights, or without ``entry``.
    """
    with reading(path):
        tensors = chosen(_content(path), entry, str(path))
        check_finite(tensors, str(path))
    return tensors


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Return the tensors of a safetensors file under their unchanged names.

    Raises:
        BenchError: as for ``read_weights``.
    """
    with reading(path):
        content = _safetensors(path)
        check_finite(content, str(path))
    return content


def _first_bytes(path: Path) -> bytes:
    """Return enough bytes to recognise the kind of file."""
    with path.open("rb") as file:
        first = file.read(64)
    if not first:
        raise BenchError(f"{path} is empty; copy or download it again")
    return first


@contextmanager
def reading(path: Path, remedy: str = "copy or download it again") -> Iterator[None]:
    """Turn every failure to read ``path`` into one line."""
    try:
        with quiet():
            yield
    except FileNotFoundError as error:
        raise BenchError(f"there is no file {path}; check the path") from error
    except IsADirectoryError as error:
        raise BenchError(f"{path} is a folder; name a file in it") from error
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}; fix its permissions") from error
    except pickle.UnpicklingError as error:
        raise _refused(path, error, remedy) from error
    except _UNREADABLE as error:
        raise BenchError(f"{path} is damaged or no file of weights ({short(error)}); {remedy}") from error


def _refused(path: Path, error: pickle.UnpicklingError, remedy: str) -> BenchError:
    """Return the error for a zip file (PK) or pickle (0x80) with more than tensors, or for other bytes."""
    first = _first_bytes(path)
    if not _is_pytorch(first):
        return BenchError(f"{path} is damaged or no file of weights (neither zip nor pickle); {remedy}")
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f" ({named[1]})" if named else " or is damaged"
    return BenchError(
        f"{path} contains pickled code{what}; bench never runs such code: where it was made, save "
        "`model.state_dict()` alone with torch.save, or convert it to safetensors"
    )


def short(error: BaseException) -> str:
    """Return an error's message on one line."""
    return shown(str(error)) or type(error).__name__


def _content(path: Path) -> Any:
    """Read a file's content; its first bytes decide its kind, not its extension."""
    import torch

    first = _first_bytes(path)
    if is_safetensors(first):
        return _safetensors(path)
    if _is_pytorch(first):
        _check_archive(path)
        # Pass an open file: given a path, torch 2.14 decides by the extension and trusts .safetensors.
        with path.open("rb") as file, torch.serialization.safe_globals(_harmless()):
            return torch.load(file, map_location="cpu", weights_only=True)
    for start, what in _OTHER_KINDS.items():
        if first.startswith(start):
            raise ValueError(f"it is {what}")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _safetensors(path: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def is_safetensors(first: bytes) -> bool:
    """Return whether the first bytes are a length, which may begin like a pickle, and a JSON object."""
    return first[8:9] == b"{" and int.from_bytes(first[:8], "little") < 1 << 40


def _is_pytorch(first: bytes) -> bool:
    """Return whether it is a zip file, or a pickle of protocol 2 or later."""
    return first.startswith((b"PK", b"\x80"))


def _check_archive(path: Path) -> None:
    """Raise ValueError for a zip file that torch.save did not write."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise ValueError("it is a TorchScript program: save the state_dict() of the model it was made from")
    if not any(name.endswith("data.pkl") for name in names):
        kind = "an archive of NumPy arrays" if any(n.endswith(".npy") for n in names) else "a zip file"
        raise ValueError(f"it is {kind} that torch.save did not write")


def _harmless() -> list[Any]:
    """Return NumPy numbers, paths and namespaces: often stored with weights, and harmless to read."""
    multiarray = importlib.import_module("numpy._core.multiarray")
    types = {type(np.dtype(sign)) for sign in "?bhilqBHILQefdSU"}
    numbers: list[Any] = [np.dtype, np.ndarray, codecs.encode, *types]
    for function in (multiarray.scalar, multiarray._reconstruct):
        numbers += [(function, f"{home}.multiarray.{function.__name__}") for home in _NUMPY]
    paths = [(PurePosixPath, f"{home}.{name}") for home in _PATHLIB for name in _PATHS]
    return [*numbers, *paths, argparse.Namespace]


def check_finite(tensors: "Mapping[str, Tensor]", where: str) -> None:
    import torch

    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise BenchError(
                f"{where} has values in {shown(name)} that are not finite in float32; take a checkpoint "
                "from before its training diverged"
            )


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings of libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
