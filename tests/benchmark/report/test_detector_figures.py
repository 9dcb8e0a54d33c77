"""Figures of detectors from faked records: their numbers by hand, what is missing, the files."""

import csv
import dataclasses
import io
import itertools
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from robustness_bench.benchmark.cli.figure import figure
from robustness_bench.benchmark.cli.shared.options import Request
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.errors import BenchError, StoreError
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.report.detectors.roc import FPRS, roc, tpr_at
from robustness_bench.benchmark.report.figures import generated
from robustness_bench.benchmark.report.figures import roc as roc_words
from robustness_bench.benchmark.report.figures import scores as detection_scores
from robustness_bench.benchmark.report.figures.bins import BINS, Scale, scale_of
from robustness_bench.benchmark.report.figures.drawing.detectors import draw_roc, draw_scores, look
from robustness_bench.benchmark.report.figures.drawing.grids import draw_generated
from robustness_bench.benchmark.report.figures.drawing.namid import WIDTHS
from robustness_bench.benchmark.report.figures.generated import generated_figure
from robustness_bench.benchmark.report.figures.namid import NothingToDrawError
from robustness_bench.benchmark.report.figures.pairs import pair_up
from robustness_bench.benchmark.report.figures.roc import Curve, RocFigure, roc_figure
from robustness_bench.benchmark.report.figures.scores import scores_figures
from robustness_bench.benchmark.report.rendering.formats import to_text
from robustness_bench.benchmark.store.detections import FLAG, SCORE, Detection, write_detection
from robustness_bench.benchmark.store.generated import (
    ConditionalExamples,
    examples_of,
    find_conditional_examples,
    read_conditional_examples,
    write_conditional_examples,
)
from robustness_bench.defenses.detectors.registry import detector_presets

Scores = dict[str, list[float]]
NAMES = [name for name, preset in detector_presets().items() if not preset.code]  # ours


def cell(
    scores: Scores,
    attack: str = "none",
    kappa: float = 0.0,
    *,
    system: str = "magnet",
    seed: int = 0,
    setting: str = "",
    thresholds: dict[str, float] | None = None,
    missed: int = 0,
    **changes: Any,
) -> Detection:
    """A cell with these scores of images of class 1; ``missed`` of them fool nobody.

    Detectors whose names differ in a last apostrophe alone compute the same score.
    """
    n = len(next(iter(scores.values())))
    thresholds = thresholds or dict.fromkeys(scores, 5.0)
    prediction = np.ones(n, int)
    if attack != "none":
        prediction[missed:] = 0
    columns = {SCORE + name: np.array(values, float) for name, values in scores.items()}
    flags = {FLAG + name: np.array(values, float) >= thresholds[name] for name, values in scores.items()}
    setting = setting or ("natural" if attack == "none" else "oblivious")
    spec = {
        **{"dataset": "digits", "system": system, "attack": attack, "confidence": kappa},
        **{"setting": setting, "parameters": {}, "n_examples": n},
        "detectors": {name: {"detector": name.rstrip("'")} for name in scores},
    }
    name = f"{system}-{attack}-{kappa:g}-{setting}-{n}"
    made = Detection(
        id=f"{name}-{seed}",
        family=name,
        seed=seed,
        spec=spec,
        status="ok",
        error="",
        environment={},
        seconds=1.0,
        thresholds=thresholds,
        remarks={},
        rows={
            "sample": np.arange(n),
            "label": np.ones(n, int),
            "clean_prediction": np.ones(n, int),
            "prediction": prediction,
            "reformed_prediction": prediction,
            **columns,
            **flags,
        },
    )
    return dataclasses.replace(made, **changes)


NATURAL = [0.0, 1.0, 2.0, 3.0, 4.0, 4.0, 6.0, 1.5, 2.5, 3.5]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def drawn(figure: RocFigure) -> list[Curve]:
    return [curve for curve in figure.curves if curve.drawn]


def texts(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]


# --- curves -------------------------------------------------------------------------------------------------


def test_roc_points_by_hand() -> None:
    """Natural 6 4 4 3.5 …; a threshold at 4 flags three of ten, none flags exactly two."""
    natural, adversarial = np.array(NATURAL), np.array([7.0, 5.0, 4.0, 3.6, 0.5])
    at = partial(tpr_at, natural, adversarial)
    assert at(0.0) == at(0.09) == 0.2  # only 7 is above 6
    assert at(0.1) == at(0.2) == at(0.29) == 0.4  # 5 is above 4 and 4
    assert at(0.3) == 0.8
    assert at(0.9) == 1.0
    assert at(1.0) == 1.0
    assert tpr_at(natural, np.array([0.0]), 0.9) == 0.0
    assert tpr_at(natural, np.array([0.0]), 1.0) == 1.0


@pytest.mark.parametrize("fpr", [0.0, 0.07, 0.29, 0.3, 0.58, 0.999, 1.0])
def test_roc_points_are_the_best_of_all_thresholds(fpr: float) -> None:
    rng = np.random.default_rng(0)
    natural, adversarial = rng.integers(0, 40, 100).astype(float), rng.integers(5, 45, 77).astype(float)
    best = max(
        float((adversarial >= threshold).mean())
        for threshold in [*natural, *adversarial, np.inf]
        if round((natural >= threshold).sum()) <= round(fpr * 100, 6)
    )
    assert tpr_at(natural, adversarial, fpr) == best


def test_curves_run_from_a_thousandth_to_one() -> None:
    assert (FPRS[0], FPRS[-1]) == (0.001, 1.0)
    points = roc(np.array(NATURAL), np.array([7.0, -1.0]))
    assert points[0] == 0.5
    assert points[-1] == 1.0
    assert list(points) == sorted(points)


# --- what is compared ---------------------------------------------------------------------------------------


def test_auroc_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    clean, attacked = rng.integers(0, 30, 200).tolist(), rng.integers(9, 40, 90).tolist()
    (curve,) = roc_figure("digits", [cell({"a": clean}), cell({"a": attacked}, "cw")]).curves
    assert curve.auroc is not None
    assert curve.auroc.mean == pytest.approx(roc_auc_score([0] * 200 + [1] * 90, clean + attacked), abs=1e-12)


def test_only_successful_images_are_adversarial() -> None:
    attacked = cell({"a": [9.0, 9.0, 1.0, 8.0]}, "cw", missed=2)
    wrong = attacked.rows | {"clean_prediction": np.array([1, 1, 1, 0])}
    (pair,), notes = pair_up([cell({"a": NATURAL}), dataclasses.replace(attacked, rows=wrong)])
    assert pair.adversarial.tolist() == [1.0]
    assert pair.natural.tolist() == NATURAL
    assert (pair.fpr, pair.tpr, pair.threshold) == (0.1, 0.0, 5.0)
    assert notes == []


def test_natural_images_are_those_of_the_same_system_and_seed() -> None:
    cells = [
        cell({"a": [float(seed)] * 4}, system=system, seed=seed)
        for seed in (1, 2)
        for system in ("magnet", "mi-magnet")
    ]
    attacked = [cell({"a": [9.0]}, "cw", seed=seed, system="mi-magnet") for seed in (1, 2)]
    pairs, _ = pair_up([*cells, *attacked])
    assert [(pair.seed, pair.natural[0]) for pair in pairs] == [(1, 1.0), (2, 2.0)]
    alone, notes = pair_up([cells[0], attacked[0]])
    assert alone == []
    assert notes == ["mi-magnet under cw (oblivious) at κ = 0, seed 1: its natural images are missing"]


def test_a_detector_of_several_systems_is_drawn_once() -> None:
    cells = [
        cell({"a": scores}, attack, system=system)
        for system, natural in (("mi-magnet", [*NATURAL, 1.0]), ("magnet", NATURAL))
        for scores, attack in ((natural, "none"), ([7.0, 5.0], "cw"))
    ]
    (curve,) = roc_figure("digits", cells).curves
    assert (curve.detector, curve.seeds, curve.natural_images) == ("a", 1, 10)  # of the first system


def test_what_knows_a_system_has_a_panel_of_its_own() -> None:
    cells = [
        cell(scores, attack, system=system, setting=setting)
        for system in ("mi-magnet", "magnet")
        for scores, attack, setting in (
            ({"a": NATURAL}, "none", ""),
            ({"a": [7.0]}, "cw", ""),
            ({"a": [6.0]}, "adaptive", "white"),
            ({"a": [6.5]}, "adaptive", "grey"),
        )
    ]
    figure = roc_figure("digits", cells)
    assert [panel.label for panel in figure.panels] == [
        "CW",
        "adaptive, white box, MagNet",
        "adaptive, white box, MI-MagNet (literal)",
        "adaptive, grey box, MagNet",
        "adaptive, grey box, MI-MagNet (literal)",
    ]
    assert "no claim of security" not in roc_words.caption(figure)
    assert "no claim of security" in roc_words.caption(roc_figure("digits", cells[:2]))


def test_detectors_are_in_the_order_of_the_registry() -> None:
    names = ["z", NAMES[4], "a", NAMES[1]]
    cells = [cell(dict.fromkeys(names, NATURAL)), cell({name: [7.0] for name in names}, "cw")]
    assert roc_figure("digits", cells).detectors == [NAMES[1], NAMES[4], "a", "z"]


def test_the_worst_kappa_is_drawn_and_all_are_written() -> None:
    """By TPR at 0.5 % (1 of 200 natural images), then by AUROC."""
    clean = [float(index) for index in range(200)]
    by_kappa = {0.0: [300.0, 300.0], 10.0: [300.0, 100.0], 20.0: [300.0, 99.0], 30.0: [300.0, 198.0]}
    cells = [cell({"a": clean}), *(cell({"a": each}, "cw", kappa) for kappa, each in by_kappa.items())]
    figure = roc_figure("digits", cells)
    assert [(curve.kappa, curve.drawn) for curve in figure.curves] == [
        *((0.0, False), (10.0, False), (20.0, True), (30.0, False))
    ]
    assert [row["drawn"] for row in rows(roc_words.to_csv(figure))] == ["", "", "yes", ""]
    asked = roc_figure("digits", cells, [10.0, 30.0])
    assert [(curve.kappa, curve.drawn) for curve in asked.curves] == [(10.0, True), (30.0, False)]
    assert asked.name == "roc-digits-kappa-10-30"
    assert figure.name == "roc-digits"
    assert (asked.title, figure.title) == (
        "Detectors on digits, worst κ of 10, 30",
        "Detectors on digits, worst κ",
    )
    with pytest.raises(BenchError, match="no results at κ = 7: there are 0, 10, 20, 30"):
        roc_figure("digits", cells, [7.0, 10.0])


def test_detectors_of_one_score_share_a_curve() -> None:
    scores = {"a": NATURAL, "a'": NATURAL}
    cut = {"a": 5.0, "a'": 3.0}
    cells = [cell(scores, thresholds=cut), cell({"a": [7.0, 4.0], "a'": [7.0, 4.0]}, "cw", thresholds=cut)]
    figure = roc_figure("digits", cells)
    assert figure.detectors == ["a"]
    assert [(curve.detector, curve.fpr.mean, curve.tpr and curve.tpr.mean) for curve in drawn(figure)] == [
        ("a", 0.1, 0.5),
        ("a'", 0.5, 1.0),
    ]
    (scores_figure,) = scores_figures("digits", cells)
    (histogram,) = scores_figure.histograms
    assert histogram.detector == "a"
    assert [(line.threshold, line.fpr, line.tpr) for line in histogram.lines] == [(5, 0.1, 0.5), (3, 0.5, 1)]
    shown = [
        cell({"a'": each}, attack, system="mi-magnet")
        for each, attack in ((NATURAL, "none"), ([7.0], "stadv"))
    ]
    (_, other) = scores_figures("digits", [*cells, *shown])  # a is not in this panel
    assert [each.detector for each in other.histograms] == ["a'"]


def test_seeds_are_averaged_at_equal_fpr() -> None:
    cells = [
        cell({"a": NATURAL}, seed=0),
        cell({"a": [10 * each for each in NATURAL]}, seed=1, thresholds={"a": 50.0}),
        cell({"a": [7.0, 7.0]}, "cw", seed=0),
        cell({"a": [70.0, 5.0]}, "cw", seed=1, thresholds={"a": 50.0}),
    ]
    (curve,) = roc_figure("digits", cells).curves
    assert curve.seeds == 2
    assert curve.points[0] == 0.75
    assert curve.tpr is not None
    assert (curve.tpr.mean, curve.fpr.mean) == (0.75, 0.1)
    assert curve.tpr.std == pytest.approx(0.125**0.5)
    assert "Means over 2 training seeds" in roc_words.caption(roc_figure("digits", cells))
    assert "One training seed" in roc_words.caption(roc_figure("digits", cells[::2]))


def test_the_csv_by_hand() -> None:
    cells = [cell({"a": NATURAL}), cell({"a": [7.0, 5.0, 4.0, 3.6]}, "cw", 10.0)]
    (row,) = rows(roc_words.to_csv(roc_figure("digits", cells)))
    # wins over the natural images: 10, 9, 7 and two ties, 7
    assert row["auroc"] == f"{(10 + 9 + 8 + 7) / 40:.5f}"
    assert (row["curve_tpr_at_0.1"], row["curve_tpr_at_5"]) == ("0.25000", "0.25000")
    assert (row["fpr"], row["tpr"], row["tpr_std"], row["seeds"]) == ("0.10000", "0.50000", "", "1")
    assert (row["natural_images"], row["adversarial_images"]) == ("10", "4")
    assert row["curve"] == "0.00100:0.25000 0.10000:0.50000 0.31623:1.00000"
    assert (row["attack"], row["setting"], row["system"], row["kappa"]) == ("cw", "oblivious", "", "10")
    text = to_text(roc_words.to_table(roc_figure("digits", cells)))
    assert "0.850" in text
    assert "50.0 %" in text


def test_failures_remarks_and_images_that_fool_nobody_are_noted() -> None:
    failed = cell({"a": []}, "cw", 10.0, status="error", error="Traceback\nValueError: planted\n")
    natural, attacked = cell({"a": NATURAL}), cell({"a": [7.0]}, "cw", remarks={"a": "generator inadequate"})
    nobody = cell({"a": [7.0]}, "cw", 20.0, missed=1)
    figure = roc_figure("digits", [natural, attacked, nobody, failed])
    assert figure.notes == (
        "magnet under cw (oblivious) at κ = 10, seed 0 failed: ValueError: planted",
        "no image under CW at κ = 20 fools the classifier",
        "† a: generator inadequate",
    )
    assert figure.label("a") == "a †"
    assert [row["auroc"] for row in rows(roc_words.to_csv(figure))] == ["1.00000", ""]
    with pytest.raises(
        NothingToDrawError, match=r"nothing to draw in roc of digits; magnet under cw .* planted"
    ):
        roc_figure("digits", [natural, failed])
    with pytest.raises(NothingToDrawError):
        roc_figure("digits", [])


def test_contradictions_are_refused() -> None:
    natural = cell({"a": NATURAL})
    with pytest.raises(
        BenchError, match=r"run under different settings \(magnet-cw-0-oblivious-1-0 and .*-2-0"
    ):
        pair_up([natural, cell({"a": [7.0]}, "cw"), cell({"a": [7.0, 7.0]}, "cw")])
    with pytest.raises(
        StoreError, match=r"a score of a of magnet under cw .* is not a number: delete the cell"
    ):
        pair_up([natural, cell({"a": [float("nan")]}, "cw")])
    more = cell({"a": [*NATURAL, 1.0]})
    (pair,), _ = pair_up([more, natural, cell({"a": [7.0]}, "cw")])
    assert len(pair.natural) == 11


# --- histograms ---------------------------------------------------------------------------------------------


def test_scales_fit_the_scores() -> None:
    rng = np.random.default_rng(0)
    uniform, normal = rng.random(500), rng.normal(size=500)
    assert scale_of(uniform, uniform, [0.99]).kind == "linear"
    assert scale_of(normal, normal, [2.0]).kind == "linear"
    assert scale_of(10 ** (3 * normal), 10 ** (3 * normal), [9.0]).kind == "log"
    assert scale_of(2 - 10 ** (2 * normal), 2 - 10 ** (2 * normal), [1.9]).kind == "asinh"
    constant = np.ones(4)
    assert scale_of(constant, constant, [1.0]) == Scale(kind="linear", low=0.5, high=1.5)
    assert scale_of(np.zeros(9), np.array([*[0.0] * 8, 1e6]), [1.0]).kind == "asinh"


@pytest.mark.parametrize(
    "scale",
    [
        Scale(kind="linear", low=-1.0, high=3.0),
        Scale(kind="log", low=1e-9, high=20.0),
        Scale(kind="asinh", low=-1e4, high=2.0, width=0.3),
    ],
)
def test_a_scale_is_a_rising_map_with_round_ticks(scale: Scale) -> None:
    edges = scale.edges()
    assert len(edges) == BINS + 1
    assert (edges[0], edges[-1]) == (scale.low, scale.high)
    assert [scale.place(edge) for edge in edges] == pytest.approx([index / BINS for index in range(BINS + 1)])
    assert (scale.place(scale.low - 1), scale.place(scale.high + 1)) == (0.0, 1.0)
    places = [scale.place(tick) for tick in scale.ticks()]
    assert 2 <= len(places) <= 4
    assert places == sorted(places)
    assert all(right - left >= 0.27 for left, right in itertools.pairwise(places))


def test_bins_count_everything_once() -> None:
    scale = Scale(kind="linear", low=0.0, high=4.0)
    scores = np.array([-np.inf, 0.0, 0.5, 1.0, 3.0, 4.0, 9.0, np.inf])
    assert scale.shares(scores, 4) == (3 / 8, 1 / 8, 0.0, 4 / 8)
    wide = scale_of(np.array([-np.inf, 1.0, 2.0]), np.array([3.0, np.inf]), [50.0, np.inf])
    assert wide.low == 1.005
    assert 50.0 < wide.high < 60.0


def test_histograms_are_of_the_worst_kappa_and_the_first_seed() -> None:
    cells = [cell({"a": NATURAL}, seed=seed) for seed in (2, 1)]
    cells += [cell({"a": [7.0, kappa]}, "cw", kappa, seed=seed) for kappa in (1.0, 6.0) for seed in (2, 1)]
    (figure,) = scores_figures("digits", cells)
    (histogram,) = figure.histograms
    assert (histogram.kappa, histogram.seed, histogram.adversarial_images) == (1.0, 1, 2)
    assert sum(histogram.natural) == pytest.approx(1)
    assert sum(histogram.adversarial) == pytest.approx(1)
    assert [(line.fpr, line.tpr) for line in histogram.lines] == [(0.1, 0.5)]
    assert figure.name == "scores-digits-cw"
    table = rows(detection_scores.to_csv(figure))
    assert len(table) == BINS
    assert sum(float(row["adversarial"]) for row in table) == pytest.approx(1, abs=1e-3)
    assert {row["thresholds"] for row in table} == {"a:5"}
    full = [row for row in table if row["adversarial"] == "0.50000"]
    assert [
        float(row["bin_low"]) <= score < float(row["bin_high"])
        for row, score in zip(full, (1, 7), strict=True)
    ]
    assert "50.0 %" in to_text(detection_scores.to_table(figure))


def test_a_knowing_attack_is_in_the_files_name() -> None:
    cells = [cell({"a": NATURAL}), cell({"a": [7.0]}, "adaptive", 1.0, setting="white")]
    (figure,) = scores_figures("digits", cells, [1.0])
    assert figure.name == "scores-digits-adaptive-white-magnet-kappa-1"


# --- generated images ---------------------------------------------------------------------------------------


def examples(n: int = 3, classes: int = 4, channels: int = 1, size: int = 6) -> ConditionalExamples:
    """The classifier sees image 0's class 1 as 2, all else as it should."""
    rng = np.random.default_rng(0)
    predicted = np.tile(np.arange(classes), (n, 1))
    predicted[0, 1] = 2
    return ConditionalExamples(
        x=rng.integers(0, 256, (n, channels, size, size), dtype=np.uint8),
        reconstruction=rng.integers(0, 256, (n, channels, size, size), dtype=np.uint8),
        conditional=rng.integers(0, 256, (n, classes, channels, size, size), dtype=np.uint8),
        label=np.arange(n)[::-1] % classes,
        predicted=predicted,
    )


def test_examples_come_back_and_give_the_same_bytes(tmp_path: Path) -> None:
    path = examples_of(tmp_path / "checkpoints" / "digits" / "generator-seed0-abc.safetensors")
    assert path.name == "generator-seed0-abc.examples.npz"
    write_conditional_examples(path, examples())
    first = path.read_bytes()
    read = read_conditional_examples(path)._asdict()
    for name, made in examples()._asdict().items():
        assert read[name].dtype == made.dtype
        assert np.array_equal(read[name], made)
    write_conditional_examples(path, examples())
    assert path.read_bytes() == first
    (path.parent / f".{path.name}").write_bytes(b"half")
    assert find_conditional_examples(tmp_path, "digits") == [path]
    assert find_conditional_examples(tmp_path, "mnist") == []


def _saved(**changes: Any) -> bytes:
    buffer = io.BytesIO()
    kept = {name: value for name, value in (examples()._asdict() | changes).items() if value is not None}
    np.savez(buffer, **kept)
    return buffer.getvalue()


def _array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def _flipped(at: int) -> bytes:
    content = bytearray(_saved())
    content[at] ^= 0xFF
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        _saved()[:-30],
        _saved()[:400],
        _flipped(200),
        _array(),
        _saved(label=None),
        _saved(more=np.zeros(3)),
        _saved(x=np.array([object()])),
        _saved(x=examples().x.astype(np.float32)),
        _saved(label=examples().label.astype(np.int32)),
        _saved(x=examples().x[:2]),
        _saved(reconstruction=examples().reconstruction[..., :5]),
        _saved(conditional=examples().conditional[:, :3]),
        _saved(conditional=examples().conditional[:, 0]),
        _saved(predicted=examples().predicted.T),
        _saved(label=np.array([0, 1, 4])),
        _saved(predicted=examples().predicted - 1),
        _saved(**{k: v[:0] for k, v in examples()._asdict().items()}),
        _saved(**examples(channels=2)._asdict()),
    ],
)
def test_damaged_examples_are_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "generator.examples.npz"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"generator\.examples\.npz is damaged") as refusal:
        read_conditional_examples(path)
    assert "\n" not in str(refusal.value)
    with pytest.raises(StoreError, match="damaged"):
        read_conditional_examples(tmp_path / "absent.npz")


def test_wrong_examples_are_not_written(tmp_path: Path) -> None:
    scaled: Any = examples().x / 255
    with pytest.raises(ValueError, match="x is float64"):
        write_conditional_examples(tmp_path / "a", examples()._replace(x=scaled))
    assert not list(tmp_path.iterdir())


def test_a_handful_of_images_of_different_classes() -> None:
    figure = generated_figure("digits", "generator", examples(n=9, classes=4))
    assert figure.examples.label.tolist() == [0, 3, 2, 1, 0, 3, 2, 1, 0]
    assert figure.rows == (0, 4, 3, 2, 1, 5)
    assert figure.conditions == (0, 1, 2, 3)
    assert figure.notes == ("drawn: 6 of 9 images; the CSV has all",)
    assert figure.agreeing == 35 / 36
    many = generated_figure(
        "digits", "generator", examples(n=2, classes=40)._replace(label=np.array([7, 33]))
    )
    assert many.conditions == (0, 1, 2, 3, 4, 5, 6, 7, 8, 33)
    assert many.notes == ("drawn: 10 of 40 classes; the CSV has all",)
    assert generated_figure("digits", "generator", examples()).notes == ()


def test_the_generators_csv_and_table() -> None:
    figure = generated_figure("digits", "generator-seed0", examples())
    table = rows(generated.to_csv(figure))
    assert len(table) == 12
    assert [row for row in table if row["agrees"] == "no"] == [
        {
            **{"figure": "generated", "dataset": "digits", "generator": "generator-seed0"},
            **{"image": "0", "label": "2", "condition": "1", "predicted": "2", "agrees": "no"},
        }
    ]
    assert "91.7 %" in generated.caption(figure)
    assert "image 0, class 2" in to_text(generated.to_table(figure))


def test_what_the_classifier_sees_otherwise_is_framed() -> None:
    svg = draw_generated(generated_figure("digits", "generator", examples()), "svg")
    assert sorted(texts(svg)) == sorted(["2", "x", "x̂", "0", "1", "2", "3", "G(E(x), j) of class j ="])
    assert svg.count(b"stroke: #d55e00") == 1


# --- drawings -----------------------------------------------------------------------------------------------


def crowd(panels: int = 2) -> list[Detection]:
    """Eleven detectors under a few attacks, with two seeds."""
    names = [name for name in NAMES if not name.startswith("control-jsd")]
    rng = np.random.default_rng(0)
    attacks = ("none", "cw", "ead-en", "ead-l1", "ddn")[: panels + 1]
    return [
        cell(
            {
                name: (rng.normal(size=50) + (attack != "none") * i / 4).tolist()
                for i, name in enumerate(names)
            },
            attack,
            seed=seed,
        )
        for seed in (0, 1)
        for attack in attacks
    ]


@cache
def every_drawing() -> dict[str, Callable[[str, int], bytes]]:
    cells = crowd()
    return {
        "roc": partial(draw_roc, roc_figure("digits", cells)),
        "scores": partial(draw_scores, scores_figures("digits", cells)[0]),
        "generated": partial(draw_generated, generated_figure("digits", "generator", examples(9, 10))),
    }


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("kind", ["roc", "scores", "generated"])
def test_files_are_what_they_say(kind: str, columns: int) -> None:
    draw = every_drawing()[kind]
    png = draw("png", columns)
    width, height = struct.unpack(">II", png[16:24])
    assert width == round(WIDTHS[columns] * 300)
    assert 300 < height < 2700
    pdf = draw("pdf", columns)
    assert pdf.startswith(b"%PDF-")
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf


@pytest.mark.parametrize("kind", ["roc", "scores", "generated"])
def test_the_same_figure_gives_the_same_bytes(kind: str) -> None:
    draw = every_drawing()[kind]
    every_drawing.cache_clear()
    for form in ("svg", "pdf"):
        content = draw(form, 1)
        assert content == every_drawing()[kind](form, 1)
        assert b"/CreationDate" not in content
        assert b"dc:date" not in content


def test_a_roc_names_everything_it_shows() -> None:
    figure = roc_figure("digits", crowd())
    svg = draw_roc(figure, "svg")
    said = " ".join(texts(svg))
    labels = [detector_presets()[name].label for name in figure.detectors]
    assert len(labels) == 12
    for label in [*labels, "CW", "EAD-EN", "chance", figure.title, "FPR on natural images (%)", "0.1", "100"]:
        assert label in said, (label, said)
    assert roc_words.caption(figure) in "".join(ElementTree.fromstring(svg).itertext())


def test_scores_name_everything_they_show() -> None:
    (figure, *_) = scores_figures("digits", crowd())
    said = " ".join(texts(draw_scores(figure, "svg")))
    labels = [detector_presets()[each.detector].label for each in figure.histograms]
    for label in [*labels, "natural", "adversarial", "score (higher: more suspicious)", figure.title]:
        assert label in said, (label, said)


def test_detectors_look_different_and_always_the_same() -> None:
    names = [*NAMES, "mine", "yours"]
    looks = {name: look(name, names) for name in names}
    assert len({str(each) for each in looks.values()}) == len(names) - 2  # two controls share scores
    assert looks["control-jsd-10"] == looks["jsd-10"]
    colours = [looks[name]["color"] for name in names if not name.startswith("control-jsd")]
    assert len(set(colours)) >= 11
    for name in NAMES:
        assert look(name, [name]) == looks[name]


def test_report_needs_neither_torch_nor_matplotlib() -> None:
    program = (
        "import sys, robustness_bench.benchmark.cli.figure; "
        "from robustness_bench.benchmark.report.figures.drawing import detectors, grids; "
        "sys.exit(bool({'torch', 'matplotlib'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- the verb -----------------------------------------------------------------------------------------------


def store(out: Path, cells: Sequence[Detection]) -> None:
    """Detection records in a store."""
    data = locate("digits", out)
    for each in cells:
        path = Path("detections") / f"{each.id}.parquet"
        task = Task(
            kind="detect",
            title="",
            spec=each.spec,
            seed=each.seed,
            id=each.id,
            family=each.family,
            path=path,
            data=data,
        )
        facts = {
            name: np.zeros(len(each.rows["label"])) for name in ("linf", "l2", "l1", "forwards", "backwards")
        }
        write_detection(
            out / path, task, {**facts, **each.rows}, thresholds=each.thresholds, remarks=each.remarks,
            environment={}, seconds=1.0, error=each.error,
        )  # fmt: skip


def call(out: Path, number: str, formats: str = "svg", columns: int = 1, **changes: Any) -> None:
    """The verb as typer calls it."""
    request = Request(out=out, **changes)
    given = {each.name: getattr(request, each.name) for each in dataclasses.fields(Request)}
    figure(**given, number=number, formats=[formats], columns=columns)


def files(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "figures").iterdir())


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    store(
        tmp_path,
        [
            cell(scores, attack, kappa, seed=seed, system=system)
            for system in ("magnet", "mi-magnet")
            for seed in (0, 1)
            for scores, attack, kappa in (
                ({"a": NATURAL}, "none", 0.0),
                ({"a": [7.0, 1.0 + seed]}, "cw", 0.0),
                ({"a": [7.0, 6.5]}, "cw", 10.0),
                ({"a": [8.0]}, "ead-l1", 0.0),
            )
        ],
    )
    return tmp_path


def test_the_verb_writes_all_files(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(filled, "roc", "png,svg,pdf")
    call(filled, "scores", "png")
    write_conditional_examples(filled / "checkpoints/digits/g-seed0.examples.npz", examples())
    call(filled, "generated", "pdf", 2)
    assert files(filled) == [
        *("generated-digits-g-seed0.csv", "generated-digits-g-seed0.pdf"),
        *(f"roc-digits.{suffix}" for suffix in ("csv", "pdf", "png", "svg")),
        *(
            "scores-digits-cw.csv",
            "scores-digits-cw.png",
            "scores-digits-ead-l1.csv",
            "scores-digits-ead-l1.png",
        ),
    ]
    said = capsys.readouterr().out
    assert "Detectors on digits, worst κ" in said
    assert str(filled / "figures" / "roc-digits.png") in said


def table(out: Path, name: str) -> list[dict[str, str]]:
    return rows((out / "figures" / name).read_text(encoding="utf-8"))


def test_options_leave_out_the_rest(filled: Path) -> None:
    call(filled, "roc", attacks=["cw"], seeds=1, kappa=["10,0"])
    found = table(filled, "roc-digits-kappa-0-10.csv")
    assert [(row["attack"], row["kappa"], row["seeds"]) for row in found] == [
        ("cw", "0", "1"),
        ("cw", "10", "1"),
    ]
    call(filled, "roc", n_examples=1, defense=["mi-magnet"])  # natural images are never left out
    assert [row["attack"] for row in table(filled, "roc-digits.csv")] == ["ead-l1"]
    config = filled / "protocol.toml"
    config.write_text('datasets = ["mnist"]\n', encoding="utf-8")
    with pytest.raises(BenchError, match="nothing to draw in roc of mnist"):
        call(filled, "roc", config=config)


@pytest.mark.parametrize("kind", ["roc", "scores", "generated"])
def test_an_empty_store_says_what_to_run(kind: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError) as refusal:
        call(tmp_path, kind, dataset=["mnist"])
    shown = "roc" if kind == "scores" else kind
    assert str(refusal.value) == (
        f"nothing to draw in {shown} of mnist: run bench run --defense magnet --defense mi-magnet "
        f"--dataset mnist --out {tmp_path}"
    )
    with pytest.raises(BenchError, match="--defense mi-magnet --dataset digits"):
        call(tmp_path, kind)
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("number", "changes", "says"),
    [
        ("roc", {"attacks": ["cv"]}, "unknown attack in the detections of the store 'cv'; did you mean cw?"),
        ("roc", {"defense": ["trades"]}, "known: magnet, mi-magnet"),
        ("scores", {"kappa": ["5"]}, "no results at κ = 5: there are 0, 10"),
        ("scores", {"kappa": ["x"]}, "--kappa must be numbers, got x"),
        ("roc", {"epochs": 3}, "figure roc draws stored results: leave --epochs out"),
        ("scores", {"norm": ["l2"]}, "leave --norm out"),
        ("generated", {"seeds": 3}, "leave --seeds out"),
        ("generated", {"kappa": ["5"]}, "leave --kappa out"),
        ("5", {"kappa": ["5"]}, "figure 5 has no κ to choose: leave --kappa out"),
        ("rok", {}, "unknown figure 'rok'; did you mean roc?"),
        ("roc", {"columns": 3}, "--columns must be 1 or 2"),
    ],
)
def test_wrong_input_is_one_line(number: str, changes: dict[str, Any], says: str, filled: Path) -> None:
    with pytest.raises(BenchError) as refusal:
        call(filled, number, **changes)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (filled / "figures").exists()


def test_a_damaged_record_is_named(filled: Path) -> None:
    path = next(iter(sorted(filled.glob("detections/*.parquet"))))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match=f"{path.name} is damaged"):
        call(filled, "roc")
