"""The package beside a user's own code, and as a wheel."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TAKEN = ("attacks", "defenses", "benchmark", "results")
"""Names that a researcher's own packages have."""
_FILES = {"attacks": "pgd.py", "defenses": "standard.py"}
_ATTACK = """
from dataclasses import dataclass
from robustness_bench.attacks import pgd

PRESET = {
    "attack": "attacks.pgd:PGD",
    "label": "Mine",
    "norms": ["linf"],
    "kind": "budget",
    "strict": {"source": "mine", "steps": 1, "rel_step_size": 1.0},
}


@dataclass(frozen=True, kw_only=True)
class PGD(pgd.PGD):
    pass
"""
_DEFENSE = """
from dataclasses import dataclass
from robustness_bench.defenses import standard


@dataclass(frozen=True, kw_only=True)
class Standard(standard.Standard):
    pass
"""


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
        "import robustness_bench as rb\n"
        "from robustness_bench.attacks.registry import attack_presets\n"
        "from robustness_bench.defenses.registry import build_defense, defense_presets\n"
        "build_defense(defense_presets()['namid-m'].identity())\n"
        "print(attack_presets('strict')['aa'].build('linf', 0.1))\n"
        "print(rb.evaluate.__module__, hasattr(rb, 'nothing'), rb.__all__)\n"
    )
    api = _python("-c", program, cwd=own, path=ROOT)
    assert api.returncode == 0, api.stderr
    attack, library = api.stdout.splitlines()
    assert attack.startswith("AutoAttack(")
    assert library == "robustness_bench.api False ['Evaluation', 'evaluate', 'records', 'run']"


def test_plugins_may_be_in_packages_of_these_names(tmp_path: Path) -> None:
    """A class of the user's ``attacks.pgd`` is not ours of that name."""
    for kind, code in (("attacks", _ATTACK), ("defenses", _DEFENSE)):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "__init__.py").touch()
        (tmp_path / kind / _FILES[kind]).write_text(code)
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[bench.attacks]\nmine = attacks.pgd:PRESET\n[bench.defenses]\nmine = defenses.standard:Standard\n"
    )
    program = (
        "from robustness_bench.attacks.registry import attack_presets\n"
        "from robustness_bench.defenses.registry import build_defense, defense_presets\n"
        "preset = attack_presets('strict')['mine']\n"
        "print(preset.attack, type(preset.build('linf', 0.1)).__module__)\n"
        "identity = defense_presets()['mine'].identity()\n"
        "print(identity['defense'], type(build_defense(identity)).__module__)\n"
        "print(defense_presets()['standard'].defense, attack_presets('strict')['pgd-40'].attack)\n"
    )
    done = _python("-c", program, cwd=tmp_path, path=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "outside:attacks.pgd:PGD attacks.pgd",
        "outside:defenses.standard:Standard defenses.standard",
        "defenses.standard:Standard attacks.pgd:PGD",
    ]


def test_a_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    others = {name.partition("/")[0] for name in names} - {"robustness_bench"}
    assert [name for name in others if not name.endswith(".dist-info")] == []
    held = {name.removeprefix("robustness_bench/") for name in names}
    folders = ("attacks", "defenses", "benchmark")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file()]
    files += (ROOT / "results" / "published").glob("*.csv")
    expected = {file.relative_to(ROOT).as_posix() for file in files if "__pycache__" not in file.parts}
    assert len(expected) > 250
    assert expected - held == set()


def test_an_sdist_holds_what_a_wheel_is_made_of(wheel: Path, tmp_path: Path) -> None:
    program = "import setuptools; setuptools.setup()"
    made = ("-q", "egg_info", "--egg-base", str(tmp_path), "sdist", "--dist-dir", str(tmp_path))
    done = _python("-c", program, *made, cwd=ROOT, path=ROOT)
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    with zipfile.ZipFile(wheel) as archived:
        packed = {name for name in archived.namelist() if name.startswith("robustness_bench/")}
    assert packed - files == set()
    assert {"pyproject.toml", "LICENSE", "README.md"} <= files


def test_the_dockerfile_installs_this_package() -> None:
    """What a build would stop at, without a daemon: what is copied, installed, and started is there."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    steps = [
        line.split(maxsplit=1) for line in (ROOT / "Dockerfile").read_text().splitlines() if line[0] != "#"
    ]
    assert [name for name, _ in steps] == ["FROM", "COPY", "RUN", "WORKDIR", "ENTRYPOINT", "CMD"]
    told = dict(steps)
    version = re.fullmatch(r"python:3\.(\d+)-slim", told["FROM"])
    assert version
    assert f"Programming Language :: Python :: 3.{version[1]}" in about["classifiers"]
    source, place = told["COPY"].split()
    assert (ROOT / source / "pyproject.toml").is_file()
    installed = re.fullmatch(rf'pip install --no-cache-dir "{place}\[([\w,]+)\]"', told["RUN"])
    assert installed
    assert set(installed[1].split(",")) <= about["optional-dependencies"].keys()
    assert json.loads(told["ENTRYPOINT"]) == list(about["scripts"])
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {"results/*", "!results/published"} <= set(ignored)


def test_a_wheel_works_without_the_checkout(wheel: Path, own: Path, tmp_path: Path) -> None:
    installed = tmp_path / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    for verb in (["list", "attacks"], ["submit", "init", "mine", "--attack"], ["plan"]):
        done = _python("-P", "-m", "robustness_bench.benchmark.cli", *verb, cwd=own, path=installed)
        assert done.returncode == 0, done.stderr
    program = (
        "from robustness_bench.benchmark.report.literature import published\n"
        "print(published.__file__, len(published.published('namid')) > 100)\n"
    )
    done = _python("-c", program, cwd=own, path=installed)
    assert done.returncode == 0, done.stderr
    file, enough = done.stdout.split()
    assert Path(file).is_relative_to(installed)
    assert enough == "True"
