"""Shared fixtures: no test reads or writes the user's cache, no test needs a network or a GPU."""

import contextlib
import gc
import io
import os
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


def _install_plugin(project: Path, site: Path) -> None:
    """Make a project's modules and entry points visible, as `pip install` would."""
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    info = site / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n"
    )
    points = []
    for group, entries in about["entry-points"].items():
        points += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(points) + "\n")
    sys.path += [str(project), str(site)]


# Before any test module is imported, so that the contract suites cover the plugins too.
_SITE = tempfile.TemporaryDirectory()
for _plugin in ("attack_plugin", "defense_plugin", "dataset_plugin", "network_plugin", "detector_plugin"):
    _install_plugin(ROOT / "examples" / _plugin, Path(_SITE.name))

# The modules of torch and of what the tests import are a million objects that stay; looking through them for
# garbage as often as Python does by default took a sixth of the suite's time.
gc.set_threshold(100_000, 50, 50)

SHARED = Path(__file__).parents[2] / "shared" / "data"


class Said(NamedTuple):
    """What a command printed and how it ended."""

    status: int
    out: str
    err: str


Bench = Callable[..., Said]


@pytest.fixture(autouse=True, scope="session")
def _one_core() -> Iterator[None]:
    """One thread, and one process for a command that is not told how many ``--workers`` it has.

    Small models run fastest so, tests run side by side, one on each core, and a process more spends
    seconds on importing torch.
    """
    import torch

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        yield


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["BENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _nothing_from_outside_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Submissions and plugin files that a test makes known are forgotten after it."""
    from robustness_bench.attacks import plugins as offers
    from robustness_bench.defenses import plugins, registry

    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(plugins, "_loaded", dict(plugins._loaded))
    monkeypatch.setattr(offers, "_files", {group: dict(points) for group, points in offers._files.items()})


def run_bench(*arguments: object) -> Said:
    """Run ``bench`` in this process."""
    from robustness_bench.benchmark.cli import main

    out, err = io.StringIO(), io.StringIO()
    status = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else int(bool(end.code))
    return Said(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def bench() -> Bench:
    """Run ``bench`` in this process."""
    return run_bench


@pytest.fixture
def shared_data() -> Path:
    """The folder of real images, which only some machines have."""
    if not SHARED.is_dir():
        pytest.skip("real images are not on this machine")
    return SHARED
