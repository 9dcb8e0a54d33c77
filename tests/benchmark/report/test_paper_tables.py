"""Tables 1 to 6 of the NAMID paper: their figures by hand, golden files of every renderer, the verb."""

import csv
import dataclasses
import io
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.cli.shared.options import Request
from robustness_bench.benchmark.cli.tables import command, tables
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.errors import BenchError, DataError
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import make_plan
from robustness_bench.benchmark.report.lines.results import Line
from robustness_bench.benchmark.report.literature.published import published
from robustness_bench.benchmark.report.paper import tables as paper
from robustness_bench.benchmark.report.paper.cells import Block, PaperCell
from robustness_bench.benchmark.report.paper.namid import NAMID
from robustness_bench.benchmark.report.rendering.formats import (
    latex_escape,
    latex_label,
    markdown_escape,
    to_html,
    to_latex,
    to_markdown,
    to_text,
)
from robustness_bench.benchmark.report.rendering.table import Cell, Table
from robustness_bench.benchmark.statistics import mean_std, wilson
from robustness_bench.benchmark.store.cells import write_record
from tests.benchmark.report.test_report import check_golden

Values = list[float] | str


def line(
    defense: str,
    attack: str,
    values: Values,
    *,
    norm: str = "linf",
    eps: float = 8 / 255,
    threat: str = "white",
    images: int = 10000,
    far: list[float] | None = None,
    flags: tuple[str, ...] = (),
) -> Line:
    """Accuracies per seed, or the error of seed 1; ``far``: those at any distance."""
    failed = isinstance(values, str)
    good = [50.0] if isinstance(values, str) else values
    per_seed: dict[int, float | None] = {**dict(enumerate(good)), **({1: None} if failed else {})}
    return Line(
        dataset="x",
        norm=norm,
        eps=eps,
        threat=threat,
        defense=defense,
        attack=attack,
        sets=("strict",),
        kind=attack_presets("paper")[attack].kind,
        bounded=None if failed else mean_std(good),
        unbounded=mean_std(far) if far else None,
        median_distance=None,
        forwards=1.0,
        backwards=1.0,
        flags=flags,
        per_seed=per_seed,
        images=images,
        error=values if isinstance(values, str) else "",
        setting="0123456789ab",
    )


def block(dataset: str, *lines: Line, label: str = "", images: int = 10000, **overrides: Any) -> Block[Line]:
    (settings,) = load_protocol(None, {"datasets": [dataset], **overrides}).settings
    return Block(settings=settings, label=label or dataset, images=images, available=10000, lines=lines)


def says(cells: Sequence[PaperCell[Line]]) -> str:
    return command(Request(out=Path("a b|c")), NAMID, cells, 2)


def cells_of(number: str, *blocks: Block[Line], beside: bool) -> list[PaperCell[Line]]:
    return paper.cells_of(NAMID, NAMID.layout(number), blocks, beside=beside)


def made(number: str, *blocks: Block[Line], beside: bool = False, seeds: int = 2) -> Table:
    cells = cells_of(number, *blocks, beside=beside)
    return paper.paper_table(NAMID, NAMID.layout(number), cells, seeds=seeds, beside=beside, remedy=says)


def row(table: Table, *labels: str) -> list[str]:
    """The texts of the row of that label, or of the one of the second label below it."""
    names = [each.label for each in table.rows]
    start = names.index(labels[0])
    return [cell.text for cell in table.rows[start + names[start:].index(labels[-1])].cells]


def cell_of(table: Table, defense: str, minor: str, index: int) -> Cell:
    names = [each.label for each in table.rows]
    start = names.index(defense)
    return table.rows[start + names[start:].index(minor)].cells[index]


def only(number: str, column: str, blocks: Block[Line], *, beside: bool = True) -> PaperCell[Line]:
    """The Standard-AT cell under one attack."""
    cells = cells_of(number, blocks, beside=beside)
    return next(c for c in cells if (c.row.key, c.column.key) == ("standard", column))


@pytest.fixture
def stacked() -> Table:
    """Two data sets with something of everything."""
    cifar = block(
        "cifar10",
        line("standard", "none", [84.0, 85.0], norm="l2", eps=0.5),
        line("standard", "pgd-40", [61.0, 62.0], norm="l2", eps=0.5, flags=("zero-gradients",)),
        line("wmim", "none", [81.0, 81.5], norm="l2", eps=0.5),
        line("namid", "none", [83.0, 84.0], norm="l2", eps=0.5),
        line("namid", "pgd-40", "ValueError: <b> & 5 % | `x`", norm="l2", eps=0.5),
        line("namid", "cw", [60.0, 61.0], norm="l2", eps=0.5, far=[30.0, 31.0]),
        line("trades", "pgd-40", [20.0, 21.0], norm="l2", eps=0.5),
        line("trades", "none", [80.0, 81.0], norm="linf"),  # another norm's
        line("trades", "cw", [10.0, 11.0], norm="l2", eps=0.5, threat="black"),  # another threat's
    )
    tiny = block(
        "tiny-imagenet",
        line("mart", "none", [48.0, 49.0], norm="l2", eps=0.5, images=200),
        line("namid-m", "none", [48.0, 49.0], norm="l2", eps=0.5, images=200),
        label="tiny_#1",
        images=200,
        n_examples=200,
    )
    return made("4", cifar, tiny, beside=True)


@pytest.mark.parametrize(
    ("name", "render"),
    [
        ("paper.txt", to_text),
        ("paper.html", to_html),
        ("paper.tex", to_latex),
        ("paper.md", to_markdown),
    ],
)
def test_golden(stacked: Table, name: str, render: Any) -> None:
    check_golden(name, render(stacked))


def test_golden_csv() -> None:
    cifar = block(
        "cifar10",
        line("standard", "none", [83.0, 84.0]),
        line("standard", "pgd-40", 'ValueError: no, "really"'),
        line("trades", "aa", [70.0]),
    )
    check_golden("paper.csv", paper.to_csv(NAMID, cells_of("3", cifar, beside=True)))


def test_csv_has_no_seed_by_seed_figures_at_any_distance() -> None:
    """Those of a line are within ε."""
    cw = line("standard", "cw", [60.0, 61.0], norm="l2", eps=0.5, far=[30.0, 31.0])
    for attack_set, mean, per_seed in (
        ("paper", "30.5000", ""),
        ("strict", "60.5000", "0:60.0000 1:61.0000"),
    ):
        cells = cells_of("4", block("cifar10", cw, attack_set=attack_set), beside=False)
        (found,) = csv.DictReader(paper.to_csv(NAMID, [c for c in cells if c.line]).splitlines())
        assert (found["mean"], found["per_seed"]) == (mean, per_seed)


def test_ours_published_and_difference() -> None:
    table = made("3", block("cifar10", line("standard", "aa", [38.0, 39.0])), beside=True)
    assert row(table, "Standard AT")[2] == "38.50 ± 0.71"
    assert row(table, "Standard AT", "published")[2] == "39.01 ± 0.51"
    assert row(table, "Standard AT", "difference")[2] == "−0.51 ≈"
    assert row(table, "NAMID")[2] == ""
    assert row(table, "NAMID", "published")[2] == "39.26 ± 0.56"
    assert "difference" not in [each.label for each in table.rows[3:]]


def test_means_alone_where_the_paper_prints_means_alone() -> None:
    cifar = block("cifar10", line("standard", "none", [84.0, 85.0], threat="black"))
    table = made("2", cifar, beside=True)
    assert row(table, "Standard AT")[0] == "84.50"
    assert row(table, "Standard AT", "published")[0] == "83.39"
    assert row(table, "Standard AT", "difference")[0] == "+1.11 ≈"


def test_a_difference_of_zero_has_no_sign() -> None:
    table = made("3", block("cifar10", line("standard", "none", [83.388])), beside=True)
    assert row(table, "Standard AT", "difference")[0] == "0.00 ≈"


@pytest.mark.parametrize(
    ("values", "images", "number", "inside"),
    [
        # Table 3 prints 39.01 ± 0.51, and its ± does not count; Wilson of 50 of 100: 40.38 to 59.62
        ([50.0], 100, "3", False),
        ([49.0], 100, "3", False),  # 39.42: 38.50 to 39.52 would meet it
        ([48.0], 100, "3", True),  # 38.46
        ([30.0], 100, "3", True),  # to 39.58
        ([29.0], 100, "3", False),  # to 38.51
        ([48.0, 52.0], 100, "3", True),  # the seeds' spread, 2.83, takes it to 37.55
        ([49.0], 100, "1", False),  # Table 1 prints 39.01 without one: the same verdicts
        ([48.0], 100, "1", True),
        ([39.02], 10000, "1", True),
        ([41.0], 10000, "1", False),
        ([41.0], 10000, "3", False),
        ([0.0], 10, "1", False),  # 0 to 27.75
        ([100.0], 10, "1", False),
    ],
)
def test_inside_by_hand(values: list[float], images: int, number: str, inside: bool) -> None:
    cell = only(number, "aa", block("cifar10", line("standard", "aa", values, images=images)))
    assert cell.inside is inside
    low, high = cell.interval or (0, 0)
    share = wilson(sum(values) / len(values) / 100 * images, images)
    spread = mean_std(values).std or 0.0
    assert (low, high) == pytest.approx(
        (max(0.0, 100 * share.low - spread), min(100.0, 100 * share.high + spread))
    )


def test_the_best_of_each_group_column_by_column() -> None:
    cifar = block(
        "cifar10",
        line("standard", "none", [80.0]),
        line("wmim", "none", [80.004]),  # the same as shown
        line("namid", "none", [79.0]),
        line("trades", "none", [70.0]),
        line("namid-t", "none", [69.0]),
        line("mart", "none", [60.0]),
        line("namid-m", "none", [60.0]),
        line("standard", "aa", [10.0]),
        line("wmim", "aa", "Error"),
        line("namid", "aa", [30.0]),
    )
    table = made("1", cifar, seeds=1)
    best = {(each.label, i) for each in table.rows for i, cell in enumerate(each.cells) if cell.best}
    assert best == {("Standard AT", 0), ("WMIM", 0), ("TRADES", 0), ("NAMID", 2)}


def test_a_mean_over_fewer_seeds_than_asked_for_is_marked_and_never_the_best() -> None:
    cifar = block(
        "cifar10",
        line("standard", "none", [80.0, 82.0]),
        line("wmim", "none", [90.0]),
        line("namid", "none", [79.0, 79.0]),
    )
    table = made("1", cifar, seeds=2)
    whole, partial = table.rows[0].cells[0], table.rows[1].cells[0]
    assert (whole.best, whole.marks) == (True, ())
    assert (partial.text, partial.best) == ("90.00", False)
    (note,) = [note for note in table.notes if note.mark in partial.marks]
    assert note.text == "mean over 1 of the 2 seeds asked for"


def test_the_published_best_is_the_papers() -> None:
    table = made("2", block("cifar10"), beside=True)
    assert [cell.best for cell in table.rows[5].cells] == [True] * 4  # NAMID
    assert not any(cell.best for each in table.rows[:5] for cell in each.cells)


def test_an_error_is_never_a_number(stacked: Table) -> None:
    cell = cell_of(stacked, "NAMID", "NAMID", 1)
    assert (cell.text, cell.best) == ("ERROR", False)
    (note,) = [note for note in stacked.notes if note.mark in cell.marks]
    assert note.text == "failed: ValueError: <b> & 5 % | `x`"
    assert cell_of(stacked, "NAMID", "difference", 1).text == ""


def test_minimum_norm_attacks_are_read_as_the_set_says() -> None:
    cw = line("standard", "cw", [60.0, 61.0], norm="l2", eps=0.5, far=[30.0, 31.0])
    strict = made("4", block("cifar10", cw), beside=True)
    assert strict.columns[2].label == "CW ≤ε"
    assert row(strict, "Standard AT")[2] == "60.50 ± 0.71"
    assert "CW and DDN: only images within ε count (≤ε)." in strict.caption
    difference = cell_of(strict, "Standard AT", "difference", 2)
    assert difference.text == "+29.54"
    assert difference.marks == cell_of(strict, "Standard AT", "published", 2).marks == ("a",)
    assert "not comparable: the published figure counts images at any distance" in strict.notes[0].text
    paper = made("4", block("cifar10", cw, attack_set="paper"), beside=True)
    assert paper.columns[2].label == "CW any"
    assert row(paper, "Standard AT")[2] == "30.50 ± 0.71"
    assert "images at any distance count, as in the published tables" in paper.caption
    assert cell_of(paper, "Standard AT", "difference", 2) == Cell(text="−0.46 ≈")
    assert paper.name == "table-4-cifar10-paper"


def test_another_budget_cannot_be_compared() -> None:
    near = line("standard", "aa", [39.0], eps=0.1)
    cell = only("3", "aa", block("cifar10", near, eps={"linf": 0.1}))
    assert cell.inside is None
    assert cell.obstacle == "not comparable: ε = 8/255 in the paper, 0.1 here"
    assert only("3", "aa", block("cifar10", near, eps={"linf": 0.1}), beside=False).obstacle == ""


def test_the_contradiction_is_marked_where_it_is_shown() -> None:
    for number, column in (("1", 2), ("3", 2)):
        table = made(number, block("tiny-imagenet"), beside=True)
        (mark,) = cell_of(table, "TRADES", "published", column).marks
        (text,) = [note.text for note in table.notes if note.mark == mark]
        assert "12.36 in Table 1" in text
        assert "12.63 in Table 3" in text


def test_few_images_have_one_decimal() -> None:
    table = made("3", block("cifar10", line("standard", "aa", [38.25], images=400), images=400), beside=True)
    assert row(table, "Standard AT")[2] == "38.2"
    assert row(table, "Standard AT", "published")[2] == "39.01 ± 0.51"
    assert row(table, "Standard AT", "difference")[2] == "−0.8 ≈"


def test_what_is_short_of_seeds_is_named_with_its_command() -> None:
    cifar = block(
        "cifar10",
        *(line(d, a, [50.0, 51.0], threat="black") for d in ("standard", "wmim") for a in ("none", "pgd-40")),
        *(line("namid", a, [50.0, 51.0], threat="black") for a in ("none", "pgd-40", "fwa-40")),
        line("standard", "fwa-40", [50.0], threat="black"),
        line("wmim", "fwa-40", "Error", threat="black"),
        *(line(d, "aa", [50.0, 51.0], threat="black") for d in ("standard", "wmim", "namid")),
    )
    table = made("2", cifar)
    (note,) = table.notes[-1:]
    assert note.text == (
        "cifar10, L∞: 2 cells lack one or more of the 2 seeds asked for. This runs what is missing:"
    )
    assert shlex.split(note.command) == [
        *("bench", "run", "--defense", "standard,wmim", "--dataset", "cifar10", "--norm", "linf"),
        *("--attacks", "fwa-40", "--threat", "black", "--seeds", "2", "--out", "a b|c"),
    ]
    assert "1 to 2 training seeds" in table.caption
    assert "Blank" not in table.caption
    assert not [note for note in made("2", cifar, seeds=1).notes if note.command]


def test_each_data_set_and_norm_has_a_command_of_its_own() -> None:
    cells = cells_of("1", block("cifar10"), block("digits"), beside=False)
    found = [(gap[0].block.label, gap[0].column.group, len(gap)) for gap in paper.gaps(NAMID, cells, 1)]
    assert found == [
        ("cifar10", "linf", 35),
        ("cifar10", "l2", 28),
        ("digits", "linf", 35),
        ("digits", "l2", 28),
    ]


def notes(table: Table) -> str:
    return " / ".join(note.text for note in table.notes)


def test_what_the_paper_does_not_have_is_said() -> None:
    table = made("3", block("digits", line("standard", "aa", [50.0], eps=0.18)), beside=True)
    assert "The paper has no figures for digits." in notes(table)
    assert not any(each.minor for each in table.rows)
    assert "Difference" not in table.caption
    tiny = made("2", block("tiny-imagenet"), beside=True)
    assert "The paper has Tiny-ImageNet elsewhere, not in this table." in notes(tiny)
    assert "no figures" not in notes(made("3", block("digits"), beside=False))


def test_a_variant_of_a_data_set_is_said_to_be_one() -> None:
    cifar = block("cifar10", line("standard", "aa", [39.0]), label="cifar10-jpeg", attack_set="paper")
    table = made("3", cifar, beside=True)
    assert "cifar10-jpeg was read in the place of cifar10" in notes(table)
    assert row(table, "Standard AT", "published")[2] == "39.01 ± 0.51"
    assert "departs" not in notes(table)


def test_departures_from_the_papers_setting() -> None:
    cifar = block(
        "cifar10",
        line("standard", "aa", [39.0], images=100),
        images=100,
        schedule="fast",
        model={"width": 16},
        eps={"linf": 0.1},
    )
    assert (
        "cifar10 departs from the paper's setting: attacks of the set strict, "
        "resnet-18 of width 16, schedule fast, 100 of 10000 test images, "
        "L∞ ε = 0.1 for 8/255."
    ) in notes(made("3", cifar, beside=True))
    assert "departs" not in notes(made("3", cifar, beside=False))
    other = block("cifar10", *cifar.lines, attack_set="paper", surrogate={"width": 8})
    assert "departs from the paper's setting: surrogate vgg-19 of width 8." in notes(
        made("3", other, beside=True)
    )


def test_captions_say_what_was_measured(stacked: Table) -> None:
    for part in (
        "White box: accuracy in %, mean ± sample standard deviation over training seeds",
        "cifar10: 10000 test images, 2 training seeds, L2 ε = 0.5, attacks of the set strict, ",
        "resnet-18 of width 64, 100 epochs (schedule namid-paper).",
        "tiny_#1: 200 test images, 2 training seeds",
        "95 % Wilson interval",
        "Flagged: cifar10 × Standard AT: zero-gradients.",
        "Blank: not run.",
    ):
        assert part in stacked.caption, part
    black = made("5", block("cifar10", line("standard", "aa", [39.0], threat="black")))
    assert "images crafted once on a Standard-AT vgg-19" in black.caption


def test_budgets_stand_in_the_heading_only_if_shared() -> None:
    one = made("4", block("cifar10"), block("tiny-imagenet"))
    assert one.columns[0].group == "L2 (ε = 0.5)"
    assert "cifar10: no results at L2 ε = 0.5." in one.caption
    two = made("4", block("cifar10"), block("digits", line("standard", "none", [50.0], norm="l2", eps=0.75)))
    assert two.columns[0].group == "L2"
    assert "L2 ε = 0.75" in two.caption


def test_data_sets_are_ruled_off_though_the_group_goes_on() -> None:
    table = made("6", block("cifar10"), block("tiny-imagenet"))
    lines = to_text(table).splitlines()
    assert lines[lines.index("tiny-imagenet") - 1].startswith("──")
    assert to_html(table).count("<tbody>") == 2
    assert to_latex(table).count(r"\midrule") == 2
    assert "|  |  |  |  |  |\n| **tiny-imagenet** |" in to_markdown(table)


def test_letters_go_on_after_z() -> None:
    errors = [
        line(d, a, f"error {d} {a}")
        for d in ("standard", "wmim", "namid", "trades", "mart", "namid-t")
        for a in ("none", "pgd-40", "aa", "fwa-40", "ti-dim")
    ]
    marks = [note.mark for note in made("3", block("cifar10", *errors)).notes if note.mark]
    assert marks[:2] + marks[25:28] == ["a", "b", "z", "aa", "ab"]


HOSTILE = "x|<i>_#$&%\\`*é日"


def test_names_from_outside_are_escaped() -> None:
    table = made("3", block("cifar10", line("standard", "aa", f"E: {HOSTILE}\n"), label=HOSTILE), beside=True)
    page = to_html(table)
    assert "<i>" not in page
    assert "&lt;i&gt;" in page
    assert markdown_escape(HOSTILE) == "x\\|&lt;i&gt;\\_\\#\\$&amp;%\\\\\\`\\*é日"
    lines = to_markdown(table).splitlines()
    columns = {each.replace("\\|", "").count("|") for each in lines if each.startswith("|")}
    assert columns == {7}
    assert "<i>" not in to_markdown(table)
    assert latex_escape("<≈≠−|日é") == r"\textless{}$\approx$$\neq$$-$\textbar{}?é"
    assert latex_label("table-1-a") == "table-1-a"
    assert latex_label("a%b") != latex_label("a#b")
    assert latex_label("a%b").startswith("a-b-")


def test_a_note_cannot_begin_a_list_nor_end_a_fence() -> None:
    table = dataclasses.replace(made("3", block("cifar10")), caption="- x", notes=())
    assert "\n&#45; x\n" in to_markdown(table)
    named = made("3", block("digits", label="- x"), beside=True)
    assert "\n&#45; x, L∞: 35 cells" in to_markdown(named)
    hostile = made("3", block("cifar10"))
    note = dataclasses.replace(hostile.notes[-1], command="a ```` b")
    text = to_markdown(dataclasses.replace(hostile, notes=(note,)))
    assert "`````console\n$ a ```` b\n`````" in text


class _Tags(HTMLParser):
    """Every element closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given["href"] or ""] if "href" in given else []
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("beside", [False, True])
def test_html_is_whole_and_asks_for_nothing(stacked: Table, beside: bool) -> None:
    page = to_html(stacked if beside else made("1", block("digits"), block("cifar10")))
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    assert len(set(tags.ids)) == len(tags.ids)
    assert {link.removeprefix("#") for link in tags.links} <= set(tags.ids)
    assert "http" not in page
    assert "<script" not in page
    assert "@media print" in page


@pytest.mark.latex
@pytest.mark.parametrize("columns", ["onecolumn", "twocolumn"])
@pytest.mark.parametrize("beside", [False, True])
def test_latex_compiles(stacked: Table, tmp_path: Path, columns: str, beside: bool) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex (Debian: texlive-latex-base and -recommended)")
    every = [
        [
            line(
                f.row, f.column, [f.mean, f.mean + 1, f.mean - 1], norm=f.group, threat=f.threat, far=[f.mean]
            )
            for f in published("namid")
            if (f.dataset, f.std is None) == (dataset, False)
        ]
        for dataset in ("cifar10", "tiny-imagenet")
    ]
    both = [block("cifar10", *every[0], label=HOSTILE), block("tiny-imagenet", *every[1])]
    pages = [made(number, *both, beside=beside) for number in NAMID.numbers]
    for index, table in enumerate([stacked, *pages] if beside else pages):
        (tmp_path / f"table{index}.tex").write_text(to_latex(table), encoding="utf-8")
    inputs = "".join(rf"\input{{table{index}}}\clearpage " for index in range(len(pages) + beside))
    (tmp_path / "paper.tex").write_text(
        rf"\documentclass[{columns}]{{article}}\usepackage{{booktabs,graphicx}}"
        rf"\begin{{document}}Text.{inputs}\end{{document}}"
    )
    process = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    done = subprocess.run(process, cwd=tmp_path, capture_output=True, check=False)
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-2000:]
    for fault in ("Overfull", "too large", "multiply defined", "Missing character"):
        assert fault not in said, said


def test_data_needs_neither_torch_nor_matplotlib() -> None:
    program = (
        "import sys, robustness_bench.benchmark.cli.tables, "
        "robustness_bench.benchmark.report.rendering.formats; "
        "from robustness_bench.benchmark.report.paper import namid; "
        "sys.exit(bool({'torch', 'matplotlib'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def fill(request: Request) -> None:
    """Records of all that is asked for, without any work: half of the images survive, at other ε all."""
    protocol = request.protocol()
    data = {"digits": locate("digits", Path("data"))}
    n = request.n_examples or 0
    facts = {
        "sample": np.arange(n),
        "label": np.ones(n, int),
        "clean_prediction": np.ones(n, int),
        "adversarial_prediction": np.arange(n) % 2,
        **{name: np.zeros(n) for name in ("linf", "l2", "l1", "forwards", "backwards")},
    }
    for task in make_plan(protocol, data):
        if task.kind == "evaluate":
            nominal = task.spec["eps"] == protocol.settings[0].eps[task.spec["norm"]]
            rows = facts if nominal else {**facts, "adversarial_prediction": np.ones(n, int)}
            write_record(request.out / task.path, task, rows, environment={}, seconds=0.0)


def options(**changes: Any) -> Request:
    return dataclasses.replace(Request(dataset=["digits"], n_examples=4, width=2), **changes)


def call(request: Request, **more: Any) -> None:
    """The verb as typer calls it."""
    given = {each.name: getattr(request, each.name) for each in dataclasses.fields(Request)}
    tables(**given, **{"table": None, "formats": None, "published": False, **more})


def requested(text: str) -> Request:
    """The request that a printed command spells."""
    words = shlex.split(text)
    given = dict(zip(words[2::2], words[3::2], strict=True))
    return options(
        defense=[given["--defense"]],
        norm=[given["--norm"]],
        attacks=[given["--attacks"]],
        threat=[given["--threat"]],
        seeds=int(given["--seeds"]),
        n_examples=int(given["--n-examples"]),
        width=int(given["--width"]),
        out=Path(given["--out"]),
    )


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_its_own_commands_fill_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BenchError, match="no results for Table 1 in") as refusal:
        call(options(out=tmp_path, seeds=2), table=["1"])
    first, second = str(refusal.value).partition(": run ")[2].split(" and bench ")
    fill(requested(first))
    call(options(out=tmp_path, seeds=2), table=["1"], formats=["csv"])
    said = [each.strip() for each in capsys.readouterr().out.splitlines()]
    (asked,) = [each for each in said if each.startswith("bench run")]
    assert asked == f"bench {second}"
    assert [asked.count(flag) for flag in ("--seeds", "--dataset", "--width")] == [1, 1, 1]
    fill(requested(asked))
    call(options(out=tmp_path, seeds=2), table=["1"], formats=["csv"])
    assert "bench run" not in capsys.readouterr().out
    cells = read(tmp_path / "tables" / "table-1-digits.csv")
    assert tuple(cells[0]) == NAMID.columns
    assert len(cells) == 63
    assert {cell["mean"] for cell in cells} == {"50.0000"}
    assert {cell["seeds"] for cell in cells} == {"2"}


def test_the_verb_writes_what_is_asked_and_the_same_again(tmp_path: Path) -> None:
    fill(options(out=tmp_path, defense=["standard"], norm=["linf"], attacks=["none,aa"]))
    call(options(out=tmp_path), table=["3,5"])
    files = {file.name: file.read_bytes() for file in (tmp_path / "tables").iterdir()}
    endings = ("csv", "html", "md", "tex")
    assert sorted(files) == [f"table-{n}-digits.{end}" for n in (3, 5) for end in endings]
    call(options(out=tmp_path), table=["5", "3"], formats=["latex", "markdown,html"])
    assert {file.name: file.read_bytes() for file in (tmp_path / "tables").iterdir()} == files


def test_other_settings_are_passed_over(tmp_path: Path) -> None:
    fill(options(out=tmp_path, defense=["standard"], norm=["linf"], attacks=["none"], width=3))
    with pytest.raises(BenchError, match="no results for Table 3"):
        call(options(out=tmp_path), table=["3"])


def test_records_at_another_budget_are_passed_over(tmp_path: Path) -> None:
    fill(options(out=tmp_path, defense=["standard"], norm=["linf"], attacks=["pgd-40"], curve=["pgd-40"]))
    call(options(out=tmp_path), table=["3"], formats=["csv"])
    cells = read(tmp_path / "tables" / "table-3-digits.csv")
    assert (cells[1]["defense"], cells[1]["attack"], cells[1]["mean"]) == ("standard", "pgd-40", "50.0000")


def test_results_whose_images_are_gone_are_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise DataError("no digits")

    monkeypatch.setattr("robustness_bench.benchmark.report.paper.tables.locate", gone)
    with pytest.raises(BenchError, match="no results for Table 3"):
        call(options(out=tmp_path), table=["3"], published=True)
    monkeypatch.undo()
    fill(options(out=tmp_path, defense=["standard"], norm=["linf"], attacks=["none"]))
    monkeypatch.setattr("robustness_bench.benchmark.report.paper.tables.locate", gone)
    with pytest.raises(DataError, match="no digits"):
        call(options(out=tmp_path), table=["3"], published=True)


def test_a_table_with_nothing_is_named_beside_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(options(out=tmp_path, defense=["standard"], norm=["linf"], attacks=["none"], threat=["white"]))
    call(options(out=tmp_path), table=["3,5"], formats=["csv"])
    assert "no results for Table 5 in" in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "tables").iterdir()] == ["table-3-digits.csv"]


def test_published_figures_stand_alone_without_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = options(out=tmp_path, dataset=["cifar10,tiny-imagenet"], data_dir=tmp_path / "none")
    with pytest.raises(DataError, match="no cifar10 in"):
        call(missing)
    call(missing, published=True, formats=["markdown"])
    said = capsys.readouterr().out
    assert "cifar10: no results were looked for: its images are not in" in said
    assert "12.36 [b]" in said
    names = sorted(file.name for file in (tmp_path / "tables").iterdir())
    assert names == sorted(
        "table-2-cifar10.md" if n == "2" else f"table-{n}-cifar10-tiny-imagenet.md" for n in NAMID.numbers
    )


@pytest.mark.parametrize(
    ("changes", "more", "says"),
    [
        ({}, {"table": ["7"]}, "unknown table '7'; known: 1, 2, 3, 4, 5, 6, magnet-1, magnet-2"),
        ({}, {"table": ["magnet"]}, "unknown table 'magnet'; did you mean magnet-2 or magnet-1?"),
        ({"kappa": ["3"]}, {"table": ["magnet-1"]}, "leave --kappa out"),
        ({}, {"formats": ["pdf"]}, "unknown format 'pdf'"),
        ({"defense": ["namid"], "threat": ["white"]}, {}, "leave --defense, --threat out"),
        ({"weights": "x"}, {}, "leave --weights out"),
    ],
)
def test_wrong_input_is_one_line(
    changes: dict[str, Any], more: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(BenchError) as refusal:
        call(options(out=tmp_path, **changes), **more)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())
