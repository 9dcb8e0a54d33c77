"""Imports point one way, from room to room; no room is too full; planning needs no torch.

A room is a package: the modules of one folder. ``ROOMS`` is their order, and imports point down it only.
"""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "robustness_bench"
FOLDERS = ("attacks", "defenses", "benchmark")
ROOMS = [
    "robustness_bench",
    "benchmark/cli",
    "benchmark/cli/submit",
    "benchmark/cli/folders",
    "benchmark/cli/shared",
    "benchmark/site",
    "benchmark/site/pages",
    "benchmark/site/drawing",
    "benchmark/site/contents",
    "benchmark/exchange/hub",
    "benchmark/exchange",
    "benchmark/submit",
    "benchmark/submit/attacks",
    "benchmark/submit/checks",
    "benchmark/submit/board",
    "benchmark/submit/intake",
    "benchmark/submit/manifest",
    "benchmark/run",
    "benchmark/run/engines",
    "benchmark/run/watching",
    "benchmark/report",
    "benchmark/report/figures/drawing",
    "benchmark/report/figures",
    "benchmark/report/paper",
    "benchmark/report/detectors",
    "benchmark/report/tables",
    "benchmark/report/lines",
    "benchmark/report/literature",
    "benchmark/report/rendering",
    "benchmark/measure",
    "benchmark/train",
    "benchmark/store",
    "benchmark/sandbox",
    "benchmark/sandbox/walls",
    "benchmark/plan",
    "benchmark/networks",
    "benchmark/data",
    "benchmark",
    "defenses/detectors",
    "defenses",
    "defenses/mutual_information",
    "attacks/black_box",
    "attacks",
    "attacks/searches",
    "attacks/numerics",
    "attacks/plugins",
]
"""From what a user types down to what knows nothing of the rest."""
MOST_MODULES, MOST_ALIKE = 15, 3


def _files(folder: Path) -> list[Path]:
    """The Python files of a package, but for templates, which are a submission's and not ours."""
    return [file for file in sorted(folder.rglob("*.py")) if "templates" not in file.parts]


FILES = sorted((ROOT / PACKAGE).glob("*.py"))  # beside the links to the folders
FILES += [file for folder in FOLDERS for file in _files(ROOT / folder)]


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACKAGE, *parts[parts[0] == PACKAGE :]]).removesuffix(".__init__")


def _room(file: Path) -> str:
    return file.parent.relative_to(ROOT).as_posix()


BY_MODULE = {_module(file): file for file in FILES}


def _only_for_types(tree: ast.AST) -> set[ast.AST]:
    """What stands below ``if TYPE_CHECKING``."""
    guarded = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    return {inner for node in guarded for inner in ast.walk(node)}


@cache
def _imports(file: Path, *, types: bool = True) -> frozenset[str]:
    """The modules that a file imports, inside functions too."""
    return frozenset(_named(file, types=types))


def _named(file: Path, *, types: bool) -> Iterator[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    left_out = set() if types else _only_for_types(tree)
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} imports relatively"
            assert node.module is not None
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in BY_MODULE else node.module for name in inner)


def _arrows(*, types: bool = True) -> Iterator[tuple[Path, Path]]:
    """File -> file that it imports."""
    for file in FILES:
        for name in _imports(file, types=types):
            imported = BY_MODULE.get(name)
            if imported is not None and imported != file:
                yield file, imported


def test_every_room_has_its_place() -> None:
    assert sorted({_room(file) for file in FILES}) == sorted(ROOMS)


def test_imports_point_down() -> None:
    height = {room: -place for place, room in enumerate(ROOMS)}
    arrows = list(_arrows())
    assert len(arrows) > 500  # else the reader of imports is broken
    up = [
        f"{file.relative_to(ROOT)} imports {imported.relative_to(ROOT)}"
        for file, imported in arrows
        if height[_room(imported)] > height[_room(file)]
    ]
    assert up == []


def test_no_circle_of_modules() -> None:
    """Within a room neither; what only annotations name is not imported when the program runs."""
    left: dict[Path, set[Path]] = {file: set() for file in FILES}
    for file, imported in _arrows(types=False):
        left[file].add(imported)
    while left:
        used = set().union(*left.values())
        free = [file for file, imported in left.items() if file not in used or not imported & left.keys()]
        if not free:
            break
        for file in free:
            del left[file]
    assert [str(file.relative_to(ROOT)) for file in left] == []


def test_all_imports_of_ours_begin_with_the_package() -> None:
    """``attacks``, ``defenses`` and ``benchmark`` belong to whoever works in the folder."""
    for file in [*FILES, *_files(ROOT / "tests"), *_files(ROOT / "benchmarks"), *_files(ROOT / "examples")]:
        for name in _imports(file):
            assert name.partition(".")[0] not in (*FOLDERS, "results"), f"{file} imports {name}"
            if name.startswith(f"{PACKAGE}."):
                assert name in BY_MODULE, f"{file} imports {name}, which is not there"


TEST_ROOMS = sorted({_room(file) for file in _files(ROOT / "tests")})


@pytest.mark.parametrize("room", [*ROOMS, *TEST_ROOMS])
def test_no_room_is_too_full(room: str) -> None:
    names = [file.stem for file in (ROOT / room).glob("*.py") if file.stem not in ("__init__", "__main__")]
    assert len(names) <= MOST_MODULES
    first_words = Counter(name.removeprefix("test_").partition("_")[0] for name in names)
    assert {word: n for word, n in first_words.items() if n > MOST_ALIKE} == {}


def test_planning_and_reading_need_no_torch() -> None:
    program = (
        "import sys, robustness_bench.benchmark.run.work, robustness_bench.benchmark.cli.run; "
        "import robustness_bench.benchmark.report.publish; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
