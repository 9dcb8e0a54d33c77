"""The named data sets: ours, then those of plugins. Any folder of images is one too: ``folder.py``."""

from collections.abc import Mapping
from typing import Any

from robustness_bench.attacks.plugins import Offer, PresetError, Registry
from robustness_bench.benchmark.data.base import Dataset, DatasetInfo
from robustness_bench.benchmark.data.cifar10 import CIFAR10
from robustness_bench.benchmark.data.digits import DIGITS
from robustness_bench.benchmark.data.folder import FOLDER
from robustness_bench.benchmark.data.mnist import MNIST
from robustness_bench.benchmark.data.tiny_imagenet import TINY_IMAGENET
from robustness_bench.benchmark.errors import check_known


def _accept(offer: Offer) -> Dataset:
    """Check a plugin's data set, and return it.

    Raises:
        PresetError: naming what is wrong.
    """
    name, where, dataset = offer
    if not isinstance(dataset, Dataset):
        raise PresetError(f"{where} must be a robustness_bench.benchmark.data.base.Dataset, got {dataset!r}")
    info, classes = dataset.info, dataset.classes
    if name == FOLDER.info.name:
        raise PresetError(f"{where} has the name of any folder of images: rename it")
    if info.name != name:
        raise PresetError(f"{where} calls itself {info.name!r}: give info.name and the entry point one name")
    wrong = {
        "info.channels must be 1 or 3": info.channels not in (1, 3),
        "info.size must be at least 1": info.size < 1,
        "info.classes must be at least 2": info.classes < 2,
        "classes must hold info.classes different names": not (
            len(classes) == len(set(classes)) == info.classes and all(isinstance(n, str) for n in classes)
        ),
        "info.mean and info.std must hold a number for each channel": not (
            len(info.mean) == len(info.std) == info.channels
        ),
        "info.std must be positive": not all(each > 0 for each in info.std),
        "info.eps_linf must be above 0 and at most 1": not 0 < info.eps_linf <= 1,
        "info.eps_l2 must be above 0 and fit into the pixel box": not 0 < info.eps_l2 <= info.widest("l2"),
    }
    for rule, broken in wrong.items():
        if broken:
            raise PresetError(f"{where}: {rule}")
    return dataset


_OWN = {dataset.info.name: dataset for dataset in (DIGITS, MNIST, CIFAR10, TINY_IMAGENET)}
DATASETS: Mapping[str, Dataset] = Registry("bench.datasets", "data set", _OWN, _accept)
"""Name -> data set whose shape and classes are known before it is read."""


def dataset_names() -> list[str]:
    """Return all names that ``--dataset`` takes."""
    return [*DATASETS, FOLDER.info.name]


def dataset_named(name: str) -> Dataset:
    """Return the data set of this name, or raise the error that lists them all."""
    if name == FOLDER.info.name:
        return FOLDER
    check_known("data set", [name], dataset_names())
    return DATASETS[name]


def is_plugin(dataset: Dataset) -> bool:
    """Return whether it came through an entry point or a plugin file."""
    return dataset.info.name not in (*_OWN, FOLDER.info.name)


def described(info: DatasetInfo) -> dict[str, Any]:
    """Return what enters ids besides the images' hash; nothing for our own, whose facts are fixed."""
    if info.name in _OWN:
        return {}
    facts = {"name": info.name, "classes": info.classes, "mean": list(info.mean), "std": list(info.std)}
    return {"facts": facts}
