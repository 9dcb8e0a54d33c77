"""Figures from faked records: their numbers by hand, what is missing, the files."""

import csv
import dataclasses
import io
import shlex
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustness_bench.benchmark.cli.figure import command, figure
from robustness_bench.benchmark.cli.shared.options import Request
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.plan.protocol import Settings, load_protocol
from robustness_bench.benchmark.plan.tasks import Task, make_mi_plan, make_plan
from robustness_bench.benchmark.report.figures.drawing.namid import WIDTHS, draw
from robustness_bench.benchmark.report.figures.namid import (
    Figure,
    Gap,
    NothingToDrawError,
    Number,
    Question,
    accuracy_figure,
    mi_figure,
    to_csv,
    to_table,
)
from robustness_bench.benchmark.report.rendering.formats import to_text
from robustness_bench.benchmark.store.cells import write_record
from robustness_bench.benchmark.store.information import MIRecord, write_mi_record
from tests.benchmark.report.test_report import record

ABLATION = ("namid", "standard", "namid-no-adversarial-mi", "namid-no-natural-mi", "namid-no-lambda")


def question(number: Number, **changes: Any) -> Question:
    """About ``record``'s cells: digits at ε = 0.5 and 0.25."""
    changed = {"eps": {"linf": 0.5, "l2": 0.25}, "attack_set": changes.pop("attack_set", "strict")}
    settings: Settings = load_protocol().settings[0].model_copy(update=changed)
    return dataclasses.replace(
        Question(number=number, settings=settings, label="digits", norm="linf"), **changes
    )


def estimate(
    attack: str, seed: int, objective: str, estimates: dict[str, list[float]], *, defense: str = "undefended"
) -> MIRecord:
    """Estimates of a few images."""
    n = len(next(iter(estimates.values())))
    facts = {name: np.zeros(n, int) for name in ("label", "clean_prediction", "adversarial_prediction")}
    columns = {name: np.array(values, dtype=np.float32) for name, values in estimates.items()}
    spec = {
        "dataset": "digits",
        "norm": "linf",
        "eps": 0.5,
        "defense": defense,
        "attack": attack,
        "objective": objective,
    }
    return MIRecord(
        id=f"{defense}{attack}{objective}{seed}",
        family=f"{defense}-{attack}-{objective}",
        seed=seed,
        spec=spec,
        environment={},
        seconds=1.0,
        rows={"sample": np.arange(n), **facts, **columns},
    )


def standard(
    attack: str, of_x: list[float], of_x_adv: list[float], across: list[float], seed: int = 0
) -> MIRecord:
    """What the one estimator of figure 2 says."""
    estimates = {"standard_of_x": of_x, "standard_of_x_adv": of_x_adv, "standard_across": across}
    return estimate(attack, seed, "standard", estimates)


def split(objective: str, seed: int, *columns: list[float], attack: str = "pgd-40") -> MIRecord:
    """What the two estimators of figure 4 say of Standard AT."""
    names = ("natural_of_x", "natural_of_x_adv", "adversarial_of_x", "adversarial_of_x_adv")
    return estimate(attack, seed, objective, dict(zip(names, columns, strict=True)), defense="standard")


def says(gap: Gap) -> str:
    return command(Request(), gap)


def rows(figure: Figure) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(figure))))


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def means(figure: Figure) -> dict[tuple[str, str], str]:
    return {(row["panel"] + row["group"], row["series"]): row["mean"] for row in rows(figure)}


@pytest.fixture
def radar() -> Figure:
    """Three attacks, two images, the worst of them -1; two seeds of the first attack."""
    records = [
        standard("pgd-40", [2, 4], [1, 2], [0, 1]),
        standard("pgd-40", [3, 7], [2, 3], [0, 3], seed=1),
        standard("fwa-40", [2, 4], [1, 1], [-1, 0]),
        standard("fwa-40", [3, 7], [1, 1], [1, 0], seed=1),
        standard("aa", [2, 4], [1, 2], [0, 0]),
        standard("aa", [3, 7], [1, 2], [0, 0], seed=1),
    ]
    return mi_figure(question("2"), records, says)


@pytest.fixture
def halves() -> Figure:
    records = [
        split("eq-4", 0, [1, 3], [0, 2], [4, 4], [5, 7]),
        split("eq-4", 1, [2, 4], [1, 3], [4, 6], [6, 6]),
        split("eq-5", 0, [5, 7], [-3, -1], [2, 4], [9, 11]),
        split("eq-5", 1, [7, 9], [-2, 0], [3, 5], [8, 8]),
    ]
    return mi_figure(question("4"), records, says)


@pytest.fixture
def ablation() -> Figure:
    """Every defense under PGD-40 with two seeds, one of which failed for one; AA for two defenses."""
    records = [record(name, "pgd-40", seed, 6 - seed) for name in ABLATION[:4] for seed in (0, 1)]
    records += [
        record("namid-no-lambda", "pgd-40", 0, 5),
        record("namid-no-lambda", "pgd-40", 1, 0, error="Traceback\nValueError: <planted> & 5 %"),
        record("namid", "aa", 0, 4),
        record("namid", "aa", 1, 2),
        record("standard", "aa", 0, 3),
    ]
    return accuracy_figure(question("5"), records, says)


def test_figure_2_by_hand(radar: Figure) -> None:
    """The smallest estimate of any image is -1; means of the seeds 3 and 5 become 4 and 6."""
    values = {(row["attack"], row["estimate"]): row for row in rows(radar)}
    first = values["pgd-40", "standard_of_x"]
    assert (first["mean"], first["std"]) == ("5.00000", f"{2**0.5:.5f}")
    assert (first["per_seed"], first["offset"], first["seeds"]) == ("0:4.00000 1:6.00000", "-1.00000", "2")
    assert (first["unit"], first["images"], first["status"], first["remedy"]) == ("nats", "2", "ok", "")
    assert values["fwa-40", "standard_across"]["mean"] == "1.00000"  # (-0.5 + 0.5) / 2 + 1
    assert values["pgd-40", "standard_of_x_adv"]["mean"] == "3.00000"
    assert radar.shape == "radar"
    assert radar.drawn.groups("") == ["PGD-40", "FWA-40", "AA"]
    assert "(-1.000) of any image" in radar.caption
    assert "sample std over 2 seeds" in radar.caption


def test_figure_2_names_its_missing_axes(radar: Figure) -> None:
    assert radar.notes == (
        "PGD-10 has no parameters in the set strict",
        "Undefended × FWA-10 (standard) is missing for seeds 0, 1",
        "to fill this: bench estimate-mi --defense undefended --dataset digits --norm linf "
        "--attacks fwa-10 --objective standard --seeds 2",
    )
    missing = [row for row in rows(radar) if row["mean"] == "missing"]
    assert {row["attack"] for row in missing} == {"fwa-10"}
    assert {row["remedy"] for row in missing} == {radar.remedy}


def test_two_attacks_are_no_radar() -> None:
    records = [standard(attack, [2.0, 4.0], [1.0, 2.0], [0.0, 1.0]) for attack in ("pgd-40", "aa")]
    figure = mi_figure(question("2"), records, says)
    assert figure.shape == "bars"
    assert figure.drawn.groups("") == ["PGD-40", "AA"]


def test_figure_4_offsets_each_half_by_itself(halves: Figure) -> None:
    assert means(halves) == {
        ("Natural MIMIM (eq. 4)", "natural samples"): "5.50000",  # (2 + 3) / 2 + 3
        ("Natural MIMIM (eq. 4)", "adversarial samples"): "4.50000",
        ("Natural MIOur (eq. 5)", "natural samples"): "10.00000",
        ("Natural MIOur (eq. 5)", "adversarial samples"): "1.50000",
        ("Adversarial MIMIM (eq. 4)", "natural samples"): "2.50000",  # (4 + 5) / 2 - 2
        ("Adversarial MIMIM (eq. 4)", "adversarial samples"): "4.00000",
        ("Adversarial MIOur (eq. 5)", "natural samples"): "1.50000",
        ("Adversarial MIOur (eq. 5)", "adversarial samples"): "7.00000",
    }
    assert {row["std"] for row in rows(halves)} == {f"{0.5**0.5:.5f}", "0.00000", f"{2**0.5:.5f}"}
    assert {row["offset"] for row in rows(halves)} == {"-3.00000", "2.00000"}
    assert halves.notes == ()
    assert "Natural MI: -3.000, Adversarial MI: 2.000" in halves.caption


def test_figure_4_takes_the_attack_that_is_there() -> None:
    columns = [[1.0, 3.0], [0.0, 2.0], [4.0, 4.0], [5.0, 7.0]]
    found = mi_figure(question("4"), [split("eq-5", 0, *columns, attack="aa")], says)
    assert {value.spot.attack for value in found.values} == {"aa"}
    assert found.drawn.groups("Natural MI") == ["Our (eq. 5)"]
    assert found.remedy.split("--objective ")[1].split()[0] == "eq-4"
    both = [split("eq-5", 0, *columns, attack=attack) for attack in ("aa", "pgd-40")]
    assert mi_figure(question("4"), both, says).title.startswith("Standard AT under PGD-40")
    assert mi_figure(question("4", attacks=("aa",)), both, says).title.startswith("Standard AT under AA")
    with pytest.raises(BenchError, match="one attack"):
        mi_figure(question("4", attacks=("aa", "pgd-40")), both, says)


def test_an_estimate_that_is_not_finite_is_no_number() -> None:
    records = [
        split("eq-4", 0, [1, 3], [0, 2], [4, 4], [5, 7]),
        split("eq-5", 0, [np.nan, 3], [1, 2], [4, 4], [5, 7]),
    ]
    found = {(row["panel"], row["objective"], row["estimate"]): row for row in rows(_four(records))}
    assert found["Natural MI", "eq-5", "natural_of_x"]["mean"] == "ERROR"
    assert found["Natural MI", "eq-5", "natural_of_x"]["per_seed"] == "0:ERROR"
    assert found["Natural MI", "eq-4", "natural_of_x"]["mean"] == "2.00000"


def _four(records: list[MIRecord]) -> Figure:
    return mi_figure(question("4"), records, says)


def test_figure_5_by_hand(ablation: Figure) -> None:
    found = {(row["group"], row["series"]): row for row in rows(ablation)}
    whole = found["PGD-40", "Ori"]
    assert (whole["mean"], whole["std"], whole["per_seed"]) == (
        "55.00000",
        f"{50**0.5:.5f}",
        "0:60.00000 1:50.00000",
    )
    assert (whole["offset"], whole["unit"], whole["images"]) == ("", "%", "10")
    assert (found["AA", "Ori"]["mean"], found["AA", "Ori"]["std"]) == ("30.00000", f"{200**0.5:.5f}")
    partly = found["AA", "Standard"]
    assert (partly["mean"], partly["std"], partly["seeds"]) == ("30.00000", "", "1")
    assert partly["status"] == "Standard AT × AA is missing for seed 1"
    failed = found["PGD-40", "λ = 0"]
    assert (failed["mean"], failed["std"], failed["seeds"]) == ("ERROR", "", "0")
    assert failed["per_seed"] == "0:50.00000 1:ERROR"
    assert failed["status"] == "NAMID, λ = 0 × PGD-40 failed, seed 1: ValueError: <planted> & 5 %"
    assert "the text names PGD and FWA" in ablation.caption
    assert "sample std over 1 to 2 seeds" in ablation.caption


def test_figure_5_says_how_to_fill_it(ablation: Figure) -> None:
    """Not NAMID, which is whole: 2 attacks x 4 defenses, and both seeds."""
    assert ablation.remedy == (
        "bench run --defense standard,namid-no-adversarial-mi,namid-no-natural-mi,namid-no-lambda"
        " --dataset digits --norm linf --attacks pgd-40,aa --threat white --seeds 2"
    ).replace("standard,namid-no-adversarial-mi,namid-no-natural-mi,namid-no-lambda", _lacking(ablation))
    assert set(_lacking(ablation).split(",")) == set(ABLATION[1:])
    assert "failed" in ablation.notes[0]
    assert len(ablation.notes) == 6  # 1 failed, 4 missing, the command
    text = to_text(to_table(ablation))
    assert "ERROR" in text
    assert "55.0 ± 7.1" in text


def _lacking(figure: Figure) -> str:
    return ",".join(dict.fromkeys(value.spot.defense for value in figure.values if value.lacking))


def test_figure_7_by_hand_and_in_l2_without_ti_dim() -> None:
    records = [
        record(defense, attack, 0, kept, norm=norm)
        for norm in ("linf", "l2")
        for defense, attack, kept in (
            ("namid-eq-4", "none", 9),
            ("namid", "none", 8),
            ("namid-eq-4", "pgd-40", 3),
            ("namid", "pgd-40", 5),
        )
    ]
    first = accuracy_figure(question("7"), records, says)
    assert means(first) == {
        ("None", "MIM"): "90.00000",
        ("None", "Our"): "80.00000",
        ("PGD-40", "MIM"): "30.00000",
        ("PGD-40", "Our"): "50.00000",
        **{(attack, series): "missing" for attack in ("AA", "TI-DIM") for series in ("MIM", "Our")},
    }
    assert "One training seed" in first.caption
    second = accuracy_figure(question("7", norm="l2"), records, says)
    assert second.notes[0] == "TI-DIM does not work in L2"
    assert "--attacks aa --" in second.remedy


@pytest.mark.parametrize("change", [{"threat": "black"}, {"norm": "l2"}, {"eps": 1.0}])
def test_other_threats_norms_and_budgets_are_not_drawn(change: dict[str, Any]) -> None:
    other = record("namid", "pgd-40", 1, 1, **change)
    found = accuracy_figure(question("7"), [record("namid", "pgd-40", 0, 5), other], says)
    assert means(found)["PGD-40", "Our"] == "50.00000"


def test_estimates_under_another_norm_are_not_drawn() -> None:
    own = [standard(attack, [2.0, 4.0], [1.0, 2.0], [0.0, 1.0]) for attack in ("pgd-40", "aa")]
    other = [
        dataclasses.replace(
            standard(each.spec["attack"], [9.0, 9.0], [9.0, 9.0], [-9.0, 9.0]),
            family=f"l2-{each.family}",
            spec={**each.spec, "norm": "l2"},
        )
        for each in own
    ]
    found = mi_figure(question("2"), [*own, *other], says)
    assert means(found)["AA", "I(x; h(x))"] == "3.00000"


def test_seeds_asked_for_are_missed() -> None:
    found = accuracy_figure(question("7", seeds=3), [record("namid", "pgd-40", 0, 5)], says)
    assert "NAMID × PGD-40 is missing for seeds 1, 2" in found.notes
    assert found.remedy.endswith("--seeds 3")


def test_nothing_or_only_failures_is_an_error() -> None:
    with pytest.raises(NothingToDrawError, match="bench run --defense namid-eq-4,namid --dataset digits"):
        accuracy_figure(question("7"), [], says)
    with pytest.raises(NothingToDrawError, match="bench estimate-mi --defense undefended"):
        mi_figure(question("2"), [], says)
    failed = [record("namid", "pgd-40", 0, 0, error="Traceback\nValueError: planted")]
    with pytest.raises(NothingToDrawError, match="failed, seed 0: ValueError: planted"):
        accuracy_figure(question("7"), failed, says)


def test_accuracies_at_any_distance_are_refused() -> None:
    asked = question("7", norm="l2", attacks=("cw",), attack_set="paper")
    with pytest.raises(BenchError, match="any distance"):
        accuracy_figure(asked, [], says)
    with pytest.raises(BenchError, match="no attack in l2: TI-DIM does not work in L2"):
        accuracy_figure(question("7", norm="l2", attacks=("ti-dim",)), [], says)


def test_the_command_keeps_the_options_that_were_given() -> None:
    request = Request(
        defense=["namid"],
        norm=["l2"],
        attacks=["aa"],
        attack_set="paper",
        seeds=7,
        n_examples=100,
        schedule="fast",
        epochs=3,
        width=16,
        eps_l2=0.4,
        config=Path("my own.toml"),
        out=Path("elsewhere"),
        plugin=[Path("a.py"), Path("b.py")],
        download=True,
    )
    gap = Gap(
        verb="run",
        dataset="digits",
        norm="l2",
        defenses=("standard", "namid"),
        attacks=("pgd-40", "aa"),
        objectives=(),
        seeds=7,
    )
    assert shlex.split(command(request, gap)) == [
        *("bench", "run", "--defense", "standard,namid", "--dataset", "digits", "--norm", "l2"),
        *("--attacks", "pgd-40,aa", "--threat", "white", "--seeds", "7", "--n-examples", "100"),
        *("--eps-l2", "0.4", "--plugin", "a.py", "--plugin", "b.py", "--config", "my own.toml"),
        *("--set", "paper", "--schedule", "fast", "--epochs", "3", "--width", "16", "--out", "elsewhere"),
        "--download",
    ]


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("name", ["radar", "halves", "ablation"])
def test_files_are_what_they_say(name: str, columns: int, request: pytest.FixtureRequest) -> None:
    figure: Figure = request.getfixturevalue(name)
    png = draw(figure, "png", columns)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    assert width == round(WIDTHS[columns] * 300)
    assert 500 < height < 1300
    root = ElementTree.fromstring(draw(figure, "svg", columns))
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    groups = [group for panel in figure.panels for group in figure.drawn.groups(panel)]
    for label in [*groups, *figure.series, figure.unit, figure.title, *filter(None, figure.panels)]:
        assert label in texts, (label, texts)
    assert figure.caption in "".join(root.itertext())
    pdf = draw(figure, "pdf", columns)
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")
    assert b"/FontFile2" in pdf  # TrueType, embedded
    assert b"/Type3" not in pdf


def test_an_error_is_a_word_where_its_bar_would_be(ablation: Figure) -> None:
    root = ElementTree.fromstring(draw(ablation, "svg"))
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("ERROR") == 1
    assert texts.count("missing") == 3  # AA of three defenses, λ = 0 among them
    assert "55.0" in texts


def test_the_same_figure_gives_the_same_bytes(radar: Figure, ablation: Figure) -> None:
    for drawn, form in ((radar, "svg"), (ablation, "pdf")):
        content = draw(drawn, form)
        assert content == draw(drawn, form)
        assert b"/CreationDate" not in content
        assert b"dc:date" not in content


def test_the_users_style_is_left_alone(radar: Figure) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 30.0, "text.color": "red", "lines.solid_capstyle": "round"}):
        loud = draw(radar, "svg")
        assert matplotlib.rcParams["font.size"] == 30.0
    assert loud == draw(radar, "svg")


def test_a_data_sets_name_is_text(ablation: Figure) -> None:
    odd = dataclasses.replace(ablation, title="a$b$ <c> & d_e^f")
    root = ElementTree.fromstring(draw(odd, "svg"))
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a$b$ <c> & d_e^f" in texts


def test_data_needs_neither_torch_nor_matplotlib() -> None:
    program = (
        "import sys, robustness_bench.benchmark.cli.figure, robustness_bench.benchmark.report.figures.namid; "
        "import robustness_bench.benchmark.report.figures.drawing.namid; "
        "sys.exit(bool({'torch', 'matplotlib'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def _tasks(request: Request, objectives: tuple[str, ...]) -> list[Task]:
    protocol = request.protocol()
    data = {"digits": locate("digits", Path("data"))}
    return [*make_plan(protocol, data), *make_mi_plan(protocol, data, objectives)]


def fill(request: Request, objectives: tuple[str, ...] = ("standard",)) -> None:
    """Results of everything a request asks for, without any work: half of the images survive."""
    n = request.n_examples or 0
    facts = {
        "sample": np.arange(n),
        "label": np.ones(n, int),
        "clean_prediction": np.ones(n, int),
        "adversarial_prediction": np.arange(n) % 2,
        **{name: np.zeros(n) for name in ("linf", "l2", "l1", "forwards", "backwards")},
    }
    kept = ("sample", "label", "clean_prediction", "adversarial_prediction")
    names = ("standard_of_x", "standard_of_x_adv", "standard_across")
    estimates = {name: np.arange(n) * (3.0 - index) for index, name in enumerate(names)}
    for task in _tasks(request, objectives):
        path = request.out / task.path
        if task.kind == "evaluate":
            write_record(path, task, facts, environment={}, seconds=0.0)
        elif task.kind == "measure-mi":
            rows = {**{name: facts[name] for name in kept}, **estimates}
            write_mi_record(path, task, rows, environment={}, seconds=0.0)


def options(**changes: Any) -> Request:
    base = Request(dataset=["digits"], norm=["linf"], n_examples=4, width=2, threat=["white"])
    return dataclasses.replace(base, **changes)


def call(request: Request, number: str, **more: Any) -> None:
    """The verb as typer calls it."""
    given = {each.name: getattr(request, each.name) for each in dataclasses.fields(Request)}
    figure(**given, number=number, **{"formats": ["svg"], "columns": 1, **more})


def test_the_verb_finds_what_the_store_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = options(out=tmp_path, attacks=["pgd-40,aa"], defense=["namid,namid-eq-4"], seeds=2)
    fill(request)
    call(options(out=tmp_path), "7", formats=["png,svg", "pdf"])
    said = capsys.readouterr().out
    files = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert files == [f"figure-7-digits-linf.{suffix}" for suffix in ("csv", "pdf", "png", "svg")]
    assert "50.0 ± 0.0" in said
    assert "figure-7-digits-linf.png" in said
    assert (
        f"to fill this: bench run --defense namid-eq-4,namid --dataset digits --norm linf --attacks ti-dim \
--threat white --seeds 2 --n-examples 4 --width 2 --out {tmp_path}"
        in said
    )
    table = read(tmp_path / "figures" / "figure-7-digits-linf.csv")
    assert [row["mean"] for row in table] == ["50.00000"] * 6 + ["missing"] * 2


def test_the_verb_passes_over_other_settings(tmp_path: Path) -> None:
    fill(options(out=tmp_path, attacks=["pgd-40"], defense=["namid"], width=3))
    with pytest.raises(BenchError, match="nothing to draw in figure 7 of digits linf"):
        call(options(out=tmp_path), "7")


def test_its_own_command_fills_a_figure(tmp_path: Path) -> None:
    """Figure 2 of another defense: what it says is missing is what it then finds."""
    with pytest.raises(BenchError, match="bench estimate-mi") as refusal:
        call(options(out=tmp_path, defense=["standard"], attack_set="paper"), "2")
    words = shlex.split(str(refusal.value).partition(": run ")[2])
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert given["--attacks"] == "pgd-10,pgd-40,fwa-10,fwa-40,aa"
    assert given["--objective"] == "standard"
    fill(
        options(
            out=Path(given["--out"]),
            attacks=[given["--attacks"]],
            defense=[given["--defense"]],
            attack_set=given["--set"],
            n_examples=int(given["--n-examples"]),
            width=int(given["--width"]),
        )
    )
    call(options(out=tmp_path, defense=["standard"], attack_set="paper"), "2")
    table = read(tmp_path / "figures" / "figure-2-digits-linf-paper.csv")
    assert [row["mean"] for row in table] == ["4.50000", "3.00000", "1.50000"] * 5
    assert {row["status"] for row in table} == {"ok"}


@pytest.mark.parametrize(
    ("number", "changes", "more", "says"),
    [
        ("3", {}, {}, "unknown figure '3'; known: 2, 4, 5, 7"),
        ("5", {"defense": ["trades"]}, {}, "leave --defense out"),
        ("2", {"defense": ["trades,standard"]}, {}, "one defense at a time"),
        ("2", {"attacks": ["none"]}, {}, "leave none out"),
        ("5", {"threat": ["black"]}, {}, "leave --threat out"),
        ("5", {}, {"formats": ["jpeg"]}, "unknown format 'jpeg'"),
        ("5", {}, {"columns": 3}, "--columns must be 1 or 2, got 3"),
    ],
)
def test_wrong_input_is_one_line(
    number: str, changes: dict[str, Any], more: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(BenchError) as refusal:
        call(options(out=tmp_path, **changes), number, **more)
    assert says in str(refusal.value).replace("did you mean", "")
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())
