"""The package beside a user's own code, and as a wheel."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TAKEN = ("attacks", "defenses", "benchmark", "results")
"""Names that a researcher's own packages have."""


def _python(*arguments: str, cwd: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """Python as a user starts it in ``cwd``, with ``path`` where packages are installed."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder whose packages have the names of our folders, and must not be imported."""
    for name in TAKEN:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('the own {name} was imported')\n")
    return tmp_path


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, made without a network."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools is not there to build a wheel")
    made, work = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("build")
    build = ("build", "--build-base", str(work), "egg_info", "--egg-base", str(work))
    program = "import setuptools; setuptools.setup()"
    done = _python("-c", program, "-q", *build, "bdist_wheel", "--dist-dir", str(made), cwd=ROOT, path=ROOT)
    assert done.returncode == 0, done.stderr
    (file,) = made.glob("*.whl")
    return file


def test_it_works_from_a_folder_with_packages_of_these_names(own: Path) -> None:
    verb = _python("-m", "robustness_bench.benchmark.cli", "list", "attacks", cwd=own, path=ROOT)
    assert verb.returncode == 0, verb.stderr
    assert "pgd-40" in verb.stdout
    program = (
        "import robustness_bench\n"
        "from robustness_bench.attacks.registry import attack_presets\n"
        "from robustness_bench.defenses.registry import build_defense, defense_presets\n"
        "build_defense(defense_presets()['namid-m'].identity())\n"
        "print(attack_presets('strict')['aa'].build('linf', 0.1))\n"
    )
    api = _python("-c", program, cwd=own, path=ROOT)
    assert api.returncode == 0, api.stderr
    assert api.stdout.startswith("AutoAttack(")


def test_a_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    (about,) = tops - {"robustness_bench"}
    assert about.endswith(".dist-info")
    held = {name.removeprefix("robustness_bench/") for name in names}
    folders = ("attacks", "defenses", "benchmark")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file()]
    files += (ROOT / "results" / "published").glob("*.csv")
    expected = {file.relative_to(ROOT).as_posix() for file in files if "__pycache__" not in file.parts}
    assert len(expected) > 250
    assert expected - held == set()


def test_a_wheel_works_without_the_checkout(wheel: Path, own: Path, tmp_path: Path) -> None:
    installed = tmp_path / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    for verb in (["list", "attacks"], ["tables", "--table", "1", "--published", "--out", "found"], ["plan"]):
        done = _python("-P", "-m", "robustness_bench.benchmark.cli", *verb, cwd=own, path=installed)
        assert done.returncode == 0, done.stderr
    where = _python("-c", "import robustness_bench as r; print(r.__file__)", cwd=own, path=installed)
    assert Path(where.stdout.strip()).is_relative_to(installed)
