"""Pages of detectors: what they say, what they escape, and that they are nowhere without detectors."""

import dataclasses
import io
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustness_bench.benchmark.errors import BenchError, StoreError
from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.plan.detectors import make_whole_plan
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.report.detectors.store import detections, validation_scores
from robustness_bench.benchmark.report.figures.roc import roc_figure, to_table
from robustness_bench.benchmark.report.publish import publish_detections
from robustness_bench.benchmark.report.rendering.table import Cell, Table
from robustness_bench.benchmark.site.build import build
from robustness_bench.benchmark.site.contents.detectors import by_setting
from robustness_bench.benchmark.site.contents.reading import default_stores
from robustness_bench.benchmark.site.drawing import svg
from robustness_bench.benchmark.store.detections import find_detections, read_detection, write_detection
from robustness_bench.benchmark.store.generated import find_conditional_examples
from tests.benchmark import detector_store
from tests.benchmark.detector_store import REMARK, generated, write_detectors
from tests.benchmark.site import test_pages
from tests.benchmark.site.test_pages import HOSTILE, HOSTILE_DATA, Page, contents, simple_store
from tests.conftest import Bench

PAGE = Path("detectors") / "detectors-digits.html"
MORE = "magnet,mi-magnet,magnet-random"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Detectors alone, two seeds; copy it before changing it."""
    out = tmp_path_factory.mktemp("detectors") / "store"
    write_detectors(out, systems=MORE, seeds=2)
    return out


@pytest.fixture(scope="module")
def tables(store: Path) -> dict[str, Table]:
    """What `bench run` leaves of them, beside the folder's CSV files."""
    scores = validation_scores(store)
    made = publish_detections(store.parent / "published", detections(store), scores, {"digits": "digits"})
    return {table.name: table for table in made}


@pytest.fixture(scope="module")
def site(store: Path) -> Path:
    build([store], store.parent / "site")
    return store.parent / "site"


def rows_of(text: str) -> list[list[str]]:
    """The texts of a table's body cells; figure, marks and small print of one apart by spaces."""
    body = text[text.index("</thead>") : text.index("</table>")]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.S)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    return [[" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in row] for row in cells]


def said(cell: Cell) -> str:
    figure, _, rest = cell.text.partition(" ")
    return " ".join(filter(None, [figure, *cell.marks, rest]))


def section(site: Path, name: str) -> str:
    text = (site / PAGE).read_text(encoding="utf-8")
    return text[text.index(f'<section aria-labelledby="{name}">') :].partition("</section>")[0]


# ---- without detectors


def test_without_detectors_nothing_speaks_of_them(tmp_path: Path) -> None:
    simple_store(tmp_path / "store", {"good": (20, 12)})
    built = build([tmp_path / "store"], tmp_path / "site")
    assert built.detectors == 0
    for name, content in contents(tmp_path / "site").items():
        assert "detector" not in name
        assert b"etector" not in content, name


# ---- with them


def test_pages_are_whole_and_linked(site: Path, tables: dict[str, Table]) -> None:
    found = [file for file in test_pages.pages(site) if file.file.parent.name == "detectors"]
    assert [page.file for page in found] == [site / PAGE]
    test_pages.test_every_link_leads_somewhere_and_nothing_is_fetched_from_outside(site)
    test_pages.test_every_file_has_a_plain_name(site)
    index = Page(site / "index.html")
    assert {"href": PAGE.as_posix()} in index.all("a")
    assert "Detectors: digits" in index.words
    assert "Nothing to compare" in Page(site / "compare.html").words
    assert not Page(site / "compare.html").scripts.get("compare-data")


def test_every_page_fits_the_policy(site: Path) -> None:
    for page in test_pages.pages(site):
        for landmark in ("main", "header", "footer", "h1"):
            assert len(page.all(landmark)) == 1
        assert len(page.ids) == len(set(page.ids))
        for tag, attributes in page.elements:
            assert "style" not in attributes, tag
            assert not [name for name in attributes if name.startswith("on")], tag
        for image in page.all("img"):
            assert image["alt"]


def test_the_tables_are_those_of_the_report(site: Path, tables: dict[str, Table]) -> None:
    places = {"detectors-digits": "worst", "detectors-digits-kappa": "kappa", "decomposition-digits": "parts"}
    assert tables.keys() == places.keys()
    for name, place in places.items():
        table, text = tables[name], section(site, place)
        shown = [row for row in rows_of(text) if len(row) > 1]
        assert shown == [[row.label, *(said(cell) for cell in row.cells)] for row in table.rows]
        words = " ".join(re.sub(r"<[^>]*>", " ", text).split())
        assert table.caption.replace("'", "&#39;") in words
        for column in table.columns:
            assert f">{column.label}</th>" in text
        for note in table.notes:
            assert note.text in words
            assert f'<li id="{place}-{note.mark}"' in text
    assert "oblivious only: not a security claim" in section(site, "worst")


def test_downloads_are_those_of_a_run(site: Path, store: Path, tables: dict[str, Table]) -> None:
    for name in ("detections", "detectors"):
        file = site / "downloads" / f"{name}-digits.csv"
        assert file.read_bytes() == (store.parent / "published" / f"{name}.csv").read_bytes()


def test_the_first_page_says_least_and_worst(site: Path, tables: dict[str, Table]) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    rows = {row[0]: row[1:] for row in rows_of(text[text.index('id="detectors"') :])}
    worst = {row.label: row.cells for row in tables["detectors-digits"].rows}
    for label, row in rows.items():
        cells = worst[label]
        assert row[0].split()[0] == cells[0].text.split()[0]
        assert row[1].split()[0] == f"{min(float(cell.text.split()[0]) for cell in cells[3:6]):.1f}"
    assert rows["MagNet"][2].split()[0] == worst["MagNet"][6].text.split()[0]
    assert rows["MagNet + random"][2] == "–"
    assert list(rows) == ["MagNet", "MI-MagNet (literal)", "MagNet + random"]


def test_curves_have_the_numbers_of_the_figure(site: Path, store: Path) -> None:
    roc = roc_figure("digits", detections(store))
    table, text = to_table(roc), section(site, "roc")
    width = len(table.columns) // len(roc.panels)
    charts = text.split("<figure ")[1:]
    assert len(charts) == len(roc.panels) > 3
    for place, (chart, panel) in enumerate(zip(charts, roc.panels, strict=True)):
        assert f"<strong>{panel.label}</strong>" in chart
        shown = {row[0].removesuffix(" †"): row[1:] for row in rows_of(chart)}
        start = place * width
        expected = {
            row.label: [cell.text for cell in row.cells[start : start + width]]
            for row in table.rows
            if row.cells[start].text != "–"
        }
        assert shown == expected
    assert REMARK in text
    assert "MI literal †" in text


def test_a_curve_is_drawn_in_steps(site: Path) -> None:
    """A symbol stands at each threshold in use, and nowhere else."""
    chart = section(site, "roc").split("<figure ")[1]
    line = re.findall(r'<path class="line" d="M([^"]*)"', chart)[1]
    points = [tuple(map(float, pair.split())) for pair in line.split("L")]
    for (x, y), (next_x, next_y) in pairwise(points):
        assert x == next_x or y == next_y
        assert x <= next_x
        assert y >= next_y
    assert points[0][0] == 46
    assert points[-1] == (svg.WIDTH - 22, 12)
    marks = re.findall(r'<path class="mark" d="([^"]*)"', chart.partition("</svg>")[0])
    assert [mark.count("M") for mark in marks] == [1, 1, 1, 1]  # a threshold each


def test_generated_images_are_the_defenders(site: Path, store: Path) -> None:
    text = section(site, "generated")
    seeds = re.findall(r"Generator (\w+), seed (\d)", text)
    assert [seed for _, seed in seeds] == ["0", "1"]
    names = {path.name for path in find_conditional_examples(store, "digits")}
    assert len(names) == 4
    made = generated()
    for identity, seed in seeds:
        assert f"generator-seed{seed}-{identity}.examples.npz" in names
        pixels = np.asarray(Image.open(io.BytesIO((site / "images" / f"{identity}.png").read_bytes())))
        assert pixels.shape == (3 * 9 - 1, 12 * 9 - 1, 4)
        assert np.array_equal(pixels[:8, :8, 0], made.x[1, 0])  # the image of class 0 comes first
        assert np.array_equal(pixels[9:17, 9:17, 1], made.reconstruction[0, 0])
        assert np.array_equal(pixels[18:26, -8:, 2], made.conditional[2, 9, 0])
    rows = rows_of(text)
    assert rows[0] == ["0", "", *map(str, range(9)), "0"]
    assert text.count('class="wrong"') == 2 * 3
    assert "sees j in 90.0 % of 3 images" in text


def test_the_same_cells_give_the_same_bytes_and_results_go_before_failures(
    store: Path, site: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    shutil.copytree(store, half)
    for path in find_detections(half)[::2]:
        path.unlink()
    failed = tmp_path / "failed"
    write_detectors(failed, systems=MORE, seeds=2, error="Traceback: memory")
    orders = ([store], [half, store], [store, half], [failed, store], [store, failed])
    for number, stores in enumerate(orders):
        build(stores, tmp_path / f"site{number}")
        assert contents(tmp_path / f"site{number}") == contents(site)


def test_boards_and_detectors_share_a_site(store: Path, tmp_path: Path, bench: Bench) -> None:
    simple_store(tmp_path / "stores" / "one", {"good": (20, 12)})
    shutil.copytree(store, tmp_path / "stores" / "two")
    assert default_stores(tmp_path / "stores") == [tmp_path / "stores" / name for name in ("one", "two")]
    folders = sorted((tmp_path / "stores").iterdir())
    out = bench("leaderboard", "build", *folders, "--out", tmp_path / "site").out
    assert "1 board, 1 defense" in out
    assert "1 page of detectors" in out
    index = Page(tmp_path / "site" / "index.html").words
    assert index.index("Detectors: digits") > index.index("toys")


def test_two_settings_have_a_page_each(store: Path, tmp_path: Path) -> None:
    """Natural images do not depend on how many are attacked: their cells belong to both."""
    shutil.copytree(store, tmp_path / "store")
    write_detectors(tmp_path / "store", systems="magnet,mi-magnet", images=7)
    groups = by_setting(detections(tmp_path / "store"))
    assert [len({cell.spec["n_examples"] for cell in group}) for group in groups] == [2, 2]
    assert [sum(cell.spec["setting"] == "natural" for cell in group) for group in groups] == [6, 6]
    build([tmp_path / "store"], tmp_path / "site")
    pages = {
        page.file.name: page for page in test_pages.pages(tmp_path / "site") if "etectors: d" in page.words
    }
    pages.pop("index.html")
    assert len(pages) == 2
    for name, page in pages.items():
        (other,) = pages.keys() - {name}
        assert {"href": other} in page.all("a")
    settings = sorted(re.search(r"(\d) attacked images, setting \w{6}", p.words)[1] for p in pages.values())  # type: ignore[index]
    assert settings == ["6", "7"]
    test_pages.test_every_link_leads_somewhere_and_nothing_is_fetched_from_outside(tmp_path / "site")


def test_other_networks_are_another_setting(store: Path) -> None:
    cells = detections(store)
    spec = cells[0].spec
    network = {**spec["parents"], "part:autoencoder-2": "0" * 12}
    other = dataclasses.replace(
        cells[0], id="x", family="x", spec={**spec, "system": "z", "parents": network}
    )
    data = dataclasses.replace(other, family="y", id="y", spec={**spec, "system": "y", "data": "0" * 64})
    fits = dataclasses.replace(other, family="w", id="w", spec={**spec, "system": "w"})
    groups = by_setting([*cells, other, data, fits])
    assert sorted(map(len, groups)) == [1, 1, len(cells) + 1]


def test_oblivious_attacks_alone_are_no_claim(tmp_path: Path, site: Path) -> None:
    write_detectors(tmp_path / "store", systems="magnet-random")
    build([tmp_path / "store"], tmp_path / "site")
    assert (
        "Oblivious only: not a security claim. No attack here knows" in Page(tmp_path / "site" / PAGE).words
    )
    assert "No attack here knows" not in Page(site / PAGE).words


def test_failures_are_errors_with_their_reason(tmp_path: Path) -> None:
    write_detectors(tmp_path / "store", error="Traceback\nValueError: <b> & 5 %")
    build([tmp_path / "store"], tmp_path / "site")
    text = (tmp_path / "site" / PAGE).read_text(encoding="utf-8")
    assert '<td class="n bad">ERROR<sup>' in text
    assert "failed: ValueError: &lt;b&gt; &amp; 5 %" in text
    assert 'id="roc"' not in text
    assert "<b>" not in text


def hostile_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells of a system, its detector, data set, remark and error with markup in their names."""
    made = make_whole_plan

    def renamed(*arguments: Any) -> list[Task]:
        return [_hostile(task) if task.kind == "detect" else task for task in made(*arguments)]

    monkeypatch.setattr(detector_store, "make_whole_plan", renamed)
    monkeypatch.setattr(detector_store, "write_detection", _with_markup)
    write_detectors(folder, systems="magnet")


def _hostile(task: Task) -> Task:
    first = "reconstruction-1"
    spec = task.spec | {"system": HOSTILE, "dataset": HOSTILE_DATA}
    spec["detectors"] = {HOSTILE if name == first else name: each for name, each in spec["detectors"].items()}
    roles = {role: role.replace(first, HOSTILE) for role in task.parents}
    spec["parents"] = {roles[role]: identity for role, identity in task.spec["parents"].items()}
    parents = {roles[role]: parent for role, parent in task.parents.items()}
    identity = short_hash([spec, task.seed])
    return dataclasses.replace(task, spec=spec, id=identity, parents=parents)


def _with_markup(path: Path, task: Task, rows: dict[str, Any], **told: Any) -> None:
    if task.spec["setting"] == "white":
        rows, told = {}, told | {"error": f"Traceback\nValueError: {HOSTILE}", "thresholds": {}}
    remarks = {HOSTILE: f"poor {HOSTILE}"} if told["thresholds"] else {}
    write_detection(path, task, rows, **told | {"remarks": remarks})


def test_hostile_names_stay_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile_store(tmp_path / "store", monkeypatch)
    cell = read_detection(find_detections(tmp_path / "store")[0])
    assert HOSTILE in (cell.spec["system"], *cell.spec["detectors"])
    build([tmp_path / "store"], tmp_path / "site")
    (file,) = (tmp_path / "site" / "detectors").iterdir()
    page, index = Page(file), Page(tmp_path / "site" / "index.html")
    for each in (page, index):
        assert HOSTILE in each.words
        assert HOSTILE_DATA in each.words
        assert not each.all("img")
        assert not each.all("b")
    assert f"poor {HOSTILE}" in page.words
    assert f"failed: ValueError: {HOSTILE}" in page.words
    assert f"{HOSTILE}: AUROC" in page.words
    test_pages.test_every_file_has_a_plain_name(tmp_path / "site")
    test_pages.test_every_link_leads_somewhere_and_nothing_is_fetched_from_outside(tmp_path / "site")


def test_damage_is_named(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "store")
    path = find_detections(tmp_path / "store")[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(StoreError, match=path.name):
        build([tmp_path / "store"], tmp_path / "site")
    path.write_bytes(whole)
    for pattern in ("calibrations/*/*.safetensors", "checkpoints/*/*.npz"):
        (file, *_) = sorted((tmp_path / "store").glob(pattern))
        kept = file.read_bytes()
        file.write_bytes(b"damaged")
        with pytest.raises(StoreError, match=file.name):
            build([tmp_path / "store"], tmp_path / "site")
        file.write_bytes(kept)
    assert not (tmp_path / "site").exists()


def test_a_store_without_anything_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "detections").mkdir()
    with pytest.raises(BenchError, match="no records in"):
        build([tmp_path], tmp_path / "site")


def test_styles_are_told_apart_without_colour() -> None:
    looks = set()
    for style in range(36):
        swatch = str(svg.swatch(style))
        dash = re.search(r'stroke-dasharray="([^"]*)"', swatch)
        mark = swatch.partition('class="mark" d="')[2].partition('"')[0]
        looks.add((dash[1] if dash else "", mark))
    assert len(looks) == 36
