"""Scratch folders: one user's process at a time, and nothing of a killed one stays."""

import errno
import os
import signal
import tempfile
from pathlib import Path

import pytest

from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.files import scratch_folder
from tests.benchmark.sandbox.forked import fork


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def _killed_inside() -> None:
    """Make a folder with a file in a process that is killed then."""
    if (child := fork()) == 0:
        with scratch_folder("model") as folder:
            (folder / "weights").write_bytes(b"w" * 100)
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_nothing_stays_of_one_that_ended(home: Path) -> None:
    with scratch_folder("model") as folder:
        assert list(folder.iterdir()) == []
        (folder / "weights").write_bytes(b"w")
    with pytest.raises(KeyError), scratch_folder("model"):
        raise KeyError
    assert list(home.iterdir()) == []


def test_the_next_deletes_that_of_a_killed_process(home: Path) -> None:
    _killed_inside()
    assert [path.read_bytes() for path in home.glob("bench-model-*/files/weights")] == [b"w" * 100]
    with scratch_folder("submission"):
        assert [path.name.split("-")[1] for path in home.iterdir()] == ["submission"]
    assert list(home.iterdir()) == []


def test_what_is_in_use_or_not_ours_is_left_alone(home: Path) -> None:
    (home / "bench-results" / "files").mkdir(parents=True)
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / "kept").touch()
    (home / "bench-link").symlink_to(home / "elsewhere")
    with scratch_folder("model") as first:
        (first / "weights").touch()
        if (child := fork()) == 0:
            with scratch_folder("model"):
                os._exit(0)
        os.waitpid(child, 0)
        with scratch_folder("model") as second:
            assert first != second
        assert (first / "weights").exists()
    _killed_inside()
    with scratch_folder("model"):
        pass
    assert {path.name for path in home.iterdir()} == {"bench-results", "elsewhere", "bench-link"}
    assert (home / "elsewhere" / "kept").exists()


def test_no_room_is_one_line_and_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(StoreError, match="No space left on device; free some space or set TMPDIR"):
        scratch_folder("model").__enter__()
    assert list(home.iterdir()) == []
