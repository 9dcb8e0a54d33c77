"""The site as a browser shows it, from disk: nothing is served, nothing is asked for."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from robustness_bench.benchmark.site.build import build
from robustness_bench.benchmark.statistics import mcnemar_exact, mean_std, wilson
from tests.benchmark.site.made_store import Store, write_large
from tests.conftest import Bench

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe_playwright = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
DIGITS = Path(__file__).parents[3] / "results" / "digits"
BOARD = "digits-linf-0-18-white-strict-100"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("browser") / "site"
    build([DIGITS], site)
    return site


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flags, a hostile name, images, a failed cell, a curve, a collapsed seed."""
    folder = tmp_path_factory.mktemp("odd")
    store = Store(folder / "store", images=40)
    for defense, stood in (("good", 30), ("<img src=x onerror=alert(1)>", 20), ("bad", 5)):
        for seed in range(3):
            model = store.model(defense, seed)
            flags = ["zero-gradients"] if defense == "bad" else []
            store.cell(model, defense, "none", 38, kind="natural", flags=flags)
            fell = 0 if defense == "good" and seed == 2 else stood
            store.examples(store.cell(model, defense, "zap", fell, flags=flags))
            store.cell(model, defense, "zap", fell // 2, eps=0.25, flags=flags)
            store.cell(model, defense, "least", 1, kind="minimum-norm", distance=0.2, flags=flags)
    store.cell(store.model("broken", 0), "broken", "none", 38, kind="natural")
    store.cell(store.model("broken", 0), "broken", "zap", 0, error="Traceback\nValueError: x")
    build([store.folder], folder / "site")
    return folder / "site"


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that must ask for nothing but files and say nothing on its console."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened, trouble = context.new_page(), []
    opened.on("console", lambda message: trouble.append(message.text))
    opened.on("pageerror", lambda error: trouble.append(str(error)))
    opened.on("dialog", lambda dialog: [trouble.append("a dialog"), dialog.dismiss()])  # type: ignore[func-returns-value]
    opened.on("request", lambda r: None if r.url.startswith("file:") else trouble.append(r.url))
    yield opened
    context.close()
    assert trouble == []


def until(page: Any, condition: str) -> None:
    """Wait for a condition; the browser driver's own way of waiting is what the pages' policy forbids."""
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never true: {condition}")


def column(page: Any, name: str) -> list[str]:
    """The texts of a column's shown cells, from top to bottom."""
    index: int = page.evaluate(
        "n => [...document.querySelectorAll('#board thead th')].findIndex(h => h.dataset.column === n)", name
    )
    texts: list[str] = page.evaluate(
        "i => [...document.querySelectorAll('#board > tbody > tr:not(.rule):not(.more)')]"
        ".filter(r => !r.hidden).map(r => (r.cells[i].querySelector('a') || r.cells[i]).innerText.trim())",
        index,
    )
    return texts


def numbers(texts: list[str]) -> list[float]:
    return [float(text.split()[0]) for text in texts if text != "–"]


def state(page: Any) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).fragment)


def head(page: Any, name: str) -> Any:
    return page.locator(f'#board th[data-column="{name}"]')


def test_sorting(page: Any, digits: Path) -> None:
    page.goto((digits / "boards" / f"{BOARD}.html").as_uri())
    assert head(page, "worst-case").get_attribute("aria-sort") == "descending"
    worst = numbers(column(page, "worst-case"))
    assert worst == sorted(worst, reverse=True)
    head(page, "aa").get_by_role("button").click()
    found = numbers(column(page, "aa"))
    assert found == sorted(found, reverse=True)
    assert head(page, "aa").get_attribute("aria-sort") == "descending"
    assert page.locator("#board th[aria-sort]").count() == 1
    head(page, "aa").get_by_role("button").press("Enter")
    assert numbers(column(page, "aa")) == sorted(found)
    assert state(page) == {"sort": ["aa"], "dir": ["up"]}
    head(page, "defense").get_by_role("button").click()
    starts = "".join(name[0] for name in column(page, "defense"))
    assert starts == "MNNNNNNNSTUW"
    head(page, "fwa-40").get_by_role("button").click()
    assert column(page, "fwa-40")[-4:] == ["–"] * 4  # what was never run comes last either way
    head(page, "fwa-40").get_by_role("button").click()
    assert column(page, "fwa-40")[-4:] == ["–"] * 4


def test_filters_and_columns(page: Any, digits: Path) -> None:
    page.goto((digits / "boards" / f"{BOARD}.html").as_uri())
    assert page.locator("#count").inner_text() == "12 of 12 rows"
    page.locator("#q").fill("namid no")
    assert column(page, "defense") == ["NAMID, no natural MI", "NAMID, λ = 0", "NAMID, no adversarial MI"]
    assert page.locator("#count").inner_text() == "3 of 12 rows"
    page.locator("#q").fill("")
    page.locator("#group").select_option("standard")
    assert sorted(column(page, "defense")) == ["NAMID", "Standard AT", "WMIM"]
    page.locator("#group").select_option("")
    page.locator("#seeds").select_option("3")
    assert len(column(page, "defense")) == 8
    page.locator("#flag").select_option("yes")
    flagged = column(page, "defense")
    page.locator("#flag").select_option("no")
    assert len(column(page, "defense")) + len(flagged) == 8
    page.locator(".columns summary").click()
    page.locator('.columns input[data-column="aa"]').uncheck()
    assert not head(page, "aa").is_visible()
    assert page.locator("#board tbody tr:visible").first.locator("td:visible, th:visible").count() == 10
    assert state(page) == {"seeds": ["3"], "flag": ["no"], "hide": ["aa"]}
    page.keyboard.press("Escape")
    assert not page.locator(".columns fieldset").is_visible()
    page.get_by_role("button", name="Reset").click()
    assert len(column(page, "defense")) == 12
    assert head(page, "aa").is_visible()
    assert "#" not in page.url


def test_a_view_can_be_linked(page: Any, digits: Path) -> None:
    address = (digits / "boards" / f"{BOARD}.html").as_uri()
    page.goto(f"{address}#q=namid&sort=none&dir=up&hide=ti-dim&hide=flags&seeds=3")
    found = numbers(column(page, "none"))
    assert found == sorted(found)
    assert sorted(column(page, "defense")) == ["NAMID", "NAMID_M", "NAMID_T"]
    assert not head(page, "ti-dim").is_visible()
    assert not page.locator('.columns input[data-column="flags"]').is_checked()
    assert page.locator("#q").input_value() == "namid"
    page.evaluate("location.hash = '#q=trades&seeds=x&group=nonsense&sort=nonsense'")
    until(page, "document.getElementById('count').textContent === '1 of 12 rows'")
    assert column(page, "defense") == ["TRADES"]
    assert page.locator("#group").input_value() == ""


def worst_cases(site: Path) -> dict[str, Any]:
    """Label -> what the download says of its worst case."""
    lines = json.loads((site / "downloads" / f"{BOARD}.json").read_text())
    return {line["label"]: line for line in lines if line["attack"] == "worst-case"}


def test_details_of_a_row(page: Any, digits: Path) -> None:
    page.goto((digits / "boards" / f"{BOARD}.html").as_uri())
    button = page.get_by_role("button", name="Seeds and intervals of TRADES")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    line = " ".join(page.locator("tr.more tbody tr").last.inner_text().split())
    trades = worst_cases(digits)["TRADES"]
    low, high = (100 * end for end in wilson(trades["mean"], 100))
    seeds = " ".join(f"{each:.1f}" for each in trades["per_seed"])
    assert line == f"Worst case {trades['mean']:.1f} ±{trades['std']:.1f} {low:.1f}–{high:.1f} {seeds}"
    head(page, "aa").get_by_role("button").click()
    assert page.evaluate(
        "document.querySelector('tr.more').previousElementSibling.innerText.includes('TRADES')"
    )
    page.locator("#q").fill("mart")
    assert not page.locator("tr.more").is_visible()
    page.locator("#q").fill("")
    button.click()
    assert page.locator("tr.more").count() == 0


def test_a_defense_and_its_command(page: Any, digits: Path, bench: Bench) -> None:
    page.goto((digits / "index.html").as_uri())
    page.get_by_role("link", name=re.compile("^L∞ ε = 0.18, white box")).click()
    page.get_by_role("link", name="NAMID", exact=True).click()
    assert page.locator("h1").inner_text().startswith("NAMID")
    page.locator(".chart details summary").first.click()
    assert page.locator(".chart details table").first.is_visible()
    page.get_by_role("button", name="Copy").click()
    until(page, "document.querySelector('.copy').textContent === 'Copied'")
    page.evaluate("document.body.append(document.createElement('textarea'))")
    page.locator("textarea").focus()
    page.keyboard.press("Control+V")
    command: str = page.locator("textarea").input_value()
    assert command == page.locator(".command code").inner_text()
    words = command.split()
    said = bench("plan", *words[2:-1], DIGITS)
    assert said.out.startswith("30 cells, 30 done, 0 to do")


def test_comparing(page: Any, digits: Path) -> None:
    page.goto((digits / "boards" / f"{BOARD}.html").as_uri())
    page.get_by_role("link", name="comparison page").click()
    table = page.locator("#compared table")
    table.wait_for()
    assert table.locator("tbody tr").count() == 6
    page.locator("#first").select_option(label="TRADES (resnet-18 of width 8, 12 epochs)")
    page.locator("#second").select_option(label="MART (resnet-18 of width 8, 12 epochs)")
    until(page, "document.querySelector('#compared table').innerText.includes('MART')")
    line = " ".join(table.locator("tr.worst").inner_text().split())
    figures = worst_cases(digits)
    ours, theirs = figures["TRADES"], figures["MART"]
    points = f"{ours['mean'] - theirs['mean']:.1f}"
    assert float(points) > 0
    both = " ".join(f"{each['mean']:.1f} ±{each['std']:.1f}" for each in (ours, theirs))
    assert line.startswith(f"Worst case {both} +{points} ")
    counts = line.split()[7:]
    for seed in range(3):
        only_first, only_second, p = counts[3 * seed : 3 * seed + 3]
        difference = ours["per_seed"][seed] - theirs["per_seed"][seed]
        assert int(only_first) - int(only_second) == round(difference)
        expected = mcnemar_exact(int(only_first), int(only_second))
        assert p == ("<0.001" if expected < 0.001 else f"{expected:.3f}")
    address = page.url
    page.get_by_role("button", name="Swap").click()
    until(page, f"document.querySelector('tr.worst').innerText.includes('−{points}')")
    page.goto(address)
    page.reload()
    until(page, f"document.querySelector('tr.worst').innerText.includes('+{points}')")
    page.locator("#board-of").select_option(index=2)
    until(page, "document.querySelector('#compared').innerText.includes('DDN')")


def test_statistics_are_those_of_python(page: Any, digits: Path) -> None:
    page.goto((digits / "compare.html").as_uri())
    for pair in [(0, 0), (1, 0), (3, 9), (9, 3), (40, 60), (500, 400), (3000, 3100), (0, 2000)]:
        found = page.evaluate("pair => benchStatistics.mcnemar(...pair)", list(pair))
        assert found == pytest.approx(mcnemar_exact(*pair), rel=1e-6, abs=1e-12)
    for successes, n in [(0, 10), (10, 10), (3.5, 20), (9999, 10000)]:
        found = page.evaluate("pair => benchStatistics.wilson(...pair)", [successes, n])
        assert found == pytest.approx(list(wilson(successes, n)), rel=1e-9)
    for values in ([1.0], [1.0, 3.0, 8.0]):
        found = page.evaluate("values => benchStatistics.meanStd(values)", values)
        assert (found["mean"], found["std"]) == pytest.approx(tuple(mean_std(values))[:2])


def test_a_hostile_name_stays_text(page: Any, odd: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    page.goto((odd / "index.html").as_uri())
    page.get_by_role("link", name=re.compile("box")).first.click()
    page.get_by_role("button", name=f"Seeds and intervals of {name}").click()
    page.locator("#q").fill("<img")
    assert column(page, "defense") == [name]
    page.get_by_role("link", name=name).click()
    assert name in page.locator("h1").inner_text()
    page.goto((odd / "compare.html").as_uri())
    page.locator("#compared table").wait_for()
    page.locator("#second").select_option(label=page.locator("#second option", has_text="<img").inner_text())
    until(page, "document.querySelector('#compared').innerText.includes('<img')")
    assert page.locator("#compared img").count() == 0


def test_images_flags_and_failures_are_shown(page: Any, odd: Path) -> None:
    page.goto(next((odd / "boards").iterdir()).as_uri())
    assert column(page, "rank")[-1].startswith("–")
    assert column(page, "zap")[-1] == "ERROR"
    assert page.locator(".flag", has_text="seed 2 collapsed").first.is_visible()
    head(page, "zap").get_by_role("button").click()
    assert column(page, "defense")[-1] == "broken"  # below whatever the order
    page.get_by_role("link", name="bad").click()
    picture = page.locator(".sheet img").first
    picture.scroll_into_view_if_needed()
    until(page, "document.querySelector('.sheet img').naturalWidth > 0")
    assert picture.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    shown, kept = (picture.evaluate(f"image => image.{name}") for name in ("clientWidth", "naturalWidth"))
    assert shown > 2 * kept
    assert page.locator(".labels .wrong").count() > 0


def test_without_scripts_the_tables_are_there(browser: Any, digits: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((digits / "boards" / f"{BOARD}.html").as_uri())
    assert page.locator("#board tbody tr").count() == 12
    assert not page.locator("#tools").is_visible()
    assert page.locator("#board tbody tr").first.inner_text().startswith("1–")
    page.goto((digits / "compare.html").as_uri())
    assert page.locator("noscript .warning").is_visible()
    context.close()


def test_colours_are_chosen_and_kept(page: Any, digits: Path) -> None:
    def paper() -> str:
        colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return colour

    page.goto((digits / "index.html").as_uri())
    before = paper()
    page.get_by_role("button", name="Dark colours").click()
    chosen = paper()
    assert chosen != before
    page.goto((digits / "compare.html").as_uri())
    assert paper() == chosen


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["index", "board", "defense", "compare"])
def test_accessibility(browser: Any, odd: Path, digits: Path, name: str, size: str, scheme: str) -> None:
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    # The large pages in one colour scheme at each size: axe takes up to ten seconds for one.
    large = (size == "desktop") == (scheme == "light")
    for site in (odd, digits) if large else (odd,):
        files = {
            "index": site / "index.html",
            "board": max((site / "boards").iterdir()),
            "defense": min((site / "defenses").iterdir()),
            "compare": site / "compare.html",
        }
        page.goto(files[name].as_uri())
        if name == "board":
            page.locator(".open").first.click()
            page.locator(".columns summary").click()
        if name == "compare":
            page.locator("#compared table").wait_for()
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        page.wait_for_timeout(200)  # until colours have changed
        found = axe_playwright.Axe().run(page).response["violations"]
        assert not found, [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
    context.close()


def test_every_control_is_reached_by_the_keyboard(page: Any, digits: Path) -> None:
    page.goto((digits / "boards" / f"{BOARD}.html").as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        assert page.evaluate(
            "(() => { const s = getComputedStyle(document.activeElement);"
            " return s.outlineStyle !== 'none' || document.activeElement === document.body; })()"
        )
    assert {"q", "group", "flag", "seeds", "SUMMARY", "BUTTON", "A", "DIV", "theme"} <= seen


def test_a_large_board_sorts(page: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """60 defenses × 10 attacks; the time is printed and not judged."""
    write_large(tmp_path / "store", defenses=60, attacks=10, seeds=1, images=50)
    started = time.perf_counter()
    build([tmp_path / "store"], tmp_path / "site")
    built = time.perf_counter() - started
    page.goto(next((tmp_path / "site" / "boards").iterdir()).as_uri())
    for name in ("attack-07", "defense"):
        took = page.evaluate(
            "name => { const b = document.querySelector(`th[data-column='${name}'] button`);"
            " const t = performance.now(); b.click(); document.body.offsetHeight;"
            " return performance.now() - t; }",
            name,
        )
        with capsys.disabled():
            print(f"\nsorted 60 rows by {name} in {took:.0f} ms (built in {built:.1f} s)")
    names = column(page, "defense")
    assert len(names) == 60
    assert names == sorted(names)
