"""What is imported is declared: in the dependencies, an extra, or for development."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {
    "benchmarks",
    "robustness_bench",
    "tests",
    *(path.stem for path in (ROOT / "benchmarks").glob("*.py")),
}
PLUGINS = {path.stem for path in (ROOT / "examples").glob("*/*.py")}
"""Installed by the tests themselves."""


def _normalised(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def _declared(*, development: bool) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lists = [project["dependencies"], *(v for k, v in extras.items() if development or k != "dev")]
    return {_normalised(each) for requirements in lists for each in requirements}


def _imported(folder: str) -> dict[str, Path]:
    """Top-level name -> a file that imports it, within functions too."""
    names: dict[str, Path] = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            else:
                continue
            names |= {module.partition(".")[0]: file for module in modules}
    return names


FOLDERS = ["attacks", "benchmark", "benchmarks", "defenses", "robustness_bench", "tests"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_import_is_declared(folder: str) -> None:
    """What a user's command imports may not be a dependency of development alone."""
    outside = folder in ("benchmarks", "tests")
    declared, providers = _declared(development=outside), packages_distributions()
    known = sys.stdlib_module_names | OURS | (PLUGINS if outside else set())
    known |= {file.stem for file in (ROOT / "benchmarks").glob("*.py")} if folder == "benchmarks" else set()
    imported = _imported(folder)
    assert imported
    for name, file in imported.items():
        if name not in known:
            distributions = {_normalised(each) for each in providers.get(name, [name])}
            assert distributions & declared, f"{file.relative_to(ROOT)} imports {name}: declare it"
