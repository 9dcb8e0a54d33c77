"""Shared fixtures: no test reads or writes the user's cache, no test needs a network or a GPU."""

import sys
import tempfile
import tomllib
from collections.abc import Callable
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

SHARED = Path(__file__).parents[2] / "shared" / "data"


class Said(NamedTuple):
    """What a command printed and how it ended."""

    status: int
    out: str
    err: str


Bench = Callable[..., Said]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small models run fastest so, and many times faster where another process keeps a core busy."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    import os

    os.environ["BENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _no_submissions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    from robustness_bench.defenses import registry

    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Run ``bench`` in this process."""

    def run(*arguments: object) -> Said:
        from robustness_bench.benchmark.cli import main

        monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(bool(end.code))
        out, err = capsys.readouterr()
        return Said(status, out, err)

    return run


@pytest.fixture
def shared_data() -> Path:
    """The folder of real images, which only some machines have."""
    if not SHARED.is_dir():
        pytest.skip("real images are not on this machine")
    return SHARED
