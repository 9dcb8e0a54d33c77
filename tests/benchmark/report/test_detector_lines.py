"""What detectors withstand, flag and rank, by hand; what must hold between systems."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.report.detectors.lines import DetectionLine, Outcome, detection_lines, outcome
from robustness_bench.benchmark.report.detectors.rates import UNION, DetectorLine, detector_lines
from robustness_bench.benchmark.report.detectors.roc import RATES, at_rates, auroc, threshold_at
from robustness_bench.benchmark.report.detectors.store import check_settings, check_unions
from robustness_bench.benchmark.statistics import MeanStd, widened, wilson
from robustness_bench.benchmark.store.detections import Detection
from tests.benchmark.report.detections import HALF, N, detection, flagging, natural


def line_of(*records: Detection) -> DetectionLine:
    (line,) = detection_lines(records)
    return line


def test_an_attacked_cell_by_hand() -> None:
    """Images 8 and 9 were wrong before; 2 to 7 are fooled; a and b flag 2, 4, 5 and 8 together."""
    record = detection(
        clean=[1] * 8 + [0] * 2,
        prediction=[1, 1] + [0] * 8,
        reformed=[1, 0, 1, 1, 0, 0, 1, 0, 1, 1],
        scores={"a": flagging(2, 4), "b": flagging(4, 5, 8)},
        l1=[0, 0, 1, 2, 3, 4, 5, 9, 7, 7],
        forwards=[1, 2, 3, 4, 5, 6, 7, 8, 9, 100],
    )
    expected = Outcome(
        n=8,
        successful=6,
        attack_success=75.0,
        none=25.0,
        det_only=62.5,
        ref_only=50.0,
        both=75.0,
        detected=37.5,
        detected_successful=50.0,
        l1=4.0,
        l2=0.4,
        forwards=4.5,
        forwards_max=8.0,
    )
    assert outcome(record) == pytest.approx(expected)


def test_a_natural_cell_by_hand() -> None:
    """A flag is an error there, and every image counts."""
    record = natural(
        prediction=[1] * 7 + [0] * 3,
        clean=[1] * 7 + [0] * 3,
        reformed=[1, 1, 1, 1, 1, 1, 0, 1, 1, 1],
        scores={"a": flagging(0, 7), "b": flagging(1, 7)},
    )
    found = outcome(record)
    assert (found.n, found.successful, found.attack_success, found.detected_successful) == (10, 0, None, None)
    assert (found.none, found.det_only, found.ref_only, found.both, found.detected) == (70, 50, 90, 60, 30)
    assert (found.l1, found.forwards) == (None, None)


def test_mean_spread_and_interval_over_seeds() -> None:
    line = line_of(
        detection(seed=1, scores={"a": flagging(0, 1)}), detection(seed=0, scores={"a": flagging(*range(4))})
    )
    assert list(line.per_seed) == [0, 1]
    figure = line.figure("both")
    assert figure == pytest.approx(MeanStd(30.0, 200**0.5, 2))
    low, high = wilson(3, 10)
    assert line.interval() == pytest.approx((max(0, 100 * low - 200**0.5), 100 * high + 200**0.5))
    assert widened(MeanStd(99.0, 5.0, 2), 1000)[1] == 100.0
    assert widened(MeanStd(1.0, 5.0, 2), 1000)[0] == 0.0


def test_the_fewest_images_of_any_seed_count() -> None:
    line = line_of(detection(seed=0), detection(seed=1, clean=[1] * 7 + [0] * 3))
    assert line.n == 7
    assert [found.n for found in line.per_seed.values() if found] == [10, 7]


def test_a_failed_seed_leaves_no_figure() -> None:
    line = line_of(detection(seed=0), detection(seed=1, error="Traceback\nValueError: no\n"))
    assert line.figure("both") is None
    assert line.interval() is None
    assert line.error == "ValueError: no"
    assert line.per_seed[1] is None


def test_an_attack_without_success_has_no_rate_on_successes() -> None:
    line = line_of(detection(prediction=[1] * N))
    assert line.figure("detected_successful") is None
    assert line.figure("l1") is None
    assert line.figure("detected") == MeanStd(50.0, None, 1)


def test_no_image_that_counts_is_no_figure() -> None:
    line = line_of(detection(clean=[0] * N))
    assert (line.n, line.figure("both"), line.interval()) == (0, None, None)


def test_remarks_say_how_many_seeds() -> None:
    line = line_of(
        detection(seed=0, remarks={"a": "poor"}), detection(seed=1, remarks={"a": "worse"}), detection(seed=2)
    )
    assert line.remarks == ("a: poor; worse (2 of 3 seeds)",)
    assert line_of(detection(remarks={"a": "poor"})).remarks == ("a: poor",)


def test_lines_stand_in_the_order_of_the_tables() -> None:
    records = [
        detection("magnet-random", "cw"),
        detection("other", "cw"),
        detection("magnet", "ead-en"),
        detection("magnet", "ead-l1"),
        detection("magnet", "cw", 20),
        detection("magnet", "cw", 3),
        detection("magnet", "adaptive", setting="grey"),
        detection("magnet", "adaptive", setting="white"),
        natural("magnet"),
        detection("mi-magnet", "cw"),
        detection("magnet-jsd", "cw"),
    ]
    found = [(line.system, line.setting, line.attack, line.confidence) for line in detection_lines(records)]
    assert found == [
        ("magnet", "natural", "none", 0),
        ("magnet", "oblivious", "cw", 3),
        ("magnet", "oblivious", "cw", 20),
        ("magnet", "oblivious", "ead-l1", 0),
        ("magnet", "oblivious", "ead-en", 0),
        ("magnet", "white", "adaptive", 0),
        ("magnet", "grey", "adaptive", 0),
        ("magnet-jsd", "oblivious", "cw", 0),
        ("mi-magnet", "oblivious", "cw", 0),
        ("magnet-random", "oblivious", "cw", 0),
        ("other", "oblivious", "cw", 0),
    ]


@pytest.mark.parametrize("levels", [3, 20, 10**6])
def test_auroc_is_sklearns(levels: int) -> None:
    """With many ties, with some, with none."""
    rng = np.random.default_rng(levels)
    first, second = (
        rng.integers(0, levels, 57).astype(float),
        rng.integers(levels // 4, levels, 31).astype(float),
    )
    labels = [0] * len(first) + [1] * len(second)
    assert auroc(first, second) == pytest.approx(roc_auc_score(labels, [*first, *second]), abs=1e-15)


def test_auroc_by_hand() -> None:
    """Of six pairs 3 > 1, 3 > 2, 2 > 1 and half of 2 = 2; infinity is a score."""
    assert auroc(np.array([1.0, 2.0, 4.0]), np.array([3.0, 2.0])) == 3.5 / 6
    assert auroc(np.array([1.0, 2.0]), np.array([math.inf])) == 1.0
    assert auroc(np.array([1.0]), np.array([1.0])) == 0.5


@pytest.mark.parametrize(
    ("scores", "rate", "threshold"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.2, 9.0),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.29, 9.0),  # not three of them
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.05, None),  # less than one
        ([1, 2, 3, 4, 5, 6, 7, 9, 9, 10], 0.2, None),  # a tie would flag three
        ([1, 2, 3, 4, 5, 6, 7, 9, 9, 10], 0.3, 9.0),
        (list(range(100)), 0.29, 71.0),  # 0.29 * 100 is 28.999…
    ],
)
def test_thresholds_flag_their_share_of_held_out_images(
    scores: list[float], rate: float, threshold: float | None
) -> None:
    held_out = np.array(scores, float)
    assert threshold_at(held_out, rate) == threshold
    assert threshold_at(held_out[::-1], rate) == threshold


def test_rates_by_hand() -> None:
    """Of 0 to 999 the thresholds are 999, 995, 990 and 950; one that reaches it is flagged."""
    caught = np.array([999.0, 998.0, 995.0, 990.0, 989.0, 950.0, 949.0, 0.0])
    assert at_rates(caught, np.arange(1000.0)) == (12.5, 37.5, 50.0, 75.0)
    assert at_rates(caught, np.arange(150.0)) == (None, None, 75.0 + 12.5, 75.0 + 12.5)
    assert at_rates(caught, None) == at_rates(caught[:0], np.arange(1000.0)) == (None,) * len(RATES)


def detector(lines: Sequence[DetectorLine], name: str, setting: str = "oblivious") -> DetectorLine:
    (line,) = [each for each in lines if (each.detector, each.cell.setting) == (name, setting)]
    return line


@pytest.fixture
def pair() -> list[DetectorLine]:
    """A natural and an attacked cell of detectors a and b; one of eight selected images is not fooled."""
    scores = {"a": [1, 2, 3, 4, 5, 6, 1, 1, 1, 1.0], "b": [1.0] * 6 + [5.0] * 4}
    records = [
        natural(scores=scores),
        natural("magnet", 1, scores={"a": [9.0] * N, "b": [9.0] * N}),  # another seed's
        natural("mi-magnet", scores={"a": [9.0] * N, "b": [9.0] * N}),  # another system's
        detection(
            clean=[1] * 8 + [0] * 2,
            prediction=[1] + [0] * 9,
            scores={"a": [9, 5, 5, 4, 4, 1, 0, 0, 9, 9.0], "b": [9, 1, 9, 1, 1, 1, 1, 9, 9, 9.0]},
        ),
    ]
    held_out = {"a-0": np.arange(1, 6, dtype=float), "b-0": np.array([0.0, 1, 2, 9]), "a-1": np.zeros(9)}
    found = detector_lines(records, held_out)
    return [each for each in found if each.cell.system == "magnet" and 0 in each.per_seed]


def test_detectors_by_hand(pair: list[DetectorLine]) -> None:
    reading = detector(pair, "a").per_seed[0]
    assert reading is not None
    assert (reading.threshold, reading.nominal) == (5.0, 20.0)
    assert (reading.natural, reading.fpr) == (10, 20.0)
    assert (reading.successful, reading.tpr) == pytest.approx((7, 200 / 7))
    # 5 and 5 beat eight of ten and tie with one; 4 and 4 beat seven and tie with one; 1 ties with five
    assert reading.auroc == pytest.approx((8.5 * 2 + 7.5 * 2 + 2.5) / 70)
    assert reading.tprs == (None, None, None, None)  # of five held-out images none is 5 %


def test_the_union_by_hand(pair: list[DetectorLine]) -> None:
    """Of the seven fooled images 1, 2 and 7; of the natural ones the last six; 20 % and 25 % at most."""
    reading = detector(pair, UNION).per_seed[0]
    assert reading is not None
    assert (reading.threshold, reading.nominal, reading.auroc) == (None, 45.0, None)
    assert (reading.tpr, reading.fpr) == pytest.approx((300 / 7, 60.0))


def test_natural_cells_have_false_positives_alone(pair: list[DetectorLine]) -> None:
    line = detector(pair, "a", "natural")
    assert (line.figure("tpr"), line.figure("auroc")) == (None, None)
    assert line.figure("fpr") == pytest.approx(MeanStd(60.0, 3200**0.5, 2))
    attacked = detector(pair, "a")
    assert attacked.false_positives() == pytest.approx(tuple(100 * each for each in wilson(2, 10)))


def test_what_is_not_known_is_left_out() -> None:
    lines = detector_lines([detection()], {})
    for name in ("a", UNION):
        reading = detector(lines, name).per_seed[0]
        assert reading is not None
        assert (reading.nominal, reading.fpr, reading.auroc, reading.natural) == (None, None, None, 0)
        assert reading.tpr == 50.0
        assert detector(lines, name).false_positives() is None


@pytest.mark.parametrize("role", ["model", "calibration:a"])
def test_what_was_trained_anew_has_its_own_natural_cell(role: str) -> None:
    old, attacked = natural(scores={"a": HALF}), detection()
    assert detector(detector_lines([old, attacked], {}), "a").figure("fpr") == MeanStd(50.0, None, 1)
    parents = {**old.spec["parents"], role: "another"}
    other = dataclasses.replace(old, spec={**old.spec, "parents": parents})
    assert detector(detector_lines([other, attacked], {}), "a").figure("fpr") is None


def test_a_score_that_is_no_number_is_refused() -> None:
    record = detection(scores={"a": [math.nan] * N})
    name = r"magnet under cw \(oblivious\) at κ = 0, seed 0"
    with pytest.raises(StoreError, match=f"a score of a of {name} is not a number"):
        detector_lines([record], {})


def test_a_failed_seed_of_a_detector() -> None:
    lines = detector_lines([detection(), detection(seed=1, error="E: x")], {})
    line = detector(lines, "a")
    assert line.per_seed[1] is None
    assert (line.figure("tpr"), line.remark) == (None, "E: x")


def union(**more: Any) -> Detection:
    scores = {"a": HALF, "b": [1.0] * N}
    return detection("mi-magnet", **{"scores": scores, **more})


def test_a_union_flags_what_its_parts_flag() -> None:
    check_unions([detection(), union(), natural(), natural("mi-magnet", scores={"a": [1.0] * N})])
    broken = union(scores={"a": flagging(0, 1, 2), "b": [1.0] * N})
    name = r"mi-magnet under cw \(oblivious\) at κ = 0, seed 0"
    with pytest.raises(StoreError, match=f"{name} loses 2 of the images that magnet"):
        check_unions([detection(), broken])
    with pytest.raises(StoreError, match="loses 2"):
        check_unions([broken, detection()])


def test_a_union_withstands_what_its_parts_reform() -> None:
    part = detection(reformed=[0] * 9 + [1])
    whole = union()
    with pytest.raises(StoreError, match="loses 1 of"):
        check_unions([part, whole])
    other = dataclasses.replace(whole, spec={**whole.spec, "reformer": "another"})
    check_unions([part, other])


@pytest.mark.parametrize(
    "changes",
    [
        {"thresholds": {"a": 9.5, "b": 5.0}},  # another calibration
        {"l1": [2.0] * N},  # other images
        {"confidence": 10},
        {"seed": 1},
        {"attack": "ead-l1"},
        {"dataset": "cifar10"},
        {"error": "E: x"},
    ],
)
def test_only_the_same_images_and_thresholds_are_compared(changes: dict[str, Any]) -> None:
    check_unions([detection(), union(**{"scores": {"a": [1.0] * N, "b": [1.0] * N}, **changes})])


def test_adaptive_attacks_show_each_system_other_images() -> None:
    silent = {"a": [1.0] * N, "b": [1.0] * N}
    white = detection(attack="adaptive", setting="white")
    check_unions([white, union(attack="adaptive", setting="white", scores=silent)])


def test_two_settings_of_one_cell_are_refused() -> None:
    with pytest.raises(StoreError, match="mnist magnet oblivious cw at κ = 0 under two settings"):
        check_settings(detection_lines([detection(), detection(version="-other")]))
    check_settings(detection_lines([detection(), detection(seed=1), detection(confidence=1)]))
