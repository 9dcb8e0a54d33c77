"""Seccomp: deny system calls to a process for good.

https://docs.kernel.org/userspace-api/seccomp_filter.html. The filter lists denied calls, not allowed ones, so
that any build of Python and torch runs.
"""

import ctypes
import errno
import os
import platform
from typing import NamedTuple

from robustness_bench.benchmark.sandbox.walls.kernel import (
    PR_SET_PDEATHSIG,
    PR_SET_SECCOMP,
    prctl,
    system_call,
)


class Machine(NamedTuple):
    """The processor-dependent parts of the filter."""

    audit: int
    seccomp: int
    """The number of the system call seccomp(2)."""
    column: int
    """The processor's column in the tables below."""


MACHINES = {"x86_64": Machine(0xC000003E, 317, 0), "aarch64": Machine(0xC00000B7, 277, 1)}

# name: number on x86_64, number on aarch64
_NEW_PROCESSES = {"fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281)}
_OTHER_PROCESSES = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
_NETWORK = {  # io_uring is included because filters do not see its calls
    "socket": (41, 198),
    "socketpair": (53, 199),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}
_METADATA = {  # metadata of files, which Landlock does not protect
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
_UNCOUNTED_MEMORY = {  # memory that outlives the process, or is not in its resident set
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "userfaultfd": (323, 282),
}
_SYSTEM = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "acct": (163, 89),
    "syslog": (103, 116),
    "iopl": (172, None),
    "ioperm": (173, None),
    "personality": (135, 92),
    "vhangup": (153, 58),
}
_DENIED = _NEW_PROCESSES | _OTHER_PROCESSES | _NETWORK | _METADATA | _UNCOUNTED_MEMORY | _SYSTEM

# Allowed or denied depending on an argument.
_CLONE, _CLONE3 = (56, 220), (435, 435)
_KILL, _TGKILL, _PRLIMIT = (62, 129), (234, 131), (302, 261)
_PRCTL, _FCNTL, _IOCTL = (157, 167), (72, 25), (16, 29)
_CLONE_THREAD = 0x10000
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15  # they make a pipe signal another process
_FIOSETOWN, _SIOCSPGRP = 0x8901, 0x8902

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _KILL_PROCESS, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_X32 = 0x40000000  # numbers from here on are the x32 ABI's, which the tables do not have
_FILTER_MODE, _GET_ACTION_AVAIL = 2, 2


class _Instruction(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_uint16),
        ("yes", ctypes.c_uint8),
        ("no", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    ]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction))]


def available() -> bool:
    """Return whether this kernel supports filters and the tables have this processor."""
    machine = MACHINES.get(platform.machine())
    if platform.system() != "Linux" or machine is None:
        return False
    try:
        system_call(machine.seccomp, _GET_ACTION_AVAIL, 0, ctypes.byref(ctypes.c_uint32(_REFUSE)))
    except OSError:
        return False
    return True


def restrict() -> None:
    """Deny this process new processes, sockets, other processes, files' metadata and the system's settings.

    Threads still work. Needs PR_SET_NO_NEW_PRIVS or root, and only one thread: others would not be confined.

    Raises:
        OSError: the kernel refused.
    """
    code = _program(MACHINES[platform.machine()], os.getpid())
    instructions = (_Instruction * len(code))(*(_Instruction(*step) for step in code))
    prctl(PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(_Program(len(code), instructions)))


_Code = list[tuple[int, int, int, int]]


def _program(machine: Machine, pid: int) -> _Code:
    refuse, allow = _refuse(errno.EPERM), (_RETURN, 0, 0, _ALLOW)
    code: _Code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine.column == 0:
        code += [(_AT_LEAST, 0, 1, _X32), _refuse(errno.ENOSYS)]
    for numbers in _DENIED.values():
        number = numbers[machine.column]
        if number is not None:
            code += [(_EQUAL, 0, 1, number), refuse]
    # The C library falls back to clone, whose flags a filter can see.
    code += [(_EQUAL, 0, 1, _CLONE3[machine.column]), _refuse(errno.ENOSYS)]
    code += _unless(_CLONE[machine.column], 0, [(_ANY_BIT, 0, 1, _CLONE_THREAD), allow, refuse])
    for numbers, others in ((_KILL, [pid]), (_TGKILL, [pid]), (_PRLIMIT, [0, pid])):
        code += _unless(numbers[machine.column], 0, [*_each(others, allow), refuse])
    for numbers, position, values in (
        (_PRCTL, 0, [PR_SET_PDEATHSIG]),
        (_FCNTL, 1, [_F_SETOWN, _F_SETSIG, _F_SETOWN_EX]),
        (_IOCTL, 1, [_FIOSETOWN, _SIOCSPGRP]),
    ):
        code += _unless(numbers[machine.column], position, [*_each(values, refuse), allow])
    return [*code, allow]


def _refuse(number: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _REFUSE | number)


def _each(values: list[int], answer: tuple[int, int, int, int]) -> _Code:
    return [step for value in values for step in ((_EQUAL, 0, 1, value), answer)]


def _unless(number: int, position: int, decide: _Code) -> _Code:
    """Decide one system call by the low half of an argument."""
    load = (_LOAD, 0, 0, _ARGUMENTS + 8 * position)
    return [(_EQUAL, 0, len(decide) + 1, number), load, *decide]
