"""Tables 1 and 2 of Hsu et al. 2018: figures by hand, golden files of every renderer, the verb."""

import csv
import dataclasses
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustness_bench.benchmark.cli.shared.options import Request
from robustness_bench.benchmark.cli.tables import command, tables
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.errors import BenchError, DataError, StoreError
from robustness_bench.benchmark.plan.detectors import make_detection_plan
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.report.detectors.lines import DetectionLine, detection_lines
from robustness_bench.benchmark.report.detectors.names import system_names
from robustness_bench.benchmark.report.detectors.store import detections, fitting
from robustness_bench.benchmark.report.literature.published import curves, published
from robustness_bench.benchmark.report.paper import tables as paper
from robustness_bench.benchmark.report.paper.cells import Block, PaperCell
from robustness_bench.benchmark.report.paper.magnet import MAGNET, oddities
from robustness_bench.benchmark.report.publish import detection_tables
from robustness_bench.benchmark.report.rendering.formats import to_html, to_latex, to_markdown, to_text
from robustness_bench.benchmark.report.rendering.table import Row, Table, signed
from robustness_bench.benchmark.statistics import MeanStd, inside, widened
from robustness_bench.benchmark.store.detections import FLAG, SCORE, Detection, write_detection
from tests.benchmark.report.detections import detection, flagging, natural, notes_of, read, texts
from tests.benchmark.report.test_paper_tables import HOSTILE
from tests.benchmark.report.test_paper_tables import _Tags as Tags
from tests.benchmark.report.test_report import check_golden

MagnetBlock = Block[DetectionLine]


def says(cells: Sequence[PaperCell[DetectionLine]]) -> str:
    return command(Request(out=Path("a b|c")), MAGNET, cells, 2)


def magnet_block(dataset: str, *records: Detection, label: str = "", unread: str = "") -> MagnetBlock:
    (settings,) = load_protocol(None, {"datasets": [dataset]}).settings
    lines = detection_lines(records)
    return Block(
        settings=settings, label=label or dataset, images=100, available=100, lines=lines, unread=unread
    )


def cells_of(number: str, *blocks: MagnetBlock, beside: bool) -> list[PaperCell[DetectionLine]]:
    return paper.cells_of(MAGNET, MAGNET.layout(number), blocks, beside=beside)


def made(number: str, *blocks: MagnetBlock, beside: bool = True, seeds: int = 2) -> Table:
    cells = cells_of(number, *blocks, beside=beside)
    return paper.paper_table(MAGNET, MAGNET.layout(number), cells, seeds=seeds, beside=beside, remedy=says)


def line_at(table: Table, kappa: str, kind: str = "", block: str = "") -> Row:
    labels = [(row.label, row.block) for row in table.rows]
    start = labels.index((kappa, block))
    return table.rows[start if not kind else start + [label for label, _ in labels[start:]].index(kind)]


def quarter(system: str, attack: str, kappa: float, share: int, seed: int = 0, n: int = 1000) -> Detection:
    """A cell of n images of which ``share`` in a thousand are withstood."""
    scores = [9.0] * (share * n // 1000)
    return detection(
        system,
        attack,
        kappa,
        seed,
        prediction=[0] * n,
        scores={"a": scores + [1.0] * (n - len(scores))},
    )


@pytest.fixture
def stacked() -> Table:
    """Two data sets with something of everything."""
    mnist = magnet_block(
        "mnist",
        quarter("magnet", "cw", 0, 988),
        quarter("magnet", "cw", 0, 980, seed=1),
        quarter("magnet", "ead-l1", 10, 250),
        detection("magnet", "ead-en", 10, beta=0.01),
        quarter("mi-magnet", "ead-l1", 10, 260),
        detection("mi-magnet", "cw", 10, remarks={"mi-literal": "generator <b> & 5 % inadequate"}),
        detection("mi-magnet", "ead-en", 15, error="Traceback\nValueError: <b> & 5 % | `x`"),
        detection("magnet-random", "cw", 5),  # not in the paper
        detection("magnet", "cw", 3),  # neither
        detection("magnet", "cw", 5, setting="white"),
        natural("magnet", prediction=[1] * 9 + [0], scores={"a": flagging(0)}),
    )
    digits = magnet_block("digits", detection("magnet", "cw", 0, dataset="digits"), label="dig_#1")
    return made("magnet-1", mnist, digits)


@pytest.mark.parametrize(
    ("name", "render"),
    [
        ("magnet.txt", to_text),
        ("magnet.html", to_html),
        ("magnet.tex", to_latex),
        ("magnet.md", to_markdown),
    ],
)
def test_golden(stacked: Table, name: str, render: Any) -> None:
    check_golden(name, render(stacked))


def test_golden_csv() -> None:
    mnist = magnet_block(
        "mnist",
        quarter("magnet", "ead-l1", 10, 250),
        quarter("magnet", "ead-l1", 10, 240, seed=1),
        detection("mi-magnet", "ead-en", 15, error='ValueError: no, "really"'),
    )
    check_golden("magnet.csv", paper.to_csv(MAGNET, cells_of("magnet-1", mnist, beside=True)))


def test_ours_published_and_difference(stacked: Table) -> None:
    assert [column.group for column in stacked.columns] == ["MagNet"] * 3 + ["MI-MagNet (literal)"] * 3
    assert [column.label for column in stacked.columns] == ["CW-L2", "EAD-L1", "EAD-EN"] * 2
    assert texts(line_at(stacked, "0", block="mnist")) == ["98.4 ± 0.6", "", "", "", "", ""]
    assert texts(line_at(stacked, "0", "published", "mnist"))[:2] == ["98.7", "78.8"]
    assert texts(line_at(stacked, "0", "difference", "mnist"))[0] == "−0.3 ≈"
    assert texts(line_at(stacked, "10", block="mnist")) == ["", "25.0", "50.0", "50.0", "26.0", ""]
    differences = texts(line_at(stacked, "10", "difference", "mnist"))
    assert differences == ["", "+7.1 ≠", "+38.3", "−47.8 ≠", "−20.9 ≠", ""]
    assert [row.label for row in stacked.rows if row.block == "dig_#1"] == [str(k) for k in range(0, 45, 5)]


def test_notes_of_cells(stacked: Table) -> None:
    def notes(kappa: str, kind: str, index: int) -> list[str]:
        return notes_of(stacked, *line_at(stacked, kappa, kind, "mnist").cells[index].marks)

    assert notes("10", "", 1) == ["mean over 1 of the 2 seeds asked for"]
    assert notes("0", "", 0) == []
    assert notes("10", "difference", 2) == ["not comparable: β = 0.1 in the paper, 0.01 here"]
    assert notes("10", "", 3)[1] == "mi-literal: generator <b> & 5 % inadequate"
    assert notes("15", "", 5) == ["failed: ValueError: <b> & 5 % | `x`"]
    assert notes("10", "published", 5) == ["32.3 above MagNet; the paper's text says up to 31.2"]


@pytest.mark.parametrize(
    ("share", "verdict"),
    [
        # Table 1 prints 17.9; Wilson of 155 of 1000: 13.39 to 17.88, of 156: 13.48 to 17.98
        (155, False),
        (156, True),
        # of 204: 18.02 to 23.01, of 203: 17.92 to 22.90, of 202: 17.83 to 22.80
        (203, False),
        (202, True),
    ],
)
def test_inside_by_hand(share: int, verdict: bool) -> None:
    block = magnet_block("mnist", quarter("magnet", "ead-l1", 10, share))
    cells = cells_of("magnet-1", block, beside=True)
    (cell,) = [cell for cell in cells if cell.line]
    assert cell.inside is verdict
    assert (cell.row.key, cell.column) == ("10", ("magnet", "ead-l1"))


def test_the_papers_contradictions_are_found() -> None:
    said = oddities(published("magnet"))
    assert {(f.table, f.column, f.row): text.split(":")[0] for f, text in said.items()} == {
        **{("magnet-1", a, "0"): _EXACTLY for a in ("cw-l2", "ead-l1", "ead-en")},
        ("magnet-1", "ead-en", "10"): "32.3 above MagNet; the paper's text says up to 31.2",
        ("magnet-1", "ead-en", "15"): "32.1 above MagNet; the paper's text says up to 31.2",
        ("magnet-2", "ead-l1", "0"): "0.2 below MagNet",
        ("magnet-2", "ead-en", "0"): "0.1 below MagNet",
    }
    assert {figure.group for figure in said} == {"mi-magnet"}


_EXACTLY = (
    "exactly MagNet's figure under every attack at κ = 0, though the detector flags 0.5 % even of natural "
    "images"
)


def test_it_always_says_that_it_is_no_security_claim(stacked: Table) -> None:
    plain = made("magnet-1", magnet_block("digits", detection(dataset="digits")), beside=False)
    for table, label in ((stacked, "detectors-mnist and detectors-dig_#1"), (plain, "detectors-digits")):
        text = " ".join(note.text for note in table.notes)
        assert "Oblivious only: not a security claim." in text
        assert f"are in the table {label}" in text
        assert "the reading declared for reproduction before anything was run" in text


def test_remarks_beside_the_published_figures(stacked: Table) -> None:
    text = " ".join(note.text for note in stacked.notes)
    for part in (
        "mnist, natural images, accuracy in % (published): classifier alone 90.00 (99.42), MagNet 80.00 "
        "(99.13), MI-MagNet (literal) – (98.63).",
        "Lu et al. 2018, without mutual information: MagNet with two JSD detectors, at the same κ: "
        "EAD-L1 82.6, 49.0, 51.1, ",
        "EAD-EN 81.6, 44.4, 48.3, ",
        "mnist departs from the paper's setting: 10 to 1000 attacked images for 1000",
        "The paper has no figures for dig_#1.",
    ):
        assert part in text
    assert (
        "mnist: 10 to 1000 test images that the classifier gets right, 1 to 2 training seeds"
        in stacked.caption
    )
    assert "EAD with β = 0.01, 0.1" in stacked.caption
    alone = " ".join(n.text for n in made("magnet-1", magnet_block("mnist", natural()), beside=False).notes)
    assert "mnist, natural images, accuracy in %: classifier alone 100.00, MagNet 50.00" in alone
    assert "Lu et al." not in alone
    other = made("magnet-2", magnet_block("cifar10", unread="nowhere"))
    assert "Lu et al." not in " ".join(note.text for note in other.notes)
    assert "cifar10: no results were looked for: nowhere." in [note.text for note in other.notes]


def test_another_folder_and_another_table_are_named() -> None:
    variant = made("magnet-1", magnet_block("mnist", label="mnist-28"))
    assert "mnist-28 was read in the place of mnist" in " ".join(note.text for note in variant.notes)
    swapped = made("magnet-1", magnet_block("cifar10"))
    assert "The paper has CIFAR-10 elsewhere, not in this table." in [note.text for note in swapped.notes]
    assert not any(row.minor for row in swapped.rows)


def test_the_older_detector_beats_the_published_column() -> None:
    """What the note is there for."""
    older = {(each.attack, each.kappa): each.both for each in curves() if each.variant == "jsd"}
    for figure in published("magnet"):
        if (figure.table, figure.group) == ("magnet-1", "mi-magnet") and figure.column != "cw-l2":
            assert older[figure.column, float(figure.row)] > figure.mean


def test_a_blank_cell_names_its_command() -> None:
    whole = [
        quarter(s, a, k, 500, seed)
        for s in ("magnet", "mi-magnet")
        for a in ("cw", "ead-l1", "ead-en")
        for k in range(0, 35, 5)
        for seed in range(2)
    ]
    lacks = [r for r in whole if (r.spec["system"], r.spec["confidence"], r.seed) != ("mi-magnet", 15, 1)]
    table = made("magnet-1", magnet_block("mnist", *lacks))
    (note,) = [note for note in table.notes if note.command]
    assert (
        note.text == "mnist: 15 cells lack one or more of the 2 seeds asked for. This runs what is missing:"
    )
    assert shlex.split(note.command) == [
        *("bench", "run", "--defense", "mi-magnet,magnet", "--dataset", "mnist", "--kappa", "15,35,40"),
        *("--seeds", "2", "--out", "a b|c"),
    ]
    cells = cells_of("magnet-1", magnet_block("mnist", *lacks), beside=False)
    assert len(paper.gaps(MAGNET, cells, 1)[0]) == 12


def test_the_first_column_has_its_own_heading(stacked: Table) -> None:
    assert "κ · MagNet" in to_text(stacked)
    assert '<th scope="col">κ</th>' in to_html(stacked)
    assert "\n$\\kappa$ & CW-L2" in to_latex(stacked)
    assert "| κ | CW-L2<br>MagNet" in to_markdown(stacked)
    plain = dataclasses.replace(stacked, heading="Defense")
    for render in (to_html, to_latex, to_markdown):
        assert "Defense" in render(plain)
        assert "Defense" not in render(stacked)
    assert "\nMagNet  " in to_text(plain)


def test_long_tables_are_parted_in_latex() -> None:
    """27 rows of one data set: no float holds more than fits a page, none begins below its row."""
    every = [
        quarter(s, a, k, 500)
        for s in ("magnet", "mi-magnet")
        for a in ("cw", "ead-l1", "ead-en")
        for k in range(0, 45, 5)
    ]
    text = to_latex(made("magnet-1", magnet_block("mnist", *every), seeds=1))
    floats = text.split(r"\begin{table*}")[1:]
    assert [each.count("quad") for each in floats] == [10, 8]
    assert r"\caption{Table 1 of Hsu et al. 2018: oblivious attacks, mnist, continued.}" in floats[1]


def test_signs() -> None:
    assert [signed(value, 1) for value in (0.04, -0.04, 1.25, -1.25, 0.05001)] == [
        "0.0",
        "0.0",
        "+1.2",
        "−1.2",
        "+0.1",
    ]


def options(**changes: Any) -> Request:
    return dataclasses.replace(Request(n_examples=4), **changes)


def call(request: Request, **more: Any) -> None:
    """The verb as typer calls it."""
    given = {each.name: getattr(request, each.name) for each in dataclasses.fields(Request)}
    tables(**given, **{"table": None, "formats": None, "published": False, **more})


def fill(request: Request) -> None:
    """Records of all that is asked for, without any work: half of the images are withstood."""
    protocol = request.protocol()
    data = {"digits": locate("digits", Path("data"))}
    for task in make_detection_plan(protocol, data):
        if task.kind == "detect":
            n = 4
            names = list(task.spec["detectors"])
            flags = np.arange(n) % 2 == 0
            rows: dict[str, Any] = {
                "sample": np.arange(n),
                "label": np.ones(n, int),
                "clean_prediction": np.ones(n, int),
                "prediction": np.full(n, int(task.spec["setting"] == "natural")),
                "reformed_prediction": np.zeros(n, int),
                **{name: np.zeros(n) for name in ("linf", "l2", "l1", "forwards", "backwards")},
                **{SCORE + name: flags * 9.0 for name in names},
                **{FLAG + name: flags for name in names},
            }
            out = request.out / task.path
            marks = dict.fromkeys(names, 5.0)
            write_detection(out, task, rows, thresholds=marks, remarks={}, environment={}, seconds=0.0)


def requested(text: str) -> Request:
    """The request that a printed command spells."""
    words = shlex.split(text)
    given = dict(zip(words[2::2], words[3::2], strict=True))
    return options(
        defense=[given["--defense"]],
        dataset=[given["--dataset"]],
        kappa=[given["--kappa"]],
        seeds=int(given["--seeds"]),
        n_examples=int(given["--n-examples"]),
        out=Path(given["--out"]),
    )


def test_its_own_commands_fill_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = options(out=tmp_path, dataset=["digits"], seeds=2)
    with pytest.raises(BenchError, match="no results for Table magnet-1 in") as refusal:
        call(asked, table=["magnet-1"])
    command = str(refusal.value).partition(": run ")[2]
    first = requested(command)
    fill(dataclasses.replace(first, kappa=["0,10"], seeds=1))
    call(asked, table=["magnet-1"], formats=["csv"])
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    (second,) = [line for line in said if line.startswith("bench run")]
    assert second == command
    fill(requested(second))
    call(asked, table=["magnet-1"], formats=["csv"])
    assert "bench run" not in capsys.readouterr().out
    cells = read((tmp_path / "tables" / "table-magnet-1-digits.csv").read_text())
    assert len(cells) == 54
    assert {cell["mean"] for cell in cells} == {"50.0000"}
    assert {cell["seeds"] for cell in cells} == {"2"}


def test_without_a_table_those_with_results_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(options(out=tmp_path, defense=["magnet"], kappa=["0"], dataset=["digits"]))
    call(options(out=tmp_path))
    assert "no results for Table" not in capsys.readouterr().out
    found = sorted(file.name for file in (tmp_path / "tables").iterdir())
    assert found == [f"table-magnet-1-digits.{end}" for end in ("csv", "html", "md", "tex")]


def test_without_a_data_set_a_published_table_has_its_own(tmp_path: Path) -> None:
    request = options(out=tmp_path, data_dir=tmp_path / "none")
    call(request, table=["magnet-1,magnet-2"], published=True, formats=["markdown"])
    assert sorted(file.name for file in (tmp_path / "tables").iterdir()) == [
        "table-magnet-1-mnist.md",
        "table-magnet-2-cifar10.md",
    ]
    with pytest.raises(DataError, match="no mnist in"):
        call(request, table=["magnet-1"])


def test_records_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    protocol = options(dataset=["digits"]).protocol()
    broken = detection("mi-magnet", scores={"a": flagging(), "b": flagging()})
    with pytest.raises(StoreError, match="loses 5 of the images"):
        paper.read_blocks(MAGNET, protocol, [detection(), broken], tmp_path)


def test_cells_fit_whatever_kappa_and_attack_they_are_of(tmp_path: Path) -> None:
    fill(options(out=tmp_path, defense=["magnet"], dataset=["digits"], kappa=["7"]))
    protocol = options(dataset=["digits"]).protocol()
    data = {"digits": locate("digits", Path("data"))}
    found = fitting(protocol, protocol.settings[0], data, detections(tmp_path))
    assert sorted(each.spec["setting"] for each in found) == [
        *("grey", "natural", "oblivious", "oblivious", "oblivious", "white"),
    ]
    other = options(dataset=["digits"], n_examples=3).protocol()
    left = fitting(other, other.settings[0], data, detections(tmp_path))
    assert [each.spec["setting"] for each in left] == ["natural"]


def test_other_settings_are_passed_over(tmp_path: Path) -> None:
    fill(options(out=tmp_path, defense=["magnet"], kappa=["0"], dataset=["digits"], n_examples=3))
    with pytest.raises(BenchError, match="no results for Table magnet-1"):
        call(options(out=tmp_path, dataset=["digits"]), table=["magnet-1"])


def test_tables_of_both_papers_in_one_go(tmp_path: Path) -> None:
    request = options(out=tmp_path, dataset=["cifar10"], data_dir=tmp_path / "none")
    call(request, table=["magnet-2", "1"], published=True, formats=["csv"])
    assert sorted(file.name for file in (tmp_path / "tables").iterdir()) == [
        "table-1-cifar10.csv",
        "table-magnet-2-cifar10.csv",
    ]


def test_reports_need_no_torch() -> None:
    program = (
        "import sys, robustness_bench.benchmark.cli.tables; "
        "from robustness_bench.benchmark.report import publish; "
        "from robustness_bench.benchmark.report.paper import magnet; "
        "sys.exit(bool({'torch', 'matplotlib'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_table_is_offered() -> None:
    assert MAGNET.numbers == ("magnet-1", "magnet-2")


def test_html_is_whole_and_asks_for_nothing(stacked: Table) -> None:
    for table in (stacked, *detection_tables(stand(HOSTILE), {}, {"mnist": HOSTILE})):
        page = to_html(table)
        tags = Tags()
        tags.feed(page)
        assert tags.open == []
        assert {link.removeprefix("#") for link in tags.links} <= set(tags.ids)
        assert "http" not in page
        assert "<i>" not in page


def stand(label: str) -> list[Detection]:
    """Every system at six κ, so that the tables are as long as they get."""
    records = []
    for system in system_names():
        records.append(natural(system, dataset=label))
        for attack in ("cw", "ead-l1", "ead-en"):
            records += [detection(system, attack, kappa, dataset=label) for kappa in range(0, 60, 10)]
        records.append(detection(system, "adaptive", 1, setting="white", dataset=label, error=HOSTILE))
    return records


@pytest.mark.latex
@pytest.mark.parametrize("columns", ["onecolumn", "twocolumn"])
def test_latex_compiles(stacked: Table, tmp_path: Path, columns: str) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex (Debian: texlive-latex-base and -recommended)")
    every = [
        [
            quarter(f.group, {"cw-l2": "cw"}.get(f.column, f.column), float(f.row), 500)
            for f in published("magnet")
            if f.dataset == dataset
        ]
        for dataset in ("mnist", "cifar10")
    ]
    pages = [
        stacked,
        made("magnet-1", magnet_block("mnist", *every[0]), seeds=1),
        made("magnet-2", magnet_block("cifar10", *every[1], label=HOSTILE), seeds=1),
        *detection_tables(stand(HOSTILE), {}, {"mnist": HOSTILE}),
    ]
    for index, table in enumerate(pages):
        text = to_latex(dataclasses.replace(table, name=f"{table.name}-{index}"))
        (tmp_path / f"table{index}.tex").write_text(text, encoding="utf-8")
    inputs = "".join(rf"\input{{table{index}}}\clearpage " for index in range(len(pages)))
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


def test_the_committed_verdicts_are_those_of_the_definition() -> None:
    """Of results/detectors-mnist, from the means and image counts that its table prints."""
    path = Path(__file__).parents[3] / "results/detectors-mnist/tables/table-magnet-1-mnist.csv"
    with path.open(encoding="utf-8", newline="") as file:
        run = [row for row in csv.DictReader(file) if row["mean"]]
    assert len(run) == 24
    for row in run:
        ours = widened(MeanStd(float(row["mean"]), None, 1), int(row["n"]))
        assert row["inside"] == ("yes" if inside(float(row["published_mean"]), ours) else "no"), row
    assert {(r["system"], r["attack"], int(r["kappa"])) for r in run if r["inside"] == "yes"} == {
        *(("magnet", "cw", kappa) for kappa in (0, 10, 40)),
        *(("mi-magnet", "cw", kappa) for kappa in (0, 40)),
        *((system, "ead-en", 0) for system in ("magnet", "mi-magnet")),
        *(("mi-magnet", attack, 20) for attack in ("ead-l1", "ead-en")),
    }
