"""Weights that others trained: read without running their code, fitted to our models."""

import pickle
import re
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.atomic import file_hash
from benchmark.errors import BenchError

if TYPE_CHECKING:
    from torch import Tensor, nn

_NESTED_UNDER = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
)
_WRAPPERS = ("module.", "_orig_mod.")

# What torch raises, besides UnpicklingError, on bytes that are not a file of its own.
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
)


def fingerprint(path: Path) -> str:
    """SHA-256 of the file.

    Raises:
        BenchError: absent, a folder, not readable, or empty.
    """
    with reading(path):
        _first_bytes(path)
        return file_hash(path)


def read_weights(path: Path) -> "dict[str, Tensor]":
    """The named tensors of a ``.safetensors`` file or, with any other suffix, a PyTorch file; on the CPU.

    A PyTorch file holds a state dict or a checkpoint around one; what wrappers put before every name is
    taken off. Pickled code is never run.

    Raises:
        BenchError: absent, a folder, empty, damaged, with code in it, without tensors, or not finite.
    """
    with reading(path):
        content = _content(path)
        tensors = _unwrapped(_state_dict(content))
        if not tensors:
            raise _no_tensors(path, content)
        check_finite(tensors, str(path))
    return tensors


def fit_weights(
    state: "Mapping[str, Tensor]", model: "nn.Module", where: str, *, plain: bool = False
) -> "dict[str, Tensor]":
    """``state`` in the names, shapes and types of ``model``, for load_state_dict(strict=True).

    Args:
        state: of the whole model, or of the network alone, without the normalisation before it. The stages
            of a ResNet-18 may also be layer1 to layer4, its shortcuts downsample, its last layer fc.
            num_batches_tracked, which nothing reads in evaluation, may be absent.
        model: nn.Sequential(Normalize, network), as ``build_model`` makes it.
        where: the file, for errors.
        plain: a network alone saw images in [0, 1] as they are (mean 0, deviation 1). Otherwise the model's
            own normalisation is kept; the names in a file do not tell which is right, its accuracy does.

    Raises:
        BenchError: other names, shapes or types than the model's, or values beyond float32.
    """
    import torch

    target = model.state_dict()
    front = [name for name in target if name.startswith("0.")]
    alone = not any(name in state for name in front)
    prefix = "1." if alone else ""
    found: dict[str, Tensor] = {}
    if alone:
        values = {"0.mean": torch.zeros_like, "0.std": torch.ones_like}
        found = {name: values[name](target[name]) if plain else target[name] for name in front}
    unexpected: list[str] = []
    for name, tensor in state.items():
        own = _own_name(prefix + name)
        if own in target and own not in found:
            found[own] = tensor
        else:
            unexpected.append(name)
    problem = _problem(found, unexpected, target, prefix)
    if problem:
        raise BenchError(f"{where} does not fit the model: {problem}")
    fitted = {name: _converted(found.get(name), like) for name, like in target.items()}
    check_finite(fitted, where)
    return fitted


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        first = file.read(2)
    if not first:
        raise BenchError(f"{path} is empty; copy or download it again")
    return first


@contextmanager
def reading(path: Path, remedy: str = "copy or download it again") -> Iterator[None]:
    """Every failure to read ``path`` as one line."""
    try:
        with quiet():
            yield
    except FileNotFoundError as error:
        raise BenchError(f"there is no file {path}; check the path") from error
    except IsADirectoryError as error:
        raise BenchError(f"{path} is a folder; name a file in it") from error
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}; mend its permissions") from error
    except pickle.UnpicklingError as error:
        raise _refused(path, error, remedy) from error
    except _UNREADABLE as error:
        raise BenchError(f"{path} is damaged or no file of weights ({short(error)}); {remedy}") from error


def _refused(path: Path, error: pickle.UnpicklingError, remedy: str) -> BenchError:
    """A zip file (PK) and a pickle (0x80) hold objects that are not tensors; other bytes are no pickle."""
    first = _first_bytes(path)
    if first != b"PK" and first[:1] != b"\x80":
        return BenchError(f"{path} is damaged or no file of weights (neither zip nor pickle); {remedy}")
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f" ({named[1]})" if named else " or is damaged"
    return BenchError(
        f"{path} contains pickled code{what}; bench never runs such code: where it was made, save "
        "`model.state_dict()` alone with torch.save, or convert it to safetensors"
    )


def _shown(text: str) -> str:
    """Text out of a file or a library, fit for a line on a terminal."""
    text = "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))
    return text[:120] + "…" if len(text) > 120 else text


def short(error: BaseException) -> str:
    """What an error says, on one line."""
    return _shown(str(error)) or type(error).__name__


def _content(path: Path) -> Any:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _first_bytes(path)
    if path.suffix != ".safetensors":
        return torch.load(path, map_location="cpu", weights_only=True)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _state_dict(content: Any) -> "dict[str, Tensor]":
    import torch

    if not isinstance(content, Mapping):
        return {}
    for key in _NESTED_UNDER:
        inner = _state_dict(content.get(key))
        if inner:
            return inner
    return {
        str(name): value.detach()
        for name, value in content.items()
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    }


def _unwrapped(tensors: "dict[str, Tensor]") -> "dict[str, Tensor]":
    for prefix in _WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _unwrapped({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors


def _no_tensors(path: Path, content: Any) -> BenchError:
    held = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        held = _first_three([str(key) for key in content]) or "nothing"
    usual = ", ".join(_NESTED_UNDER)
    return BenchError(
        f"{path} has no tensors in it, neither directly nor under {usual}; it holds {held}: "
        "save `model.state_dict()`"
    )


def check_finite(tensors: "Mapping[str, Tensor]", where: str) -> None:
    import torch

    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise BenchError(
                f"{where} has values in {_shown(name)} that are not finite in float32; take a checkpoint "
                "from before its training diverged"
            )


def _own_name(name: str) -> str:
    """kuangliu/pytorch-cifar's and torchvision's names of a ResNet-18 as ours: layer3.1 -> blocks.5."""
    name = re.sub(
        r"^1\.layer([1-4])\.([01])\.", lambda at: f"1.blocks.{2 * int(at[1]) - 2 + int(at[2])}.", name
    )
    name = re.sub(r"^(1\.blocks\.\d\.)downsample\.", r"\1shortcut.", name)
    return re.sub(r"^1\.fc\.", "1.linear.", name)


def _problem(
    found: "dict[str, Tensor]", unexpected: list[str], target: "dict[str, Tensor]", prefix: str
) -> str:
    """What does not match and the remedy; nothing if all does."""
    missing = [name for name in target if name not in found and not name.endswith(".num_batches_tracked")]
    misfits = [name for name, tensor in found.items() if not _alike(tensor, target[name])]
    lists = {
        "missing": [name.removeprefix(prefix) for name in missing],
        "unexpected": unexpected,
        "of another shape": [
            f"{name.removeprefix(prefix)} {_shape(found[name])} instead of {_shape(target[name])}"
            for name in misfits
        ],
    }
    parts = [f"{len(names)} {kind} ({_first_three(names)})" for kind, names in lists.items() if names]
    remedy = "" if missing or unexpected else _remedy(found, target)
    remedy = remedy or "use weights of the same network (bench list models)"
    return f"{', '.join(parts)}; {remedy}" if parts else ""


def _remedy(found: "dict[str, Tensor]", target: "dict[str, Tensor]") -> str:
    """What the first convolution and the last layer of an otherwise matching file tell."""
    first = next(name for name, tensor in target.items() if tensor.ndim == 4 and name.startswith("1."))
    conv, own_conv = found[first], target[first]
    last = [name for name in target if name.endswith(".bias")][-1]
    head, own_head = found[last], target[last]
    told = []
    if conv.ndim == 4 and len(conv) != len(own_conv):
        told.append(f"the file has width {len(conv)}: pass --width {len(conv)}")
    if conv.ndim == 4 and conv.shape[1] != own_conv.shape[1]:
        told.append(f"the file is for images of {conv.shape[1]} channels: choose its --dataset")
    if head.ndim == 1 and len(head) != len(own_head):
        told.append(f"the file is for {len(head)} classes: choose its --dataset")
    return "; ".join(told)


def _first_three(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(_shown, names[:3])) + (", …" if len(names) > 3 else "")


def _alike(tensor: "Tensor", like: "Tensor") -> bool:
    same_kind = tensor.is_floating_point() == like.is_floating_point() and not tensor.is_complex()
    return same_kind and tensor.shape == like.shape


def _shape(tensor: "Tensor") -> str:
    sizes = "×".join(map(str, tensor.shape)) or "scalar"
    return f"{sizes} {str(tensor.dtype).removeprefix('torch.')}"


def _converted(tensor: "Tensor | None", like: "Tensor") -> "Tensor":
    import torch

    if tensor is None:
        return torch.zeros_like(like)
    return tensor.detach().to(like.dtype, copy=True).contiguous()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
