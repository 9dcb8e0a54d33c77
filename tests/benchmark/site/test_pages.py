"""The site without a browser: what it says, what it escapes, what it leaves behind."""

import csv
import dataclasses
import io
import json
import re
import threading
import tomllib
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from robustness_bench.benchmark.cli.leaderboard import app
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.errors import BenchError, StoreError
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Task, make_plan
from robustness_bench.benchmark.report.lines.compare import (
    Where,
    compare,
    p_text,
    pair_of,
    points,
    side,
    span,
)
from robustness_bench.benchmark.report.lines.results import summarize
from robustness_bench.benchmark.report.lines.worst_case import worst_case
from robustness_bench.benchmark.site import build as building
from robustness_bench.benchmark.site.build import MARKER, build
from robustness_bench.benchmark.site.contents import names
from robustness_bench.benchmark.site.contents.boards import Board, make_boards
from robustness_bench.benchmark.site.contents.families import make_families
from robustness_bench.benchmark.site.contents.reading import default_stores, read_stores
from robustness_bench.benchmark.site.contents.reproduce import _loading, recipes
from robustness_bench.benchmark.site.drawing.svg import (
    Axis,
    Plot,
    Series,
    draw,
    log_axis,
    percent_axis,
    strip,
)
from robustness_bench.benchmark.site.serve import server
from robustness_bench.benchmark.statistics import ranks, wilson
from robustness_bench.benchmark.store.cells import find_records, read_record, write_record
from robustness_bench.benchmark.submit.board.entries import Entry, add_entry
from robustness_bench.benchmark.submit.manifest.defense import Submission
from tests.benchmark.site.made_store import ENVIRONMENT, Store
from tests.conftest import Bench

DIGITS = Path(__file__).parents[3] / "results" / "digits"
HOSTILE = "<img src=x onerror=alert(1)>"
HOSTILE_ATTACK = "</script><!--\"'&"
HOSTILE_DATA = '../"x" <b>'
POLICY = "default-src 'none'; img-src 'self' file:; style-src 'self' file:; script-src 'self' file:"


class Page(HTMLParser):
    """Elements, ids and text of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.scripts: dict[str, str] = {}
        self._script = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        self._script = found.get("id", "-") if tag == "script" else ""

    def handle_endtag(self, tag: str) -> None:
        self._script = ""

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        else:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def pages(site: Path) -> list[Page]:
    return [Page(file) for file in sorted(site.rglob("*.html"))]


def contents(site: Path) -> dict[str, bytes]:
    return {str(f.relative_to(site)): f.read_bytes() for f in sorted(site.rglob("*")) if f.is_file()}


def simple_store(folder: Path, defenses: dict[str, tuple[int, int]], **options: Any) -> Store:
    """Per defense how many of 20 images stand naturally and under each of two attacks, over two seeds."""
    store = Store(folder, **options)
    for defense, (natural, stood) in defenses.items():
        for seed in range(2):
            model = store.model(defense, seed)
            store.cell(model, defense, "none", natural, kind="natural")
            store.cell(model, defense, "zap", stood + seed)
            store.cell(model, defense, "buzz", stood + 1)
    return store


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with everything that is out of the ordinary."""
    folder = tmp_path_factory.mktemp("odd")
    store = simple_store(folder / "store", {"good": (20, 12), "weak": (18, 3)}, dataset=HOSTILE_DATA)
    for seed in range(2):
        model = store.model(HOSTILE, seed, card=False)
        store.cell(model, HOSTILE, "none", 19, kind="natural", flags=["zero-gradients"])
        store.cell(model, HOSTILE, "zap", 9, flags=["zero-gradients"])
        store.cell(model, HOSTILE, "buzz", 9, flags=["zero-gradients"])
        store.cell(model, HOSTILE, HOSTILE_ATTACK, 2, kind="wasserstein")
        other = store.model("good", seed, lr=0.25)
        store.cell(other, "good", "none", 20, kind="natural")
        store.cell(other, "good", "zap", 0, error="Traceback\n  x\nValueError: <b> & 5 %")
        store.cell(other, "good", "buzz", 11)
        lone = store.model("lone", seed)
        store.cell(lone, "lone", "none", 20, kind="natural")
        store.cell(lone, "lone", "zap", 19)
        curved = store.model("weak", seed)
        task = store.cell(curved, "weak", "zap", 1, eps=0.25)
        store.examples(task)
    for seed in range(2):
        model = store.model("weak", seed)
        store.examples(store.cell(model, "weak", "buzz", 4))
    build([store.folder], folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("digits") / "site"
    build([DIGITS], site)
    return site


@pytest.fixture(params=["odd", "digits"])
def site(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def board_data(site: Path, pattern: str = "*") -> dict[str, Any]:
    (file,) = (site / "boards").glob(f"{pattern}.html")
    data: dict[str, Any] = json.loads(Page(file).scripts["board-data"])
    return data


def test_every_page_is_whole(site: Path) -> None:
    found = pages(site)
    assert len(found) > 4
    for page in found:
        (policy,) = [m for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
        assert policy["content"] == f"{POLICY}; base-uri 'none'; form-action 'none'"
        assert page.all("html")[0]["lang"] == "en"
        for landmark in ("main", "header", "footer", "h1"):
            assert len(page.all(landmark)) == 1, (page.file, landmark)
        assert len(page.ids) == len(set(page.ids)), page.file
        assert page.elements.count(("a", {"class": "skip", "href": "#main"})) == 1
        for tag, attributes in page.elements:
            assert "style" not in attributes, (page.file, tag)  # the policy would drop it
            assert not [name for name in attributes if name.startswith("on")], (page.file, tag)
        for image in page.all("img"):
            assert image["alt"]
            assert image["loading"] == "lazy"
        for picture in page.all("svg"):
            assert "aria-hidden" in picture or picture["role"] == "img"
        for script in page.all("script"):
            assert script.get("type") == "application/json" or script["src"].endswith(".js")


def test_every_link_leads_somewhere_and_nothing_is_fetched_from_outside(site: Path) -> None:
    ids = {page.file.resolve(): set(page.ids) for page in pages(site)}
    for page in pages(site):
        for tag, attributes in page.elements:
            for name in ("href", "src"):
                if name not in attributes:
                    continue
                target = attributes[name]
                if target.startswith("https://"):
                    assert tag == "a"
                    assert re.match(r"https://(arxiv\.org/abs|openreview\.net/forum)[/?]", target)
                    continue
                assert ":" not in target
                path, _, fragment = target.partition("#")
                file = (page.file.parent / path).resolve() if path else page.file.resolve()
                assert file.is_file(), (page.file, target)
                assert site.resolve() in file.parents
                if fragment and "=" not in fragment:
                    assert fragment in ids[file], (page.file, target)


def test_every_file_has_a_plain_name(site: Path) -> None:
    for path in site.rglob("*"):
        assert re.fullmatch(r"[a-z0-9.-]+", path.name), path


def test_hostile_names_stay_text(odd: Path) -> None:
    for page in pages(odd):
        assert all(image["src"].startswith("../images/") for image in page.all("img"))
        assert not page.all("b")
        for text in page.scripts.values():
            assert "<" not in text
            assert json.loads(text)
    index = Page(odd / "index.html")
    assert HOSTILE in index.words
    assert HOSTILE_DATA in index.words
    data = board_data(odd)
    assert HOSTILE in {row["label"] for row in data["rows"]}
    assert HOSTILE_ATTACK in {column["label"] for column in data["columns"]}
    for script in (odd / "data").rglob("*.js"):
        text = script.read_text()
        assert "<" not in text
        assert json.loads(text.removeprefix("benchComparisons(").removesuffix(");\n"))


def test_embedded_json_cannot_leave_its_element() -> None:
    value = {"a": "</script><!-- ]]> \u2028 &amp;", "b": [HOSTILE]}
    text = names.embedded(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028") & set(text)


@pytest.mark.parametrize(
    ("one", "other"), [("a b", "a_b"), ("A", "a"), ("é", "e"), ("..", "."), ("x" * 200, "x" * 201)]
)
def test_slugs_are_plain_and_keep_names_apart(one: str, other: str) -> None:
    assert names.slug(one) != names.slug(other)
    for text in (one, other):
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", names.slug(text))
        assert len(names.slug(text)) < 100


def test_figures_are_those_of_the_records(digits: Path) -> None:
    records = [read_record(path) for path in find_records(DIGITS)]
    wanted = {
        (
            line.norm,
            line.threat,
            line.defense if line.kind == "worst-case" else line.setting,
            line.attack,
        ): line
        for line in [*summarize(records), *worst_case(records, "strict")]
    }
    families = {(record.model_family, record.spec["norm"], record.spec["threat"], record.spec["attack"]):
                record.family for record in records}  # fmt: skip
    seen = 0
    for file in sorted((digits / "downloads").glob("*.json")):
        for cell in json.loads(file.read_text(encoding="utf-8")):
            place = cell["norm"], cell["threat"]
            if cell["status"] != "ok":
                continue
            family = families.get((cell["family"], *place, cell["attack"]), cell["defense"])
            line = wanted[(*place, family, cell["attack"])]
            assert line.bounded is not None
            assert cell["mean"] == pytest.approx(line.bounded.mean)
            assert cell["std"] == pytest.approx(line.bounded.std)
            assert dict(zip(cell["seeds"], cell["per_seed"], strict=True)) == line.per_seed
            assert (cell["forwards"], cell["backwards"]) == (line.forwards, line.backwards)
            assert cell["median_distance"] == line.median_distance
            low, high = wilson(line.bounded.mean, 100)
            assert (cell["low"], cell["high"]) == pytest.approx((100 * low, 100 * high))
            seen += 1
    assert seen == len(wanted)


def test_the_downloads_say_the_same(site: Path) -> None:
    for file in sorted((site / "downloads").glob("*.json")):
        lines = json.loads(file.read_text(encoding="utf-8"))
        table = pq.read_table(file.with_suffix(".parquet")).to_pylist()
        assert table == lines
        rows = list(csv.DictReader(io.StringIO(file.with_suffix(".csv").read_text(encoding="utf-8"))))
        assert len(rows) == len(lines)
        for row, line in zip(rows, lines, strict=True):
            assert all(row[name] == line[name] for name in ("label", "attack", "status", "family"))
            assert row["mean"] == ("" if line["mean"] is None else f"{line['mean']:.6g}")
            assert row["per_seed"].split() == ["ERROR" if v is None else f"{v:.6g}" for v in line["per_seed"]]


def test_the_table_shows_the_downloads(digits: Path) -> None:
    """Every mean and spread of a board, in the order of its rows, and what its script is given."""
    for file in sorted((digits / "boards").glob("*.html")):
        lines = json.loads((digits / "downloads" / f"{file.stem}.json").read_text())
        data, words = json.loads(Page(file).scripts["board-data"]), Page(file).words
        for row in data["rows"]:
            own = [line for line in lines if line["label"] == row["label"]]
            for line, mean, texts in zip(own, row["means"], row["cells"], strict=True):
                if line["mean"] is None:
                    assert (mean, texts) == (None, ["–", ""])
                    continue
                spread = f"{line['mean']:.1f} ±{line['std']:.1f}"
                seeds = [f"{value:.1f}" for value in line["per_seed"]]
                assert texts == [spread, f"{line['low']:.1f}–{line['high']:.1f}", *seeds]
                assert mean == pytest.approx(line["mean"], abs=1e-6)
                assert spread in words, (file, line["label"], line["attack"])


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    one = simple_store(tmp_path / "one", {"good": (20, 12), "weak": (18, 3)})
    two = simple_store(tmp_path / "two", {"other": (20, 7)})
    for number, stores in enumerate(([one, two], [two, one], [one, two, two])):
        build([store.folder for store in stores], tmp_path / f"site{number}")
    first = contents(tmp_path / "site0")
    assert len(first) > 15
    assert first == contents(tmp_path / "site1") == contents(tmp_path / "site2")


def test_a_new_site_replaces_the_old_one(tmp_path: Path) -> None:
    simple_store(tmp_path / "store", {"good": (20, 12), "weak": (18, 3)})
    site = tmp_path / "site"
    build([tmp_path / "store"], site)
    before = contents(site)
    for path in find_records(tmp_path / "store"):
        if read_record(path).spec["defense"] == "weak":
            path.unlink()
    build([tmp_path / "store"], site)
    after = contents(site)
    assert any("weak" in name for name in before)
    assert not any("weak" in name for name in after)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "store"]


def test_a_build_that_fails_leaves_the_old_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simple_store(tmp_path / "store", {"good": (20, 12)})
    build([tmp_path / "store"], tmp_path / "site")
    before = contents(tmp_path / "site")

    def fail(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(building, "_write_downloads", fail)
    with pytest.raises(RuntimeError, match="planted"):
        build([tmp_path / "store"], tmp_path / "site")
    assert contents(tmp_path / "site") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "store"]


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    simple_store(tmp_path / "store", {"good": (20, 12)})
    with pytest.raises(BenchError, match="are not an earlier site"):
        build([tmp_path / "store"], tmp_path / "store")
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match="is a file"):
        build([tmp_path / "store"], tmp_path / "file")
    (tmp_path / "empty").mkdir()
    build([tmp_path / "store"], tmp_path / "empty")
    assert (tmp_path / "empty" / MARKER).is_file()


def test_stores_without_a_board_are_errors(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(BenchError, match="no records in"):
        build([tmp_path / "nothing"], tmp_path / "site")
    store = Store(tmp_path / "store")
    store.cell(store.model("good", 0), "good", "none", 20, kind="natural")
    with pytest.raises(BenchError, match="no board"):
        build([store.folder], tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_damage_is_named(tmp_path: Path) -> None:
    simple_store(tmp_path / "store", {"good": (20, 12)})
    path = find_records(tmp_path / "store")[1]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match=path.name):
        build([tmp_path / "store"], tmp_path / "site")


def test_default_stores(tmp_path: Path) -> None:
    for name in ("b", "a", "no"):
        (tmp_path / name / ("records" if name != "no" else "tables")).mkdir(parents=True)
    assert default_stores(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    (tmp_path / "records").mkdir()
    assert default_stores(tmp_path) == [tmp_path, tmp_path / "a", tmp_path / "b"]


def only_board(store: Store) -> Board:
    (board,) = make_boards(read_stores([store.folder]).records)
    return board


def test_ranks_are_those_of_the_worst_case(tmp_path: Path) -> None:
    """Survivors 0-11 of one attack and 8-19 of the other leave four; the union decides, not the means."""
    store = Store(tmp_path, images=400)
    shares = {"union": (240, 160), "low": (40, 0), "high": (320, 0), "same": (320, 1)}
    for defense, (stood, first) in shares.items():
        for seed in range(2):
            model = store.model(defense, seed)
            store.cell(model, defense, "none", 400, kind="natural")
            store.cell(model, defense, "zap", stood - seed)
            store.cell(model, defense, "buzz", np.arange(400) >= first)
    board = only_board(store)
    found = {row.defense: row for row in board.rows}
    assert [row.defense for row in board.rows] == ["high", "same", "union", "low"]
    assert found["union"].worst is not None
    assert found["union"].worst.per_seed == {0: 20.0, 1: 19.75}
    outcomes = [row.worst.outcomes.values() for row in board.rows if row.worst]
    stacks = [np.stack([each for each in row if each is not None]) for row in outcomes]
    assert [row.rank for row in board.rows] == ranks(stacks)
    assert [tuple(row.rank or ()) for row in board.rows] == [(1, 2), (1, 2), (3, 3), (4, 4)]
    build([store.folder], tmp_path / "site")
    (file,) = (tmp_path / "site" / "boards").iterdir()
    cells = re.findall(r'<td class="r">(.*?)</td>', file.read_text())
    assert cells == ["1–2", "1–2", "3", "4"]


@pytest.mark.parametrize("lone", [None, ["batch-dependent"]])
def test_a_row_not_diagnosed_or_batch_dependent_has_no_rank(tmp_path: Path, lone: list[str] | None) -> None:
    store = simple_store(tmp_path / "store", {"good": (20, 12), "weak": (18, 3)})
    model = store.model("lone", 0)
    for attack, stood in (("none", 20), ("zap", 19), ("buzz", 19)):
        kind = "natural" if attack == "none" else "budget"
        store.cell(model, "lone", attack, stood, kind=kind, flags=lone)
    build([tmp_path / "store"], tmp_path / "site")
    told = "not diagnosed" if lone is None else "outputs depend on the batch"
    data = board_data(tmp_path / "site")
    assert {row["label"]: row["means"][-1] is not None for row in data["rows"]} == {
        "good": True,
        "weak": True,
        "lone": False,
    }
    board, page = (
        Page(next((tmp_path / "site" / kind).glob(pattern))).words
        for kind, pattern in (("boards", "*.html"), ("defenses", "lone*.html"))
    )
    assert f"not ranked: {told}" in page
    assert ("lone (not diagnosed)" in board) == (lone is None)
    assert ("Signs of hidden gradients: not diagnosed." in page) == (lone is None)
    file = next((tmp_path / "site" / "downloads").glob("*.csv"))
    unlooked = {line["defense"]: line["unlooked"] for line in csv.DictReader(file.read_text().splitlines())}
    assert unlooked == {"good": "", "weak": "", "lone": "not diagnosed" if lone is None else ""}


def test_partial_rows_stand_below_without_a_rank(odd: Path) -> None:
    (file,) = (odd / "boards").glob("*.html")
    data = board_data(odd)
    assert [row["means"][-1] is None for row in data["rows"]] == [False, False, False, True, True]
    partial = {row["label"]: row for row in data["rows"][3:]}
    assert partial["lone"]["status"] == f"{HOSTILE_ATTACK} missing; buzz missing"
    assert "zap failed (seed 0, 1)" in partial["good"]["status"]
    zap = [column["key"] for column in data["columns"]].index("zap")
    assert partial["good"]["cells"][zap][:2] == ["ERROR", ""]
    assert partial["good"]["cells"][-1] == ["–", ""]
    ranked, below = file.read_text(encoding="utf-8").split('<tbody class="partial">')
    assert ">lone</a>" in below
    assert ">lone</a>" not in ranked
    assert "ValueError: &lt;b&gt; &amp; 5 %" in below


def test_the_best_of_the_ranked_rows_is_marked(tmp_path: Path) -> None:
    store = simple_store(tmp_path, {"good": (16, 12), "weak": (18, 3), "same": (18, 3)})
    lone = store.model("lone", 0)
    store.cell(lone, "lone", "none", 20, kind="natural")
    store.cell(lone, "lone", "zap", 19)
    build([store.folder], tmp_path / "site")
    (file,) = (tmp_path / "site" / "boards").iterdir()
    rows = file.read_text().split("<tr ")[1:]
    marked = {
        row: re.findall(r'class="(?:n|w) best">(?:<.*?>)*([\d.]+)', text) for row, text in enumerate(rows)
    }
    assert marked[0] == ["62.5", "65.0", "62.5"]  # worst case, buzz and zap of the first row
    assert marked[1] == marked[2] == ["90.0"]  # natural
    assert marked[3] == []


def test_a_seed_that_never_ran_an_attack_makes_a_row_partial(tmp_path: Path) -> None:
    store = simple_store(tmp_path, {"good": (20, 12)})
    store.cell(store.model("good", 2), "good", "none", 20, kind="natural")
    (row,) = only_board(store).rows
    assert row.rank is None
    assert row.problem == "buzz missing (seed 2); zap missing (seed 2)"


def test_an_attack_in_its_own_ball_costs_no_rank(odd: Path) -> None:
    (row,) = [row for row in board_data(odd)["rows"] if row["label"] == "weak"]
    assert row["means"][-1] is not None
    assert row["status"] == f"{HOSTILE_ATTACK} missing"


def test_minimum_norm_attacks_count_inside_eps(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for defense, distance in (("near", 0.1), ("far", 0.2)):
        model = store.model(defense, 0)
        store.cell(model, defense, "none", 20, kind="natural")
        store.cell(model, defense, "least", 5, kind="minimum-norm", distance=distance)
    found = {row.defense: row.worst.per_seed for row in only_board(store).rows if row.worst}
    assert found == {"near": {0: 25.0}, "far": {0: 100.0}}
    build([store.folder], tmp_path / "site")
    page = next((tmp_path / "site" / "defenses").glob("far-*.html")).read_text()
    assert "Median distance" in page
    assert "0.2<" in page
    assert "Accuracy against ε" in page  # from one run


def test_two_recipes_of_a_defense_are_two_rows_told_apart(odd: Path) -> None:
    texts = sorted(
        line["setting"]
        for line in json.loads(next((odd / "downloads").glob("*.json")).read_text())
        if line["defense"] == "good" and line["attack"] == "none"
    )
    assert texts == [
        "resnet-18 of width 8, 4 epochs, lr 0.05",
        "resnet-18 of width 8, 4 epochs, lr 0.25",
    ]


def test_what_a_setting_says_anyway_is_said_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for epochs in (5, 6):
        model = store.model("good", 0, epochs=epochs)
        store.cell(model, "good", "none", 20, kind="natural")
        store.cell(model, "good", "zap", epochs)
    found = read_stores([store.folder])
    families = make_families(found, make_boards(found.records)).values()
    assert sorted(family.setting for family in families) == [
        "resnet-18 of width 8, 5 epochs",
        "resnet-18 of width 8, 6 epochs",
    ]


def test_attacks_of_one_name_and_other_parameters_are_two_columns(tmp_path: Path) -> None:
    store = Store(tmp_path)
    model = store.model("good", 0)
    store.cell(model, "good", "none", 20, kind="natural")
    for stood, parameters in ((9, {"steps": 10}), (7, {"steps": 10, "precision": "bf16"})):
        store.cell(model, "good", "zap", stood, parameters=parameters)
    board = only_board(store)
    assert len({column.label for column in board.columns}) == 3
    assert sum(" (bf16)" in column.label for column in board.columns) == 1
    assert board.rows[0].worst is not None
    assert board.rows[0].worst.per_seed == {0: 35.0}


def test_a_set_whose_cells_another_has_is_no_board(digits: Path) -> None:
    assert sorted(file.stem for file in (digits / "boards").iterdir()) == [
        "digits-l2-0-75-black-strict-100",
        "digits-l2-0-75-white-strict-100",
        "digits-linf-0-18-black-strict-100",
        "digits-linf-0-18-white-strict-100",
    ]


def test_images_and_data_keep_boards_apart(tmp_path: Path) -> None:
    for number, images in enumerate((20, 30)):
        store = Store(tmp_path / str(number), images=images)
        model = store.model("good", 0)
        store.cell(model, "good", "none", images, kind="natural")
        store.cell(model, "good", "zap", 5)
    other = Store(tmp_path / "2", images=20)
    other.data = other.data._replace(hash="e" * 64)
    model = other.model("good", 0)
    other.cell(model, "good", "none", 20, kind="natural")
    other.cell(model, "good", "zap", 5)
    boards = make_boards(read_stores([tmp_path / str(number) for number in range(3)]).records)
    assert sorted(board.images for board in boards) == [20, 20, 30]
    assert len({board.slug for board in boards}) == 3


def test_fewer_of_the_same_images_are_a_preview_without_ranks(tmp_path: Path) -> None:
    sizes = {50: {"good": 40, "weak": 3, "young": 45}, 100: {"good": 80, "weak": 6, "old": 30}}
    for images, defenses in sizes.items():
        store = Store(tmp_path / str(images), images=images)
        for defense, stood in defenses.items():
            model = store.model(defense, 0)
            store.cell(model, defense, "none", images, kind="natural")
            store.cell(model, defense, "zap", stood)
    stores = [tmp_path / str(images) for images in sizes]
    whole, preview = make_boards(read_stores(stores).records)
    assert (whole.images, whole.preview_of) == (100, "")
    assert (preview.images, preview.preview_of, preview.among) == (50, whole.slug, 100)
    assert [row.rank for row in preview.rows] == [None, None, None]
    assert [row.defense for row in preview.rows] == ["young", "good", "weak"]
    assert [row.rank for row in whole.rows] == [(1, 1), (2, 2), (3, 3)]
    build(stores, tmp_path / "site")
    first = Page(tmp_path / "site" / "index.html")
    assert "Preview, not ranked: 3 rows on the first 50 of these images" in " ".join(first.words.split())
    assert (tmp_path / "site" / "index.html").read_text().count('<article class="card">') == 1
    shown = Page(tmp_path / "site" / "boards" / f"{preview.slug}.html")
    assert "A preview: its 50 images are the first of the 100 of the whole board" in shown.words
    assert "Not ranked: a preview of the board of 100 images" in shown.words
    ranks_shown = re.findall(r'<td class="r">(.*?)</td>', shown.file.read_text())
    assert ranks_shown == ['<abbr title="not ranked">–</abbr>'] * 3
    assert "100 images" in Page(tmp_path / "site" / "boards" / f"{preview.slug}.html").words
    large = Page(tmp_path / "site" / "boards" / f"{whole.slug}.html")
    assert "50 images, preview of 100" in large.words
    assert "A preview" not in large.words
    alone = make_boards(read_stores([tmp_path / "50"]).records)
    assert [(board.preview_of, board.rows[0].rank) for board in alone] == [("", (1, 2))]


def test_one_row_on_more_images_takes_no_ranks_from_a_full_board(tmp_path: Path) -> None:
    for images, defenses in {50: ("good", "weak"), 100: ("good",)}.items():
        store = Store(tmp_path / str(images), images=images)
        for defense in defenses:
            model = store.model(defense, 0)
            store.cell(model, defense, "none", images, kind="natural")
            store.cell(model, defense, "zap", 40 if defense == "good" else 3)
    boards = make_boards(read_stores([tmp_path / "50", tmp_path / "100"]).records)
    assert [(board.images, board.preview_of) for board in boards] == [(100, ""), (50, "")]
    assert [[row.rank for row in board.rows] for board in boards] == [[(1, 1)], [(1, 1), (2, 2)]]


def test_other_questions_are_no_previews(tmp_path: Path) -> None:
    """Another ε, norm or data: boards of their own, each with ranks."""
    for number, (images, norm, eps) in enumerate([(50, "linf", 0.1), (100, "linf", 0.2), (80, "l2", 0.5)]):
        store = Store(tmp_path / str(number), images=images)
        model = store.model("good", 0, norm=norm)
        store.cell(model, "good", "none", images, kind="natural", eps=eps)
        store.cell(model, "good", "zap", 9, eps=eps)
    boards = make_boards(read_stores([tmp_path / str(number) for number in range(3)]).records)
    assert [(board.preview_of, board.rows[0].rank) for board in boards] == [("", (1, 1))] * 3


def test_comparing_says_how_long_each_was_trained(digits: Path) -> None:
    data = json.loads(Page(digits / "compare.html").scripts["compare-data"])
    trained = {(row[1], row[4]) for board in data for row in board["rows"]}
    assert {
        ("NAMID", "2 natural and 12 adversarial epochs"),
        ("Standard AT", "12 adversarial epochs"),
        ("Undefended", "12 natural epochs"),
    } <= trained


def test_flags_are_shown_with_meaning_and_threshold(odd: Path) -> None:
    (defense,) = [Page(file) for file in (odd / "defenses").iterdir() if "img" in file.name]
    for page in (defense, Page(next((odd / "boards").glob("*.html")))):
        assert "zero-gradients" in page.words
        assert "ravity" not in page.words
        assert "radient attacks cannot see where to go" in page.words
        assert "the margin has a gradient of exactly zero" in page.words
    assert "Seen in seed 0, 1" in defense.words


def test_collapsed_seeds_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = simple_store(tmp_path, {"good": (20, 12)})
    family = only_board(store).rows[0].family
    monkeypatch.setattr(
        "robustness_bench.benchmark.site.contents.families.collapsed_seeds",
        lambda records: {family: {1: "guesses <one> class"}},
    )
    build([store.folder], tmp_path / "site")
    for folder in ("boards", "defenses"):
        page = Page(next((tmp_path / "site" / folder).iterdir()))
        assert "seed 1 collapsed" in page.words
        assert "guesses <one> class" in page.words
    assert board_data(tmp_path / "site")["rows"][0]["flags"] == 1


def test_the_first_record_that_worked_counts(tmp_path: Path) -> None:
    """The same cell failed in one store and went well in another."""
    failed, well = simple_store(tmp_path / "a", {"good": (20, 12)}), tmp_path / "b"
    failed.cell(failed.model("good", 0), "good", "zap", 0, error="Traceback\nValueError: x")
    simple_store(well, {"good": (20, 12)})
    for stores in ([failed.folder, well], [well, failed.folder]):
        assert {record.status for record in read_stores(stores).records} == {"ok"}


def test_pairs_are_those_of_the_records(digits: Path) -> None:
    """Both directions of every pair of a board, from the records themselves."""
    records = [r for r in map(read_record, find_records(DIGITS)) if r.spec["norm"] == "linf"]
    folder = digits / "data" / "digits-linf-0-18-white-strict-100"
    found = {}
    for script in folder.iterdir():
        part = json.loads(script.read_text().removeprefix("benchComparisons(").removesuffix(");\n"))
        assert part["row"] == script.stem
        found[part["row"]] = part["against"]
    assert len(found) == 12
    assert all(set(against) == set(found) - {row} for row, against in found.items())
    name = {r.model_family: r.spec["defense"] for r in records}
    where = Where(dataset="digits", norm="linf", eps=0.18, threat="white")
    for one, other in (("namid", "standard"), ("standard", "namid"), ("namid-no-lambda", "trades")):
        pair = pair_of(where, one, other, records, (), {})
        row, against = ({name[r]: r for r in found}[each] for each in (one, other))
        told = found[row][against]
        assert set(told) == set(pair.common())
        for attack, (difference, interval, verdict, tests) in told.items():
            expected = compare(pair, attack)
            assert difference == points(expected.difference.mean)
            assert interval == span(expected.difference)
            assert verdict == side(expected.difference)
            assert tests == [
                [seed, test.only_first, test.only_second, p_text(test.p)]
                for seed, test in expected.tests.items()
            ]


def test_images_are_one_picture_per_cell(odd: Path) -> None:
    page = Page(next((odd / "defenses").glob("weak-*.html")))
    shown = page.all("img")
    assert len(shown) == 2  # of the cells on a board; both seeds
    assert "amplified 2 times" in shown[0]["alt"]
    assert "1 of them misclassified" in shown[0]["alt"]
    sheet = np.asarray(Image.open(page.file.parent / shown[0]["src"]))
    assert sheet.shape == (3 * 9 - 1, 4 * 9 - 1, 4)
    assert (str(sheet.shape[1]), str(sheet.shape[0])) == (shown[0]["width"], shown[0]["height"])
    ramp = np.arange(64).reshape(8, 8)
    assert np.array_equal(sheet[:8, 9:17, 0], ramp)
    assert np.array_equal(sheet[9:17, :8, 2], np.rint(ramp + 0.125 * 255))
    assert (sheet[18:26, :8, 1] == round(255 * 0.75)).all()  # 0.5 + 2 × 0.125
    assert (sheet[8, :, 3] == 0).all()
    assert (sheet[:8, :8, 3] == 255).all()
    bare = Page(next((odd / "defenses").glob("lone-*.html")))
    assert "No images were kept" in bare.words


def test_a_curve_is_drawn_from_several_eps(odd: Path) -> None:
    page = Page(next((odd / "defenses").glob("weak-*.html")))
    assert "Accuracy against ε" in page.words
    assert "zap: 90.0 % at ε 0, 5.0 % at ε 0.25" in page.words
    assert "No curve of accuracy against ε" in Page(next((odd / "defenses").glob("lone-*.html"))).words


def test_cards_give_settings_hashes_and_learning_curves(odd: Path) -> None:
    page = Page(next((odd / "defenses").glob("lone-*.html")))
    card = json.loads(next((odd.parent / "store").glob("checkpoints/*/*.json")).read_text())
    assert "training.momentum 0.9" in page.words
    assert "natural: 40.0 % at epoch 1, 70.0 % at epoch 4" in page.words
    assert len(card["sha256"]) == 60
    assert sum(len(word) == 60 for word in page.words.split()) == 2
    (hostile,) = [Page(file) for file in (odd / "defenses").iterdir() if "img" in file.name]
    assert "No learning curve" in hostile.words


def test_training_cost_stands_among_the_others(odd: Path) -> None:
    page = Page(next((odd / "defenses").glob("weak-*.html")))
    assert "This defense: 17.5 % after 14.5 s; 1 other around it." in page.words


# The command that makes it again


def commands(site: Path) -> Iterator[tuple[Path, list[str]]]:
    for file in sorted((site / "defenses").iterdir()):
        page = file.read_text(encoding="utf-8")
        for text in re.findall(r'<pre tabindex="0"><code>(bench run .*?)</code>', page):
            assert "&" not in text
            yield file, text.split()


def test_the_commands_of_digits_name_the_records(digits: Path, bench: Bench) -> None:
    found = list(commands(digits))
    cells = 0
    for file, words in found:
        assert words[:2] == ["bench", "run"]
        assert words[-2:] == ["--out", "reproduced"]
        said = bench("plan", *words[2:-1], DIGITS)
        assert said.status == 0, said.err
        number, done, todo = map(int, re.findall(r"\d+", said.out.splitlines()[0]))
        assert (done, todo) == (number, 0), words
        assert f"exactly the ids of all {number} records" in Page(file).words
        cells += number
    assert cells == len(find_records(DIGITS))
    assert len(found) == 20  # the undefended model stands on boards of two norms


def fake_run(folder: Path, overrides: dict[str, Any]) -> list[Task]:
    """Records with the real ids of a protocol, and figures that are made up."""
    base: dict[str, Any] = {
        "defenses": ["namid"], "datasets": ["digits"], "norms": ["linf"], "seeds": 1,
        "attacks": {"strict": {"linf": ["none", "pgd-40", "aa"]}, "paper": {"linf": ["none", "pgd-40"]}},
    }  # fmt: skip
    data = {"digits": locate("digits", Path("data"))}
    tasks = make_plan(load_protocol(None, {**base, **overrides}), data)
    for task in tasks:
        if task.kind == "evaluate":
            n = task.spec["n_examples"]
            rows = dict.fromkeys(("label", "clean_prediction", "adversarial_prediction"), np.ones(n, int))
            rest = dict.fromkeys(("linf", "l2", "l1", "forwards", "backwards"), np.ones(n))
            rows = {"sample": np.arange(n), **rows, **rest}
            write_record(folder / task.path, task, rows, environment=ENVIRONMENT, seconds=1.0)
        elif task.kind in ("train", "estimators"):
            card = {"format": 1, "id": task.id, "seed": task.seed, "spec": task.spec, "sha256": "0" * 64,
                    "history": [], "epoch": 1, "environment": ENVIRONMENT, "seconds": 1.0}  # fmt: skip
            path = (folder / task.path).with_suffix(".json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(card))
    return [task for task in tasks if task.kind == "evaluate"]


@pytest.mark.parametrize(
    ("overrides", "configured"),
    [
        ({}, False),
        ({"training": {"epochs": 3}, "estimators": {"epochs": 3}}, False),
        ({"training": {"train_limit": 100}, "model": {"width": 4}}, False),
        ({"schedule": "fast"}, False),
        ({"eps": {"linf": 0.1}, "seeds": 2, "n_examples": 7}, False),
        ({"attack_set": "paper", "attack_precision": "bf16"}, False),
        ({"curve": {"attacks": ["pgd-40"]}}, False),
        ({"defenses": ["wmim"]}, False),  # whose estimators have an objective of their own
        ({"training": {"lr": 0.07}}, True),
        ({"training": {"milestones": [0.5]}}, True),
        ({"estimators": {"units": 64}}, True),
        ({"model": {"name": "vgg-19"}}, True),
        ({"surrogate": {"width": 4}}, True),
    ],
)
def test_the_command_has_the_ids_of_the_records(
    overrides: dict[str, Any], configured: bool, tmp_path: Path, bench: Bench
) -> None:
    tasks = fake_run(tmp_path / "store", overrides)
    build([tmp_path / "store"], tmp_path / "site")
    ((file, words),) = commands(tmp_path / "site")
    assert f"exactly the ids of all {len(tasks)} records" in Page(file).words
    configs = list((tmp_path / "site" / "reproduce").glob("*.toml"))
    assert len(configs) == configured
    if configured:
        assert tomllib.loads(configs[0].read_text())["seeds"] == 1
        place = words.index("--config") + 1
        assert words[place] == configs[0].name
        words[place] = str(configs[0])
    said = bench("plan", *words[2:-1], tmp_path / "store")
    assert said.out.splitlines()[0] == f"{len(tasks)} cells, {len(tasks)} done, 0 to do", said.err


def test_a_command_that_misses_records_says_so(tmp_path: Path) -> None:
    """The cards say another recipe than the records were made with."""
    fake_run(tmp_path / "store", {})
    for path in (tmp_path / "store").glob("checkpoints/*/namid-*.json"):
        card = json.loads(path.read_text())
        card["spec"]["training"]["epochs"] = 99
        path.write_text(json.dumps(card))
    build([tmp_path / "store"], tmp_path / "site")
    ((file, _),) = commands(tmp_path / "site")
    assert "has the ids of 0 of the 6 records" in Page(file).words


def test_given_weights_are_named(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    fake_run(tmp_path / "store", {"defenses": ["standard"], "weights": str(weights), "threats": ["white"]})
    path = next((tmp_path / "store").glob("records/**/*.parquet"))
    record = read_record(path)
    data = {"digits": locate("digits", Path("data"))}
    protocol = load_protocol(
        None, {"defenses": ["standard"], "datasets": ["digits"], "norms": ["linf"], "weights": str(weights)}
    )
    (load, *_) = [task for task in make_plan(protocol, data) if task.kind == "load"]
    assert record.spec["parents"]["model"] == load.id
    card = {"format": 1, "id": load.id, "spec": load.spec, "seed": 0, "sha256": "1" * 64,
            "environment": ENVIRONMENT}  # fmt: skip
    target = (tmp_path / "store" / load.path).with_suffix(".json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(card))
    found = read_stores([tmp_path / "store"])
    (family,) = make_families(found, make_boards(found.records)).values()
    (recipe,) = recipes(family, found, "x")
    assert "--weights FILE" in recipe.command
    assert recipe.exact is None
    assert load.spec["weights"] in recipe.note


def test_a_submission_is_shown_as_what_it_says_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustness_bench.defenses.registry._registered", {})
    sent = Submission(
        name="Theirs", authors=("Ada", "Alan"), paper="https://example.org/a?b=1", licence="MIT",
        contact="a@example.org", dataset="digits", notes=f"Noted {HOSTILE}", norm="linf", eps=0.125,
        architecture="own", width=0, weights="w.safetensors", sha256="0" * 64, weights_plain=False,
        forward_passes=1, randomised=False, real=0, synthetic=50_000, claimed={"aa": 61.5},
    )  # fmt: skip
    entry = Entry(submission=sent, network="1" * 64)
    add_entry(tmp_path, entry)
    simple_store(tmp_path, {entry.defense: (20, 12)})
    build([tmp_path], tmp_path / "site")
    (file,) = (tmp_path / "site" / "defenses").iterdir()
    page = Page(file)
    assert f"Noted {HOSTILE}" in page.words
    assert "authors Ada, Alan" in page.words
    assert "claimed, aa 61.5 %" in page.words
    assert "bench submit run" in page.words
    assert ("a", {"href": sent.paper, "rel": "noopener noreferrer"}) in page.elements
    assert not page.all("b")


@pytest.mark.parametrize("own", [False, True])
def test_weights_of_others_are_named_by_their_hash(own: bool) -> None:
    """The card of a "load" task, with or without a network of its own."""
    network = (
        {"model": "own", "network": "2" * 64} if own else {"model": "resnet-18", "width": 8, "plain": True}
    )
    _, options, note = _loading({}, {"kind": "load", "weights": "1" * 64, **network})
    plain = ["--width", "8", "--weights-plain"]
    assert options == ["--weights", "FILE", *(["--network", "CODE.py", "--trust-code"] if own else plain)]
    assert ("1" * 64 in note, "2" * 64 in note) == (True, own)
    assert _loading({}, {"model": "robustbench:Some"})[1] == ["--weights", "robustbench:Some"]


def test_a_defense_that_is_not_installed_has_no_command(odd: Path) -> None:
    assert not list(commands(odd))
    assert "--plugin FILE" in Page(next((odd / "defenses").glob("lone-*.html"))).words


# Small parts


def test_papers_are_linked_and_nothing_else() -> None:
    assert names.paper("Zhou et al. 2022, arXiv:2207.12203; α") == "https://arxiv.org/abs/2207.12203"
    assert names.paper("Wang 2020, openreview rklOg6EFwS; β") == "https://openreview.net/forum?id=rklOg6EFwS"
    assert names.paper("https://example.org/a") == "https://example.org/a"
    for source in ("javascript:alert(1) arXiv:x", "http://example.org/", "https://a/ b", 'https://a/"x'):
        assert names.paper(source) == ""


def test_a_strip_is_drawn_to_scale() -> None:
    drawing = strip(40.0, 60.0, 50.0, [45.0, 55.0])
    assert 'd="M40.0 8H60.0"' in drawing
    assert 'd="M50.0 1v14"' in drawing
    assert 'd="M45.0 8h0M55.0 8h0"' in drawing


def test_axes_are_linear_or_logarithmic() -> None:
    axis = percent_axis("%")
    assert axis.ticks() == [0, 20, 40, 60, 80, 100]
    assert axis.share(25.0) == 0.25
    log = log_axis("s", [1.0, 100.0])
    assert log.share(10.0) == pytest.approx(0.5)
    assert log.ticks() == [1, 2, 5, 10, 20, 50, 100] or log.ticks() == [1, 10, 100]
    assert Axis("epoch", 0, 12).ticks() == [0, 2, 4, 6, 8, 10, 12]


def test_higher_figures_are_drawn_higher() -> None:
    series = [Series(f"<{style}>", [(0.0, 10.0), (1.0, 90.0)], style) for style in range(3)]
    plot = Plot("x", "<title>", "d", Axis("x", 0.0, 1.0), percent_axis("y"), series, (), [(0.5, 50.0, "<p>")])
    drawing = draw(plot)
    lines = re.findall(r'class="line" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"( stroke-dasharray)?', drawing)
    assert len(lines) == 3
    for x0, y0, x1, y1, _ in lines:
        assert float(x0) < float(x1)
        assert float(y0) > float(y1)
    assert [bool(dash) for *_, dash in lines] == [False, True, True]  # told apart without colour
    assert len(set(re.findall(r'class="mark" d="M[\d.]+ [\d.]+(\w)', drawing))) >= 2
    assert "&lt;title&gt;" in drawing
    assert "&lt;p&gt;" in drawing


# The command line


def test_build_says_what_it_made(tmp_path: Path) -> None:
    store = simple_store(tmp_path / "store", {"good": (20, 12), "weak": (18, 3)})
    said = CliRunner().invoke(app, ["build", str(store.folder), "--out", str(tmp_path / "site")])
    assert said.exit_code == 0
    assert re.fullmatch(r"1 board, 2 defenses, 12 cells: \S+site/index\.html \(\d+\.\d s\)\n", said.output)


def test_build_takes_the_stores_below_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["build"])
    assert isinstance(said.exception, BenchError)
    simple_store(tmp_path / "results" / "one", {"good": (20, 12)})
    simple_store(tmp_path / "results" / "two", {"weak": (18, 3)})
    assert "2 defenses" in CliRunner().invoke(app, ["build"]).output
    assert (tmp_path / "site" / "index.html").is_file()


def test_serve_answers_on_this_machine_only(odd: Path) -> None:
    with server(odd, 0) as running:
        assert running.server_address[0] == "127.0.0.1"
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{running.server_port}/"
        with urllib.request.urlopen(address) as answer:
            assert answer.read() == (odd / "index.html").read_bytes()
        with pytest.raises(BenchError, match="choose another --port"):
            server(odd, running.server_port)
        running.shutdown()
        thread.join()


def test_serve_without_a_site(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no site in"):
        server(tmp_path / "nothing", 0)
    (tmp_path / "index.html").touch()
    with pytest.raises(BenchError, match="--port"):
        server(tmp_path, 70000)


def test_ctrl_c_ends_serving(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", interrupted)
    said = CliRunner().invoke(app, ["serve", str(odd), "--port", "0"])
    assert said.exit_code == 0
    assert re.match(r"http://127\.0\.0\.1:\d+/ \(Ctrl-C ends it\)", said.output)


def test_rows_are_frozen_values(tmp_path: Path) -> None:
    board = only_board(simple_store(tmp_path, {"good": (20, 12)}))
    with pytest.raises(dataclasses.FrozenInstanceError):
        board.rows[0].rank = None  # type: ignore[misc]
