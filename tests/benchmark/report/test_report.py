"""Golden files of every renderer, from lines written by hand."""

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.plan.probe import VERSION
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.report.lines.results import Line, ordered, summarize, to_csv
from robustness_bench.benchmark.report.lines.worst_case import worst_case
from robustness_bench.benchmark.report.rendering.formats import latex_escape, to_html, to_latex, to_text
from robustness_bench.benchmark.report.rendering.table import Cell, Row, Table
from robustness_bench.benchmark.report.tables.threats import threat_tables
from robustness_bench.benchmark.statistics import mean_std
from robustness_bench.benchmark.store.cells import Record
from robustness_bench.benchmark.store.diagnoses import Diagnosis
from robustness_bench.defenses.registry import defense_presets

PROBE = {"version": VERSION, "images": 10, "attacks": {"images": 10}}
GOLDEN = Path(__file__).parent / "golden"


def record(
    defense: str,
    attack: str,
    seed: int,
    survivors: int,
    *,
    norm: str = "linf",
    eps: float | None = None,
    threat: str = "white",
    attack_set: str = "strict",
    first: int = 0,
    flags: tuple[str, ...] = (),
    error: str = "",
    precision: str = "float32",
) -> Record:
    """A cell of 10 images of which ``survivors``, from the ``first`` on, keep their class.

    The rest fall at distances 0.2 and 0.4, alternating.
    """
    kept = (np.arange(10) - first) % 10 < survivors
    preset = attack_presets(attack_set)[attack]
    eps = eps or (0.5 if norm == "linf" else 0.25)
    spec: dict[str, Any] = {
        "dataset": "digits",
        "data": "0" * 64,
        "norm": norm,
        "eps": eps,
        "threat": threat,
        "defense": defense,
        "attack": attack,
        "kind_of_attack": preset.kind,
        "parameters": preset.identity(norm, eps, precision),
        "n_examples": 10,
        "parents": {"model": f"{defense}-{norm}-{seed}"},
    }
    rows = {
        "sample": np.arange(10),
        "label": np.ones(10, dtype=int),
        "clean_prediction": np.ones(10, dtype=int),
        "adversarial_prediction": np.where(kept, 1, 0),
        norm: np.where(kept, 0.0, np.where(np.arange(10) % 2, 0.2, 0.4)),
        "forwards": np.full(10, 12.0),
        "backwards": np.full(10, 10.0),
    }
    return Record(
        id=f"{defense}{attack}{seed}",
        family=f"{norm}-{threat}-{defense}-{attack}-{attack_set}-{eps}",
        model_family=f"{defense}-{norm}",
        seed=seed,
        spec=spec,
        status="error" if error else "ok",
        error=error,
        environment={"hardware": "test"},
        seconds=2.0,
        rows={} if error else rows,
        diagnosis=Diagnosis(id="d", seed=seed, spec={"eps": eps, "probe": PROBE}, flags=flags),
    )


@pytest.fixture
def lines() -> list[Line]:
    records = [
        record("undefended", "none", 0, 10, flags=("zero-gradients",)),
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
        record("undefended", "none", 0, 9, norm="l2"),
        record("standard", "none", 0, 9, norm="l2"),
        record("undefended", "cw", 0, 0, norm="l2"),
        record("standard", "cw", 0, 4, norm="l2"),
        record("standard", "ddn", 0, 5, norm="l2", first=2),
        record("undefended", "fwa-40", 0, 3),
    ]
    return ordered([*summarize(records), *worst_case(records, "strict")])


@pytest.fixture
def table(lines: list[Line]) -> Table:
    return threat_tables("white", lines, load_protocol().settings[0], "digits")[0]


@pytest.fixture
def cost_table(lines: list[Line]) -> Table:
    return threat_tables("white", lines, load_protocol().settings[0], "digits")[1]


def test_lines_by_hand(lines: list[Line]) -> None:
    found = {
        (line.defense, line.attack): line for line in lines if line.norm == "linf" or line.attack == "cw"
    }
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
    assert found["undefended", "pgd-40"].flags == ()
    assert (cw.forwards, cw.backwards) == (12.0, 10.0)
    assert cw.sets == ("strict",)


def check_golden(name: str, text: str) -> None:
    file = GOLDEN / name
    assert text == file.read_text(encoding="utf-8"), f"{file} differs"


def test_golden_csv(lines: list[Line]) -> None:
    check_golden("results.csv", to_csv(lines))


def test_golden_text(table: Table) -> None:
    check_golden("table.txt", to_text(table))


def test_golden_cost(cost_table: Table) -> None:
    check_golden("cost.txt", to_text(cost_table))


def test_golden_html(table: Table) -> None:
    check_golden("table.html", to_html(table))


def test_golden_latex(table: Table) -> None:
    check_golden("table.tex", to_latex(table))


def test_gradients_in_bf16_are_said_beside_the_figure() -> None:
    """A worst case has them where no float32 run stands in; either way the set is the same."""
    lowered = record("standard", "pgd-40", 0, 6, precision="bf16")
    natural, exact = record("standard", "none", 0, 9), record("standard", "pgd-40", 0, 5)
    lines = [*summarize([natural, lowered]), *worst_case([natural, lowered], "strict")]
    assert {line.attack: line.precision for line in lines} == {
        "none": "",
        "pgd-40": "bf16",
        "worst-case": "bf16",
    }
    assert all(line.sets and line.bounded for line in lines)
    rows = {line.split(",")[5]: line for line in to_csv(lines).splitlines()[1:]}
    assert {name for name, row in rows.items() if "gradients in bf16" in row} == {"pgd-40", "worst-case"}
    caption = threat_tables("white", lines, load_protocol().settings[0], "digits")[0].caption
    assert "Gradients in bf16, successes judged in float32: PGD-40." in caption
    for records in ([natural, lowered, exact], [natural, exact, lowered]):
        (worst,) = worst_case(records, "strict")
        assert (worst.precision, worst.per_seed) == ("", {0: 50.0})


def test_what_an_audit_says_of_several_defenses_is_said_once(lines: list[Line]) -> None:
    words = {"standard": "not audited", "undefended": "not audited", "namid": "at most 3 below"}
    lines = [
        dataclasses.replace(line, audit=words.get(line.defense, "") if line.attack == "pgd-40" else "")
        for line in lines
    ]
    caption = threat_tables("white", lines, load_protocol().settings[0], "digits")[0].caption
    assert "PGD-40 in L∞ on Undefended, Standard AT: not audited." in caption
    assert "PGD-40 in L∞ on NAMID: at most 3 below." in caption
    assert caption.count("not audited") == 1


def test_order_of_records_changes_nothing(lines: list[Line]) -> None:
    records = [record("standard", "none", seed, 8 - seed) for seed in range(3)]
    assert to_csv(summarize(records)) == to_csv(summarize(records[::-1]))


def test_an_error_is_never_a_number_nor_the_best(table: Table) -> None:
    (namid,) = [row for row in table.rows if row.label == "NAMID"]
    assert namid.cells[1] == Cell(text="ERROR", error="ValueError: <b> & 5 %")
    assert namid.cells[2].text == "–"  # never run
    assert namid.cells[3] == Cell(text="ERROR", error="no worst case without pgd-40 (seed 1)")
    (standard,) = [row for row in table.rows if row.label == "Standard AT"]
    assert standard.cells[1].best


def test_names_from_outside_are_escaped(table: Table) -> None:
    hostile = dataclasses.replace(
        table, rows=(Row(group="x", label="<script>alert(1)</script> A_B 5% \\x", cells=table.rows[0].cells),)
    )
    assert "<script>" not in to_html(hostile)
    assert "&lt;script&gt;" in to_html(hostile)
    assert r"A\_B 5\% \textbackslash{}x" in to_latex(hostile)
    for preset in defense_presets().values():  # every label is in letters that any LaTeX knows
        assert latex_escape(preset.label).isascii(), preset.label
    assert latex_escape("a&b#c$d{e}~^") == r"a\&b\#c\$d\{e\}\textasciitilde{}\textasciicircum{}"


def test_html_asks_for_nothing_from_outside(table: Table) -> None:
    page = to_html(table)
    assert "http" not in page
    assert "<script" not in page


@pytest.mark.latex
@pytest.mark.parametrize("columns", ["onecolumn", "twocolumn"])
def test_latex_compiles(table: Table, tmp_path: Path, columns: str) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex (Debian: texlive-latex-base and -recommended)")
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
