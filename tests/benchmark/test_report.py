"""Golden files of every renderer, from lines written by hand."""

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.protocol import load_protocol
from benchmark.records import Record
from benchmark.report.render import latex_escape, to_html, to_latex, to_text
from benchmark.report.results import Line, summarize, to_csv
from benchmark.report.table import Cell, Row, Table
from benchmark.report.tables import threat_table
from benchmark.statistics import mean_std

GOLDEN = Path(__file__).parent / "golden"


def record(
    defense: str, attack: str, seed: int, survivors: int, *, norm: str = "linf", error: str = ""
) -> Record:
    """A cell of 10 images of which ``survivors`` keep their class; the rest fall at distance 0.2."""
    prediction = np.array([1] * survivors + [0] * (10 - survivors))
    kind = {"none": "natural", "cw": "minimum-norm"}.get(attack, "budget")
    spec: dict[str, Any] = {
        "dataset": "digits",
        "norm": norm,
        "eps": 0.5 if norm == "linf" else 0.25,
        "threat": "white",
        "defense": defense,
        "attack": attack,
        "kind_of_attack": kind,
        "n_examples": 10,
    }
    rows = {
        "label": np.ones(10, dtype=int),
        "clean_prediction": np.ones(10, dtype=int),
        "adversarial_prediction": prediction,
        # half of the fallen lie beyond ε
        "distance": np.where(prediction == 1, 0.0, np.where(np.arange(10) % 2, 0.2, 0.4)),
    }
    return Record(
        id=f"{defense}{attack}{seed}",
        family=f"{norm}-{defense}-{attack}",
        seed=seed,
        spec=spec,
        status="error" if error else "ok",
        error=error,
        environment={},
        seconds=0,
        rows={} if error else rows,
    )


@pytest.fixture
def lines() -> list[Line]:
    records = [
        record("undefended", "none", 0, 10),
        record("undefended", "none", 1, 9),
        record("undefended", "pgd-40", 0, 0),
        record("undefended", "pgd-40", 1, 0),
        record("standard", "none", 1, 8),
        record("standard", "none", 0, 9),
        record("standard", "pgd-40", 0, 6),
        record("standard", "pgd-40", 1, 5),
        record("namid", "none", 0, 9),
        record("namid", "none", 1, 9),
        record("namid", "pgd-40", 0, 7),
        record(
            "namid", "pgd-40", 1, 0, error="Traceback (most recent call last):\n  x\nValueError: <b> & 5 %\n"
        ),
        record("undefended", "cw", 0, 0, norm="l2"),
        record("standard", "cw", 0, 4, norm="l2"),
    ]
    return summarize(records)


@pytest.fixture
def table(lines: list[Line]) -> Table:
    made = threat_table("white", lines, load_protocol().settings[0], "digits")
    assert made is not None
    return made


def test_lines_by_hand(lines: list[Line]) -> None:
    found = {(line.defense, line.attack): line for line in lines}
    natural = found["standard", "none"].bounded
    assert natural is not None
    assert (natural.mean, natural.n) == (85.0, 2)
    assert natural.std == pytest.approx(50**0.5)
    assert found["standard", "none"].per_seed == {0: 90.0, 1: 80.0}
    assert found["namid", "pgd-40"].bounded is None
    assert found["namid", "pgd-40"].per_seed == {0: 70.0, 1: None}
    cw = found["standard", "cw"]
    assert cw.bounded is not None
    assert cw.unbounded is not None
    assert (cw.bounded.mean, cw.unbounded.mean) == (70.0, 40.0)  # of six that fall, three lie beyond ε
    assert cw.median_distance == pytest.approx(0.3)
    assert [line.attack for line in lines][:2] == ["none", "pgd-40"]


def check_golden(name: str, text: str) -> None:
    file = GOLDEN / name
    assert text == file.read_text(encoding="utf-8"), f"{file} differs"


def test_golden_csv(lines: list[Line]) -> None:
    check_golden("results.csv", to_csv(lines))


def test_golden_text(table: Table) -> None:
    check_golden("table.txt", to_text(table))


def test_golden_html(table: Table) -> None:
    check_golden("table.html", to_html(table))


def test_golden_latex(table: Table) -> None:
    check_golden("table.tex", to_latex(table))


def test_order_of_records_changes_nothing(lines: list[Line]) -> None:
    records = [record("standard", "none", seed, 8 - seed) for seed in range(3)]
    assert to_csv(summarize(records)) == to_csv(summarize(records[::-1]))


def test_an_error_is_never_a_number_nor_the_best(table: Table) -> None:
    (namid,) = [row for row in table.rows if row.label == "NAMID"]
    assert namid.cells[1] == Cell(text="ERROR", error="ValueError: <b> & 5 %")
    assert namid.cells[2].text == "–"  # never run
    (standard,) = [row for row in table.rows if row.label == "Standard AT"]
    assert standard.cells[1].best


def test_names_from_outside_are_escaped(table: Table) -> None:
    hostile = dataclasses.replace(
        table, rows=(Row(group="x", label="<script>alert(1)</script> A_B 5% \\x", cells=table.rows[0].cells),)
    )
    assert "<script>" not in to_html(hostile)
    assert "&lt;script&gt;" in to_html(hostile)
    assert r"A\_B 5\% \textbackslash{}x" in to_latex(hostile)
    assert latex_escape("a&b#c$d{e}~^") == r"a\&b\#c\$d\{e\}\textasciitilde{}\textasciicircum{}"


def test_html_asks_for_nothing_from_outside(table: Table) -> None:
    page = to_html(table)
    assert "http" not in page
    assert "<script" not in page


@pytest.mark.latex
@pytest.mark.parametrize("columns", ["onecolumn", "twocolumn"])
def test_latex_compiles(table: Table, tmp_path: Path, columns: str) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    (tmp_path / "table.tex").write_text(to_latex(table), encoding="utf-8")
    (tmp_path / "paper.tex").write_text(
        rf"\documentclass[{columns}]{{article}}\usepackage{{booktabs,graphicx}}"
        r"\begin{document}Text.\input{table}\end{document}"
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000


def test_mean_std() -> None:
    assert tuple(mean_std([1.0])) == (1.0, None, 1)
    assert tuple(mean_std([1.0, 3.0])) == pytest.approx((2.0, 2**0.5, 2))
    with pytest.raises(ValueError, match="at least one"):
        mean_std([])
