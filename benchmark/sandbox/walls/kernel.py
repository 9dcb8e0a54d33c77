"""Linux system calls that Python has no function for."""

import ctypes
import os
from functools import cache
from typing import Any

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def system_call(number: int, *arguments: Any) -> int:
    """Return the result of system call ``number``, integers passed as long; OSError if the kernel refuses."""
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc().syscall(ctypes.c_long(number), *passed))


def prctl(option: int, *arguments: Any) -> int:
    """Call prctl for this process; OSError if the kernel refuses."""
    passed = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    padding = [ctypes.c_ulong(0)] * (4 - len(passed))
    return _checked(_libc().prctl(option, *passed, *padding))


def drop_capabilities() -> None:
    """Give up every privilege that root has beyond an ordinary user."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _checked(_libc().capset(header, (ctypes.c_uint32 * 6)()))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
