"""Weights on the Hugging Face hub, and in folders laid out as its repositories are.

https://huggingface.co/docs/huggingface_hub/guides/manage-cache: its cache is used, and HF_HOME,
HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN are honoured.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from robustness_bench.benchmark.errors import BenchError, first_line
from robustness_bench.benchmark.networks.weight_entries import shown
from robustness_bench.benchmark.parts import part

HUB = "hf:"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
KEY = "robustness_bench"
"""The key of ``config.json`` below which bench says what the weights are."""
_USUAL = (WEIGHTS, "pytorch_model.bin", "model.pt", "model.pth")
_ADDRESS = re.compile(
    r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[\w./ +=-]+))?"
)


class _OutOfReachError(BenchError):
    """A file is not in the cache, and whether the repository has it cannot be found out."""


class _Address(NamedTuple):
    repository: str
    revision: str | None
    file: str | None


def _address(source: str) -> _Address:
    match = _ADDRESS.fullmatch(source)
    if match is None:
        raise BenchError(
            f"--weights {shown(source)} must be hf:ORG/NAME, hf:ORG/NAME@REVISION or either with :FILE"
        )
    return _Address(match["repository"], match["revision"], match["file"])


@cache
def local_file(source: str) -> Path:
    """Return the file of weights that ``--weights`` names: itself, the one in a folder, or one from the hub.

    A file of the hub is downloaded into its cache unless it is there. In a folder or repository it is
    model.safetensors, else pytorch_model.bin, model.pt or model.pth.

    Raises:
        BenchError: there is no such repository, revision or file, or it is neither cached nor within reach.
    """
    if source.startswith(HUB):
        return _from_hub(source, _address(source))
    path = Path(source)
    if path.is_dir():
        return next((file for name in _USUAL if (file := path / name).is_file()), path)
    return path


def _from_hub(source: str, at: _Address) -> Path:
    unreached: _OutOfReachError | None = None
    for name in (at.file,) if at.file else _USUAL:
        try:
            if (found := _fetched(source, at, name)) is not None:
                return found
        except _OutOfReachError as error:
            unreached = unreached or error
    if unreached is not None:
        raise unreached
    if at.file:
        raise BenchError(f"{at.repository} on the hub has no file {at.file}; check its name")
    usual = ", ".join(_USUAL)
    raise BenchError(
        f"{at.repository} on the hub has none of {usual}: name its file, as in {HUB}{at.repository}:FILE"
    )


def stem(source: str) -> str:
    """Return what results call the weights: the file's name without its extension, or the repository's."""
    return _address(source).repository.partition("/")[2] if source.startswith(HUB) else Path(source).stem


def origin(source: str) -> str:
    """Return ``source`` with what identifies its content: on the hub, the commit."""
    if not source.startswith(HUB):
        return source
    at, path = _address(source), local_file(source)
    commit = path.parts[path.parts.index("snapshots") + 1]
    name = Path(*path.parts[path.parts.index("snapshots") + 2 :]).as_posix()
    return f"{HUB}{at.repository}@{commit}:{name}"


def described(source: str) -> dict[str, Any]:
    """Return what ``bench export --hf`` wrote about the weights in a folder or repository; else nothing."""
    try:
        path = _fetched(source, _address(source), CONFIG) if source.startswith(HUB) else Path(source) / CONFIG
    except _OutOfReachError:
        path = None
    if path is None or not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))[KEY]
        return {"name": str(told["model"]), "width": int(told["width"])}
    except (OSError, ValueError, LookupError, TypeError):
        return {}  # of other software


def _fetched(source: str, at: _Address, name: str) -> Path | None:
    """Return the cached file, downloaded if need be; None if the repository has none of this name."""
    hub = part("hub", "huggingface_hub", f"--weights {source}")
    errors = part("hub", "huggingface_hub.errors", f"--weights {source}")
    try:
        return Path(hub.hf_hub_download(at.repository, name, revision=at.revision))
    except errors.LocalEntryNotFoundError as error:
        raise _OutOfReachError(
            f"{source} is not in the hub's cache, and the hub is out of reach ({shown(first_line(error))}): "
            f"where there is a network, hf download {at.repository}; then take the cache (HF_HOME) along"
        ) from error
    except errors.EntryNotFoundError:
        return None
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        raise BenchError(
            f"{source} cannot be fetched from the hub ({shown(first_line(error))}): check its name and "
            "revision; where it is private, hf auth login"
        ) from error
