"""What submitted code may do on this machine: limits, and protections that the kernel enforces."""

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.sandbox.walls import kernel, landlock, seccomp

MIB, GIB = 2**20, 2**30
_TRUNCATE_ABI, _TCP_ABI = 3, 4  # Landlock's ABI versions that add these rights
_SYSTEM_FILES = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/nix/store"),
    *("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/proc/cpuinfo", "/proc/meminfo"),
    *("/sys/devices/system", "/dev/urandom", "/dev/random", "/dev/zero"),
)
_CUDA_FILES = (
    "/usr/local/cuda",
    "/usr/share/nvidia",
    "/proc/driver/nvidia",
    "/proc/devices",
    "/proc/modules",
)
_PASSED_ON = (
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_HOME",
    # They decide how sums round: a served model must give the logits of a local one.
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "OPENBLAS_CORETYPE",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
)


class ConfinementError(BenchError):
    """Submitted code cannot be confined here, so it does not run."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What submitted code may use; beyond any of these limits its process is killed."""

    seconds_to_start: float = 300.0
    """Seconds for importing the model's file, build() and loading the weights."""
    seconds_per_call: float = 300.0
    """Seconds for one forward or backward pass of a batch."""
    memory: int = 8 * GIB
    """Bytes of memory beyond what Python with torch takes."""
    cpu_seconds: int = 7 * 24 * 3600
    """CPU seconds of all its threads together, from start to end."""
    scratch: int = 64 * MIB
    """Bytes of files in its scratch folder, which may hold at most 100 files."""
    threads: int = 1024
    open_files: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfinementError(f"the limit {name} must be above 0, got {value}")


class Allowance(NamedTuple):
    """The most passes that a submitted attack may request per image under attack."""

    forwards: int
    backwards: int


class Platform(NamedTuple):
    """The means to confine a process on this machine."""

    system: str
    landlock: int
    """The version of Landlock's ABI; 0 if there is none."""
    seccomp: bool

    @classmethod
    def here(cls) -> "Platform":
        system = platform.system()
        return cls(system, landlock.abi() if system == "Linux" else 0, seccomp.available())


class Protection(NamedTuple):
    """One protection, in words for the user."""

    name: str
    stands: bool
    text: str


def protections(at: Platform | None = None) -> list[Protection]:
    """Return what submitted code is kept from on this machine, and what it is not."""
    at = at or Platform.here()
    writes = at.landlock >= _TRUNCATE_ABI and at.seccomp
    partly = "only in part" if at.landlock or at.seccomp else "not confined"
    files, filtered = f"Landlock ABI {at.landlock}", "seccomp"
    tcp = "no TCP, other sockets open (Landlock)" if at.landlock >= _TCP_ABI else "open"
    return [
        Protection(
            "writes", writes, f"only its scratch folder ({files} and {filtered})" if writes else partly
        ),
        Protection(
            "reads",
            at.landlock > 0,
            f"only Python, its packages and system libraries ({files})"
            if at.landlock
            else "every file of yours",
        ),
        Protection("network", at.seccomp, f"no sockets ({filtered})" if at.seccomp else tcp),
        Protection(
            "processes",
            at.seccomp,
            f"starts none, signals none, looks into none ({filtered})" if at.seccomp else "not confined",
        ),
    ]


def require(*, at: Platform | None = None, file: str = "model.py") -> None:
    """Raise ConfinementError if submitted code could harm this machine: it lacks a wall, or runs Windows."""
    at = at or Platform.here()
    if at.system == "Windows":
        raise ConfinementError(f"a submitted {file} cannot be run on Windows; use Linux 6.2 or later")
    missing = [f"{each.name} ({each.text})" for each in protections(at) if not each.stands]
    if missing:
        raise ConfinementError(
            f"this machine cannot confine a submitted {file}: {', '.join(missing)}; use Linux 6.2 or later "
            "with Landlock and seccomp"
        )


def environment(scratch: Path, threads: int) -> dict[str, str]:
    """Return the environment variables that submitted code sees."""
    home = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR"), str(scratch))
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    fixed = {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "USER": "submission",
        "OMP_NUM_THREADS": str(threads),
    }
    return {**kept, **home, **fixed}


def confine(scratch: Path, limits: Limits, *, parent: int, packages: Path, device: str) -> None:
    """Confine this process for good; it must still have only one thread.

    Args:
        parent: this process ends when that process does; 0 = bubblewrap sees to that.
        packages: the folder that torch is imported from.

    Raises:
        OSError: the kernel refused.
    """
    _limit(limits)
    if Platform.here().system == "Linux":
        kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.drop_capabilities()
    if parent and os.getppid() != parent:  # it ended before the signal of its end was asked for
        os._exit(1)
    landlock.restrict(_allowed(scratch, packages, device))
    seccomp.restrict()


def limit_memory(taken: int, limits: Limits) -> None:
    """Allow this process ``limits.memory`` bytes beyond the private memory it has already ``taken``."""
    import resource

    most = taken + limits.memory
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _limit(limits: Limits) -> None:
    import resource

    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_FSIZE: limits.scratch,
        resource.RLIMIT_NOFILE: limits.open_files,
    }
    for which, most in wanted.items():
        _, hard = resource.getrlimit(which)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))


def readable(packages: Path, device: str) -> list[Path]:
    """Return what submitted code may read: Python, its packages, system libraries."""
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    libraries = [Path(prefix, name) for prefix in sorted(prefixes) for name in ("lib", "lib64")]
    more = _CUDA_FILES if device.startswith("cuda") else ()
    return [*libraries, packages, *map(Path, (*_SYSTEM_FILES, *more))]


def devices(device: str) -> list[Path]:
    """Return the devices that it may use, beside /dev/null."""
    return sorted(Path("/dev").glob("nvidia*")) if device.startswith("cuda") else []


def _allowed(scratch: Path, packages: Path, device: str) -> dict[Path, int]:
    """Return where submitted code may read and write: path -> rights."""
    allowed = dict.fromkeys(readable(packages, device), landlock.READ)
    allowed |= {Path("/dev/null"): landlock.USE_DEVICE, scratch: landlock.KEEP_FILES}
    return allowed | dict.fromkeys(devices(device), landlock.USE_DEVICE)
