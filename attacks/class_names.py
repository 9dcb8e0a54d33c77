"""Names of classes in records: from a class to its recorded name, and back.

A name is ``module:Class`` and part of every task's id. Our names begin at the folder: ``attacks.pgd:PGD``
is the class in ``attacks/pgd.py``, whatever package holds that folder. A class from elsewhere is named by the
module it is imported from, with the prefix ``outside:`` if that module's name begins like ours.
"""

import importlib
from typing import Any

_PACKAGE = "robustness_bench"
_FOLDERS = ("attacks", "defenses", "benchmark")
_OUTSIDE = "outside:"
_MOVED = {"benchmark.submission.remote_attack": "benchmark.sandbox.remote_attack"}
"""Modules that have moved since the first records: the recorded name -> the name today."""


def recorded(name: str) -> str:
    """Return the recorded name of the class that is imported as ``module:Class``."""
    if name.startswith(f"{_PACKAGE}."):
        return name.removeprefix(f"{_PACKAGE}.")
    return f"{_OUTSIDE}{name}" if _is_ours(name) else name


def load(name: str) -> Any:
    """Return the class of a recorded name.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such class.
    """
    module, _, kind = name.removeprefix(_OUTSIDE).partition(":")
    if _is_ours(name):
        module = f"{_PACKAGE}.{_MOVED.get(module, module)}"
    return getattr(importlib.import_module(module), kind)


def _is_ours(name: str) -> bool:
    return name.partition(":")[0].partition(".")[0] in _FOLDERS
