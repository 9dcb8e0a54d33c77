"""A worker's settings besides its task: folders, device, batch size. None of them decides a result."""

import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.parts import installed
from robustness_bench.defenses.plugins import load_plugin

AUTO_BATCH = {"cpu": 128, "cuda": 1024}
"""Images per batch in evaluation, unless a user says otherwise."""
Advance = Callable[[float, float, str], None]
"""(done, total, unit): the progress of the current task."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where and how a task runs.

    Args:
        batch_size: images per batch in evaluation; 0 = automatic.
        device: a torch device; if several processes train one model, the first one's.
        threads: torch threads of this process.
        processes: how many train one model together.
        plugins: files from outside with defenses and other kinds, for every process to load.
        model_dir: RobustBench's cache of models.
        gallery: number of images of every cell that are kept for viewing.
        keep_examples: whether every image that fools a model is kept as evidence.
        trust_code: whether networks that came as code may be run, confined.
        accept_low: whether given weights are accepted whatever their accuracy on training images.
        trackers: what ``--tracker`` names, told by the command's own process.
        command: the command line that this is part of, kept with every result.
        protocol: the name of its protocol (``store.folder``), likewise; empty: there is none.
    """

    out: Path
    device: str
    batch_size: int = 0
    threads: int = 1
    processes: int = 1
    plugins: tuple[Path, ...] = ()
    model_dir: Path = Path("models")
    gallery: int = 8
    keep_examples: bool = False
    trust_code: bool = False
    accept_low: bool = False
    trackers: tuple[str, ...] = ()
    command: str = ""
    protocol: str = ""

    def on(self, device: str, threads: int) -> "Context":
        """Return the same with another device and number of threads."""
        return replace(self, device=device, threads=threads)

    def load_plugins(self) -> None:
        """Make what the plugin files offer known to this process."""
        for path in self.plugins:
            load_plugin(path)


def choose_device(wanted: str) -> str:
    """Return the torch device for ``--device``; "auto" takes CUDA if there is a GPU.

    Raises:
        BenchError: the name is unknown, or CUDA was requested and is absent.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise BenchError(f"--device must be auto, cpu or cuda, got {wanted!r}")
    if wanted == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise BenchError("--device cuda: torch sees no CUDA GPU here; use --device cpu, or fix the driver")
    return "cpu"


@cache
def environment(device: str) -> dict[str, Any]:
    """Return versions, hardware and code revision, as stored in every record and checkpoint."""
    import torch

    packages = ("torch", "torchvision", "pyautoattack", "foolbox", "numpy", "robustness-bench")
    hardware = platform.processor() or platform.machine()
    if device.startswith("cuda"):
        hardware = torch.cuda.get_device_name(device)
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: found for name in packages if (found := installed(name))},
        "device": device,
        "hardware": hardware,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "revision": _revision(),
    }


def _revision() -> str:
    """Return the commit of this code if it runs from a checkout ("-dirty" if changed), else ""."""
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    command = ["git", "-C", str(Path(__file__).parent), *describe]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
