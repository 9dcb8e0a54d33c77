"""Imports point one way: cli → benchmark → defenses → attacks; planning needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "attacks": ("defenses", "benchmark"),
    "defenses": ("benchmark",),
    "benchmark": ("robustness_bench.benchmark.cli",),
}


def _imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_import_points_back(room: str) -> None:
    for file in (ROOT / room).rglob("*.py"):
        if "cli" in file.relative_to(ROOT).parts:
            continue
        for name in _imported(file):
            assert not name.startswith(FORBIDDEN[room]), f"{file} imports {name}"


def test_planning_and_reading_need_no_torch() -> None:
    program = (
        "import sys, robustness_bench.benchmark.run.work, robustness_bench.benchmark.cli.run, robustness_bench.benchmark.report.publish; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
