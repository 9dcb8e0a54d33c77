"""RobustBench's model zoo: Croce et al. 2021, https://arxiv.org/abs/2010.09670, an optional extra."""

import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness_bench.benchmark.errors import BenchError, check_known
from robustness_bench.benchmark.networks.weights import check_finite, quiet, reading, short

if TYPE_CHECKING:
    from torch import nn

_DATASETS = ("cifar10", "cifar100", "imagenet")
_NORMS = {"linf": "Linf", "l2": "L2"}


def robustbench_file(name: str, dataset: str, norm: str, folder: Path) -> Path:
    """Return where RobustBench stores the weights of its model ``name`` under ``folder``.

    Raises:
        BenchError: RobustBench has no such data set or norm.
    """
    check_known("data set of RobustBench", [dataset], _DATASETS)
    check_known("norm", [norm], _NORMS)
    return folder / dataset / _NORMS[norm] / f"{name}.pt"


def load_robustbench(name: str, dataset: str, norm: str, folder: Path) -> "nn.Module":
    """Return the model ``name`` of RobustBench's zoo: Croce et al. 2021, https://arxiv.org/abs/2010.09670.

    It maps images in [0, 1] to logits; frozen, in evaluation mode, on the CPU. The weights are the file at
    ``robustbench_file``, which is downloaded only if it is absent.

    Raises:
        BenchError: the package is not installed, the model is unknown or not stored as one file, the
            download failed, or the file is damaged, contains code or belongs to another network.
    """
    path = robustbench_file(name, dataset, norm, folder)
    with quiet(), _weights_only():
        load, models = _zoo(dataset, norm)
        if not models:
            raise BenchError(f"RobustBench has no models for {dataset} in {norm}; choose another norm")
        check_known(f"RobustBench model for {dataset} in {norm}", [name], models)
        if not _is_one_file(models[name]):
            raise BenchError(f"RobustBench does not store {name} as one file, as bench needs; name another")
        model = _load_zoo(load, name, path)
    with reading(path):
        check_finite(model.state_dict(), str(path))
    return model.eval().requires_grad_(False)


def _zoo(dataset: str, norm: str) -> "tuple[Callable[..., nn.Module], dict[str, Any]]":
    """Return RobustBench's load_model for this data set and norm, and its models by name."""
    try:
        with _stand_ins():
            utils = importlib.import_module("robustbench.utils")
            zoo = importlib.import_module("robustbench.model_zoo")
            enums = importlib.import_module("robustbench.model_zoo.enums")
    except ImportError as error:
        raise BenchError(
            f"RobustBench cannot be imported ({short(error)}); pip install robustness-bench[robustbench]"
        ) from error
    threat_model = enums.ThreatModel(_NORMS[norm])
    models = zoo.model_dicts[enums.BenchmarkDataset(dataset)].get(threat_model, {})
    return partial(utils.load_model, dataset=dataset, threat_model=_NORMS[norm]), models


def _is_one_file(model: dict[str, Any]) -> bool:
    """Return False for ensembles (a list), models in timm's cache (None) and torchvision's (empty name)."""
    source = model.get("gdrive_id")
    return isinstance(source, str) and source != ""


def _load_zoo(load: "Callable[..., nn.Module]", name: str, path: Path) -> "nn.Module":
    download_failed = importlib.import_module("gdown.exceptions").FileURLRetrievalError
    with reading(path, "delete it and run the same command again to download it"):
        try:
            with redirect_stdout(sys.stderr):
                # It appends DATASET/NORM/NAME.pt itself.
                return load(model_name=name, model_dir=path.parents[2])
        except (OSError, download_failed) as error:
            if path.exists():
                raise
            raise BenchError(
                f"RobustBench could not download {name} ({short(error)}); fetch its weights elsewhere, as "
                f"https://github.com/RobustBench/robustbench says, and put them at {path}"
            ) from error


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Provide what robustbench 1.1.1 imports but does not install, during its import.

    ``autoattack`` is now called pyautoattack; ``pkg_resources`` is missing from setuptools 82 on, and is only
    used for a list of ImageNet files.
    """
    absent: dict[str, types.ModuleType] = {}
    if importlib.util.find_spec("autoattack") is None:
        for module in ("autoattack", "autoattack.state"):
            absent[module] = importlib.import_module(f"py{module}")
    if importlib.util.find_spec("pkg_resources") is None:
        absent["pkg_resources"] = types.ModuleType("pkg_resources")
    sys.modules.update(absent)
    try:
        yield
    finally:
        for module in absent:
            del sys.modules[module]


@contextmanager
def _weights_only() -> Iterator[None]:
    """Make torch.load never run code from files, whatever its caller or the environment says."""
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[0]] = "1"
    try:
        yield
    finally:
        del os.environ[names[0]]
        os.environ.update({name: value for name, value in before.items() if value is not None})
