"""Write the site into a new folder, which then replaces the old one."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.report.rendering.formats import templates
from robustness_bench.benchmark.site.contents import downloads, names, standings
from robustness_bench.benchmark.site.contents.boards import Board, make_boards
from robustness_bench.benchmark.site.contents.detectors import DetectorBoard, make_detector_boards
from robustness_bench.benchmark.site.contents.families import Family, make_families, page_id
from robustness_bench.benchmark.site.contents.reading import Found, read_stores
from robustness_bench.benchmark.site.contents.reproduce import recipes
from robustness_bench.benchmark.site.drawing.images import sprite
from robustness_bench.benchmark.site.pages import board as boardpage
from robustness_bench.benchmark.site.pages import defense, overview
from robustness_bench.benchmark.site.pages import detectors as detectorpage

MARKER = ".robustness-bench-site"
_OF_DETECTORS = "detectors.css"
_HERE = Path(__file__).parent


class Built(NamedTuple):
    """What a site holds, and how long it took."""

    boards: int
    defenses: int
    cells: int
    seconds: float
    detectors: int
    """Number of pages of detectors."""


def build(stores: Sequence[Path], out: Path) -> Built:
    """Write the site for some stores to ``out``; the same records give the same bytes.

    Raises:
        BenchError: no store, nothing to show, or ``out`` is a folder with other content.
        StoreError: a damaged record or card.
    """
    started = time.monotonic()
    if out.exists() and not out.is_dir():
        raise BenchError(f"--out {out} is a file: name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise BenchError(f"--out {out} holds files that are not an earlier site: name an empty folder")
    found = read_stores(stores)
    boards = make_boards(found.records, found.sent, standings.unranked(found))
    detectors = make_detector_boards(found)
    if not boards and not detectors:
        raise BenchError(
            f"no board in {', '.join(map(str, stores))}: a board needs natural accuracy (none) and an attack "
            "inside ε"
        )
    families = make_families(found, boards)
    with _replacing(out) as folder:
        _write_all(folder, found, boards, families, detectors)
    cells, seconds = len(found.records) + len(found.detections), time.monotonic() - started
    return Built(len(boards), len(families), cells, seconds, len(detectors))


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """Yield a folder that replaces ``out`` once it is complete."""
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}-"))
    except OSError as error:
        raise BenchError(f"cannot write --out {out}: {error.strerror}; name another folder") from error
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()
        yield new
        if out.is_dir():
            out.rename(old)
        new.rename(out)
    except OSError as error:
        raise BenchError(f"cannot write --out {out}: {error.strerror}; the old site is unchanged") from error
    finally:
        if old.is_dir() and not out.exists():
            old.rename(out)
        shutil.rmtree(scratch, ignore_errors=True)


def _write_all(
    folder: Path,
    found: Found,
    boards: Sequence[Board],
    families: dict[str, Family],
    detectors: Sequence[DetectorBoard],
) -> None:
    _put(folder / MARKER, b"bench leaderboard build may replace this folder.\n")
    for asset in sorted((_HERE / "assets").iterdir()):
        if detectors or asset.name != _OF_DETECTORS:
            _put(folder / "assets" / asset.name, asset.read_bytes())
    index = overview.index(found, boards, families, detectors)
    _put(folder / "index.html", _render("index.html.j2", "", "index", index))
    for board in boards:
        page = boardpage.context(board, boards, families, found)
        _put(folder / "boards" / f"{board.slug}.html", _render("board.html.j2", "../", "board", page))
        _write_downloads(folder, board, families)
    for family in families.values():
        _write_defense(folder, found, family, families)
    for each in detectors:
        _write_detectors(folder, each, detectors)
    listed = overview.compared(boards, families)
    _put(folder / "compare.html", _render("compare.html.j2", "", "compare", listed))


def _write_downloads(folder: Path, board: Board, families: dict[str, Family]) -> None:
    lines = downloads.cells(board, families)
    stem = folder / "downloads" / board.slug
    _put(stem.with_suffix(".csv"), downloads.to_csv(lines))
    _put(stem.with_suffix(".json"), downloads.to_json(lines))
    _put(stem.with_suffix(".parquet"), downloads.to_parquet(lines))
    for name, value in overview.comparisons(board):
        script = f"benchComparisons({names.embedded(value)});\n"
        _put(folder / "data" / board.slug / f"{name}.js", script.encode())


def _write_defense(folder: Path, found: Found, family: Family, families: dict[str, Family]) -> None:
    made = recipes(family, found, family.slug)
    for recipe in made:
        if recipe.file:
            _put(folder / "reproduce" / recipe.file, recipe.config.encode())
    pictures = list(_pictures(folder, found, family))
    page = defense.context(
        family, families, found.cards, made, standings.told(family.defense, found), pictures
    )
    path = folder / "defenses" / f"{family.slug}.html"
    _put(path, _render("defense.html.j2", "../", "defense", page))


def _write_detectors(folder: Path, board: DetectorBoard, boards: Sequence[DetectorBoard]) -> None:
    page = detectorpage.context(board, boards)
    _put(folder / "detectors" / f"{board.slug}.html", _render("detectors.html.j2", "../", "detectors", page))
    for name, text in board.downloads().items():
        _put(folder / "downloads" / name, text.encode())
    for _, name, shown in page["generated"]:
        _put(folder / "images" / f"{name}.png", shown.png)


def _pictures(folder: Path, found: Found, family: Family) -> Iterator[tuple[str, list[defense.Named]]]:
    """Yield heading -> the pictures of one threat model, and write each picture once."""
    shown: set[str] = set()
    for board, row in family.places:
        group = []
        for column in board.columns:
            for record in row.cells[column.key].records if column.key in row.cells else ():
                made = None if record.id in shown else sprite(record, found.files[record.id])
                if made:
                    shown.add(record.id)
                    name = f"{page_id(record.id)}.png"
                    _put(folder / "images" / name, made.png)
                    group.append((f"{column.label}, seed {record.seed}", name, made))
        if group:
            yield board.threat_model, group


def _render(template: str, root: str, here: str, context: dict[str, Any]) -> bytes:
    page = _templates().get_template(template)
    return str(page.render(root=root, here=here, version=version("robustness-bench"), **context)).encode()


@cache
def _templates() -> Any:
    environment = templates(_HERE / "templates", autoescape=True)
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    return environment


def _put(path: Path, content: bytes) -> None:
    """Write a file; not atomically, because nobody sees the folder before it is complete."""
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
    path.write_bytes(content)
