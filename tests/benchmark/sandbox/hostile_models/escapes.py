"""A submission that tries to get out: every function here must fail where a submitted model runs.

Each succeeds in an ordinary process, which the test checks too. ``TARGETS`` is filled in by the test.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

TARGETS: dict[str, Any] = {}

ATTEMPTS: dict[str, Callable[[], object]] = {}
LIBC = ctypes.CDLL(None, use_errno=True)


def attempt(function: Callable[[], object]) -> Callable[[], object]:
    ATTEMPTS[function.__name__] = function
    return function


def victim() -> Path:
    """A file of the store that no other attempt has touched."""
    return Path(TARGETS["victims"].pop())


def store() -> Path:
    return Path(TARGETS["store"])


def checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


def system_call(*arguments: Any) -> None:
    checked(LIBC.syscall(*(ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)))


# Writing


@attempt
def overwrite() -> None:
    victim().write_text("bad")


@attempt
def append() -> None:
    with victim().open("a") as file:
        file.write("bad")


@attempt
def open_for_writing() -> None:
    os.open(victim(), os.O_WRONLY)


@attempt
def open_truncating() -> None:
    os.open(victim(), os.O_RDONLY | os.O_TRUNC)


@attempt
def truncate() -> None:
    os.truncate(victim(), 0)


@attempt
def make_file() -> None:
    (store() / "planted").write_text("bad")


@attempt
def make_folder() -> None:
    (store() / "folder").mkdir()


@attempt
def remove() -> None:
    victim().unlink()


@attempt
def remove_tree() -> None:
    shutil.rmtree(store() / "tree")


@attempt
def rename() -> None:
    victim().rename(store() / "renamed")


@attempt
def steal() -> None:
    victim().rename("stolen")


@attempt
def hard_link() -> None:
    Path("linked").hardlink_to(victim())
    Path("linked").write_text("bad")


@attempt
def write_through_link() -> None:
    Path("soft").symlink_to(victim())
    Path("soft").write_text("bad")


@attempt
def copy_over() -> None:
    Path("source").write_text("bad")
    shutil.copyfile("source", victim())


@attempt
def replace() -> None:
    Path("source").write_text("bad")
    Path("source").replace(victim())


@attempt
def map_for_writing() -> None:
    with victim().open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0:1] = b"!"


@attempt
def write_by_folder_descriptor() -> None:
    folder = os.open(store(), os.O_PATH)
    os.open(victim().name, os.O_WRONLY, dir_fd=folder)


@attempt
def write_by_c() -> None:
    checked(LIBC.open(str(victim()).encode(), os.O_WRONLY))


@attempt
def write_by_shell() -> None:
    subprocess.run(f"echo bad > {victim()}", shell=True, check=True)


@attempt
def change_mode() -> None:
    victim().chmod(0o600)


@attempt
def change_times() -> None:
    os.utime(victim(), (1, 1))


@attempt
def change_owner() -> None:
    os.chown(victim(), -1, -1)


@attempt
def write_beside_model() -> None:
    (Path(TARGETS["submission"]) / "planted").write_text("bad")


@attempt
def rewrite_submission() -> None:
    (Path(TARGETS["submission"]) / "model.py").write_text("bad")


@attempt
def write_elsewhere() -> None:
    Path(TARGETS["elsewhere"]).write_text("bad")


@attempt
def write_shared_memory() -> None:
    memory = SharedMemory(create=True, size=16)
    memory.close()
    memory.unlink()


@attempt
def leave_scratch() -> None:
    Path("..", Path(TARGETS["elsewhere"]).name + "-beside").write_text("bad")


@attempt
def make_pipe_file() -> None:
    os.mkfifo("fifo")


# Reading


@attempt
def read_secret() -> None:
    Path(TARGETS["secret"]).read_text()


@attempt
def map_secret() -> None:
    with Path(TARGETS["secret"]).open("rb") as file:
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@attempt
def read_secret_by_c() -> None:
    checked(LIBC.open(TARGETS["secret"].encode(), os.O_RDONLY))


@attempt
def read_secret_by_link() -> None:
    Path("secret").hardlink_to(TARGETS["secret"])
    Path("secret").read_text()


@attempt
def list_store() -> None:
    list(store().iterdir())


@attempt
def read_store() -> None:
    victim().read_bytes()


@attempt
def read_passwords() -> None:
    Path("/etc/passwd").read_text()


@attempt
def read_environment_of_parent() -> None:
    Path(f"/proc/{os.getppid()}/environ").read_bytes()


@attempt
def see_secret_variable() -> str:
    return os.environ["BENCH_TEST_SECRET"]


@attempt
def use_inherited_file() -> None:
    try:
        os.fstat(TARGETS["inherited"])
    except OSError as error:
        raise PermissionError from error


# Network


@attempt
def connect_tcp() -> None:
    socket.create_connection(("127.0.0.1", TARGETS["port"]), timeout=5).close()


@attempt
def send_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.sendto(b"secret", ("127.0.0.1", TARGETS["port"]))


@attempt
def listen() -> None:
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", 0))
        ours.listen()


@attempt
def connect_abstract() -> None:
    with socket.socket(socket.AF_UNIX) as ours:
        ours.connect(TARGETS["abstract"])


@attempt
def make_socket_pair() -> None:
    for end in socket.socketpair():
        end.close()


@attempt
def make_socket_by_c() -> None:
    checked(LIBC.socket(socket.AF_INET, socket.SOCK_STREAM, 0))


# Processes


@attempt
def fork() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


@attempt
def vfork_by_c() -> None:
    os.posix_spawn("/bin/true", ["true"], {})
    os.wait()


@attempt
def run_program() -> None:
    subprocess.run(["/bin/true"], check=True)


@attempt
def signal_parent() -> None:
    os.kill(os.getppid(), 0)


@attempt
def signal_victim() -> None:
    os.kill(TARGETS["process"], signal.SIGCONT)


@attempt
def signal_by_pidfd() -> None:
    signal.pidfd_send_signal(os.pidfd_open(TARGETS["process"]), signal.SIGCONT)


@attempt
def signal_by_thread() -> None:
    system_call(TARGETS["tgkill"], TARGETS["process"], TARGETS["process"], 0)


@attempt
def signal_through_pipe() -> None:
    reading, _ = os.pipe()
    fcntl.fcntl(reading, fcntl.F_SETOWN, TARGETS["process"])


@attempt
def limit_victim() -> None:
    resource.prlimit(TARGETS["process"], resource.RLIMIT_CORE)


@attempt
def slow_victim() -> None:
    os.setpriority(os.PRIO_PROCESS, TARGETS["process"], os.getpriority(os.PRIO_PROCESS, 0))


@attempt
def pin_victim() -> None:
    os.sched_setaffinity(TARGETS["process"], os.sched_getaffinity(0))


@attempt
def outlive_parent() -> None:
    checked(LIBC.prctl(1, 0, 0, 0, 0))


# Memory that is nobody's


@attempt
def memory_file() -> None:
    os.close(os.memfd_create("hidden"))


@attempt
def shared_segment() -> None:
    key = LIBC.shmget(0, 4096, 0o1600)
    checked(key)
    LIBC.shmctl(key, 0, None)


# What must go on to work


def works() -> None:
    """Threads, files in the scratch folder, and a signal to oneself."""
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    Path("own").write_text("fine")
    assert Path("own").read_text() == "fine"
    Path("own").unlink()
    os.kill(os.getpid(), 0)


def tried() -> dict[str, list[str]]:
    """The names of what succeeded, and of what failed in another way than being refused."""
    works()
    succeeded, odd = [], []
    for name, function in ATTEMPTS.items():
        try:
            function()
            succeeded.append(name)
        except (PermissionError, KeyError):
            pass
        except OSError as error:
            if error.errno != errno.EXDEV:  # so Landlock refuses to move between folders
                odd.append(f"{name} {error.errno}")
    return {"succeeded": succeeded, "odd": odd}


def build(*, classes: int, channels: int, size: int) -> object:
    raise RuntimeError(json.dumps(tried()))


if __name__ == "__main__":
    print(json.dumps(tried()))
