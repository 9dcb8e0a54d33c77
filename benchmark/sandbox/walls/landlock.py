"""Landlock: restrict for good which files a process may access; needs no privilege (Linux ≥ 5.13).

https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from robustness_bench.benchmark.sandbox.walls.kernel import system_call

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_VERSION, _PATH_BENEATH = 1, 1

_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_OF_FILES = _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV  # the rights that a rule on a file may grant

READ = _READ_FILE | _READ_DIR
"""Rights to read a file, or everything beneath a folder."""
KEEP_FILES = READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
"""Rights to read, write, create and remove plain files, but not folders, links, sockets or devices."""
USE_DEVICE = _READ_FILE | _WRITE_FILE | _IOCTL_DEV

_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # ABI -> number of file rights that it has; 16 from ABI 5 on


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def abi() -> int:
    """Return the version of Landlock in this kernel; 0 if there is none."""
    try:
        return system_call(_CREATE_RULESET, None, 0, _VERSION)
    except (OSError, AttributeError):
        return 0


def restrict(allowed: Mapping[Path, int]) -> None:
    """Permanently deny this process access to all files but ``allowed``; absent paths are skipped.

    If the kernel supports it, also deny TCP, and abstract Unix sockets of and signals to other processes.
    This applies only to the calling thread and its later children, so call it while there is one thread.
    Open files stay open, and Landlock does not restrict ``stat`` or changes of mode, owner or times.

    Raises:
        OSError: the kernel refused.
    """
    version = abi()
    handled = (1 << _RIGHTS.get(version, 16)) - 1
    ruleset = _Ruleset(handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    descriptor = system_call(_CREATE_RULESET, ctypes.byref(ruleset), size, 0)
    try:
        for path, rights in allowed.items():
            _allow(descriptor, path, rights & handled)
        system_call(_RESTRICT_SELF, descriptor, 0)
    finally:
        os.close(descriptor)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(target).st_mode):
            rights &= _OF_FILES
        rule = _Beneath(rights, target)
        system_call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(target)
