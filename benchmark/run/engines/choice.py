"""The engine that a user names."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from robustness_bench.benchmark.errors import BenchError, check_known
from robustness_bench.benchmark.run.engines.base import Engine

ENGINES = {"local": "", "ray": "ray", "slurm": "submitit"}
"""Name of the extra, if it is one -> the library that it needs."""


def choose_engine(name: str, address: str, options: Sequence[str], out: Path) -> Engine:
    """Return an engine, which starts nothing before it has to.

    Args:
        address: of a Ray cluster; empty: none was given.
        options: KEY=VALUE, what the engine asks its cluster for.
        out: folder of the results.

    Raises:
        BenchError: unknown, not installed, or an option that it has no use for.
    """
    check_known("engine", [name], ENGINES)
    if address and name != "ray":
        raise BenchError(f"--address {address} is that of a Ray cluster: add --engine ray")
    if options and name == "local":
        raise BenchError(f"--engine-option {options[0]} is for a cluster: add --engine ray or --engine slurm")
    if (library := ENGINES[name]) and find_spec(library) is None:
        raise BenchError(f"--engine {name} needs {library}: pip install 'robustness-bench[{name}]'")
    told = dict(map(_option, options))
    if name == "ray":
        from robustness_bench.benchmark.run.engines.ray import Ray

        return Ray(address, told)
    if name == "slurm":
        from robustness_bench.benchmark.run.engines.slurm import Slurm

        return Slurm(out, told)
    from robustness_bench.benchmark.run.engines.local import Local

    return Local()


def _option(text: str) -> tuple[str, Any]:
    """Return key and value; a value that is JSON is read as such: 4, 0.5, true, {"a": 1}."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise BenchError(f"--engine-option must be KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
