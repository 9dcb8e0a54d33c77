"""What this machine has for a run, and what to do about what it lacks."""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from robustness_bench.benchmark.data import present
from robustness_bench.benchmark.data.registry import dataset_names
from robustness_bench.benchmark.errors import DataError
from robustness_bench.benchmark.parts import PARTS
from robustness_bench.benchmark.sandbox.confinement import Platform, protections
from robustness_bench.benchmark.sandbox.walls import bubblewrap

_LIBRARIES = ("torch", "torchvision", "numpy", "pyarrow", "foolbox", "pyautoattack", "safetensors")
_DEEPER = "apt install bubblewrap, and allow unprivileged user namespaces (a container often forbids them)"
_KERNEL = "a submission's code runs confined on Linux 6.2 or later"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        group: machine, sandbox, data or parts.
        state: "weak": there, and less than it could be.
        text: what was found.
        remedy: what to do if it is wanted; empty if nothing.
    """

    group: str
    name: str
    state: Literal["ok", "weak", "missing"]
    text: str
    remedy: str = ""


def examine(data_dir: Path) -> Iterator[Finding]:
    """Look at this machine: versions, GPU, the sandbox's walls, the data sets in a folder, optional parts."""
    yield from _machine()
    yield from _sandbox()
    for name in dataset_names():
        yield _dataset(name, data_dir)
    for name, part in PARTS.items():
        found = part.versions()
        lacking = [each for each, number in found.items() if not number]
        yield Finding(
            group="parts",
            name=name,
            state="missing" if lacking else "ok",
            text=", ".join(f"{each} {number or 'not installed'}" for each, number in found.items()),
            remedy=f"pip install 'robustness-bench[{name}]' for {part.use}" if lacking else "",
        )


def _machine() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    system = f"{platform.system()} {platform.release()} {platform.machine()}, {cores} CPU cores"
    yield Finding(group="machine", name="system", state="ok", text=system)
    python = f"Python {platform.python_version()}, bench {version('robustness-bench')}"
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    yield Finding(group="machine", name="versions", state="ok", text=f"{python}, {libraries}")
    if not torch.cuda.is_available():
        built = (
            f"torch is built for CUDA {torch.version.cuda}"
            if torch.version.cuda
            else "torch is built without CUDA"
        )
        remedy = "runs take the CPU; with an NVIDIA GPU, install its driver and a CUDA build of torch"
        yield Finding(group="machine", name="gpu", state="missing", text=f"none ({built})", remedy=remedy)
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        text = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
        yield Finding(group="machine", name=f"gpu {index}", state="ok", text=text)


def _sandbox() -> Iterator[Finding]:
    at = Platform.here()
    walls = {
        "seccomp": (at.seccomp, "system calls are filtered"),
        "Landlock": (at.landlock > 0, f"files are walled off, ABI {at.landlock}"),
    }
    for name, (stands, text) in walls.items():
        yield Finding(
            group="sandbox",
            name=name,
            state="ok" if stands else "missing",
            text=text if stands else "this kernel does not offer it",
            remedy="" if stands else f"{_KERNEL} with {name}",
        )
    problem = bubblewrap.problem()
    yield Finding(
        group="sandbox",
        name="bubblewrap",
        state="missing" if problem else "ok",
        text=problem or "other files are not even seen, no network interface",
        remedy=f"{_DEEPER}; seccomp and Landlock stand without it" if problem else "",
    )
    for each in protections(at):
        yield Finding(
            group="sandbox",
            name=each.name,
            state="ok" if each.stands else "weak",
            text=each.text,
            remedy="" if each.stands else _KERNEL,
        )


def _dataset(name: str, folder: Path) -> Finding:
    try:
        return Finding(group="data", name=name, state="ok", text=present(name, folder))
    except DataError as error:
        return Finding(group="data", name=name, state="missing", text=f"not in {folder}", remedy=str(error))
