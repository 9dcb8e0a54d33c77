"""Pages of detectors as a browser shows them, from disk."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustness_bench.benchmark.site.build import build
from tests.benchmark.detector_store import write_detectors

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe_playwright = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    systems = "magnet,mi-magnet,magnet-conditional,magnet-random"
    write_detectors(folder / "store", systems=systems, images=9, seeds=2)
    write_detectors(folder / "store", systems="magnet-random", images=8)
    build([folder / "store"], folder / "site")
    return folder / "site"


def main_page(site: Path) -> Path:
    return max((site / "detectors").iterdir(), key=lambda file: file.stat().st_size)


def column(page: Any, index: int) -> list[str]:
    texts: list[str] = page.evaluate(
        "i => [...document.querySelectorAll('.sortable tbody tr')]"
        ".map(row => row.cells[i].innerText.split(/\\s/)[0])",
        index,
    )
    return texts


def test_sorting(browser: Any, site: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, trouble = context.new_page(), []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith("file:") else trouble.append(r.url))
    page.goto(main_page(site).as_uri())
    before = column(page, 0)
    assert before == ["Classifier", "MagNet", "MI-MagNet", "MagNet", "MagNet"]
    heads = page.locator(".sortable thead tr").last.locator("th")
    heads.nth(4).get_by_role("button").click()
    found = [float(text) for text in column(page, 4)]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) > 1
    assert heads.nth(4).get_attribute("aria-sort") == "descending"
    heads.nth(4).get_by_role("button").press("Enter")
    assert [float(text) for text in column(page, 4)] == sorted(found)
    assert heads.nth(4).get_attribute("aria-sort") == "ascending"
    assert page.locator("th[aria-sort]").count() == 1
    for _ in range(2):
        heads.nth(7).get_by_role("button").click()
        assert {text[0] for text in column(page, 7)[-3:]} == {"–"}  # what was never attacked comes last
    heads.nth(0).get_by_role("button").click()
    names = page.locator(".sortable tbody th").all_inner_texts()
    assert names == sorted(names, key=str.casefold)
    page.locator(".sortable sup a").first.click()
    assert page.evaluate("document.querySelector(':target').tagName") == "LI"
    page.goto((site / "compare.html").as_uri())
    assert page.get_by_text("Nothing to compare").is_visible()
    context.close()
    assert trouble == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_accessibility(browser: Any, site: Path, size: str, scheme: str) -> None:
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    for file in (main_page(site), site / "index.html", site / "compare.html"):
        page.goto(file.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        page.wait_for_timeout(200)  # until colours have changed
        found = axe_playwright.Axe().run(page).response["violations"]
        assert not found, [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
    context.close()


def test_without_scripts_the_tables_are_there(browser: Any, site: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(main_page(site).as_uri())
    assert page.locator(".sortable tbody tr").count() == 5
    assert page.locator(".sortable thead button").count() == 0
    context.close()
