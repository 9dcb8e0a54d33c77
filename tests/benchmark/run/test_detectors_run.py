"""`bench run --defense magnet,mi-magnet` on the embedded digits, as a user types it, and what it leaves."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.data.base import subset
from robustness_bench.benchmark.plan.detectors import make_detection_plan
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.store.cards import load_tensors, read_card
from robustness_bench.benchmark.store.detections import Detection, find_detections, read_detection
from robustness_bench.benchmark.store.generated import find_conditional_examples, read_conditional_examples
from robustness_bench.benchmark.train.detectors import load_part, read_calibration
from tests.conftest import Bench

SYSTEMS = "magnet,mi-magnet,mi-magnet-cross-jaccard,magnet-random"
TINY = ["--epochs", 1, "--train-limit", 600, "--n-examples", 4, "--kappa", 0]
# Fewer images, epochs and steps than the default's, as many as pass the gates and break the systems.
SMALL = """
[dataset.digits.detection]
adaptive = ["white"]
n_examples = 30
adaptive_examples = 12
part_epochs = 45
training = { epochs = 20 }
adaptive_attack = { targets = 1, search_steps = 3, steps = 60 }
"""
# Attacks of which nothing but the end is asked.
SHORT = """
[dataset.digits.detection]
parameters = { cw = { search_steps = 1, steps = 5 }, ead = { search_steps = 1, steps = 5 } }
adaptive_attack = { targets = 1, search_steps = 1, steps = 5 }
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def finished(bench: Bench, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a finished run; copy it before changing it."""
    out = tmp_path_factory.mktemp("finished") / "results"
    said = bench("run", "--defense", SYSTEMS, "--config", config, "--out", out)
    assert said.status == 0, said.err
    return out


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "results"))


@pytest.fixture(scope="module")
def cells(finished: Path) -> dict[tuple[str, str, str, float], Detection]:
    read = [read_detection(path) for path in find_detections(finished)]
    keys = ("system", "setting", "attack", "confidence")
    return {tuple(cell.spec[key] for key in keys): cell for cell in read}


Cells = dict[tuple[str, str, str, float], Detection]


def test_every_cell_is_there_and_whole(cells: Cells) -> None:
    assert len(cells) == 4 * (1 + 2 * 3) + 3
    assert {cell.status for cell in cells.values()} == {"ok"}
    assert {name for name, *_ in cells} == set(SYSTEMS.split(","))


def test_the_networks_pass_their_gates(cells: Cells) -> None:
    assert {key: cell.remarks for key, cell in cells.items() if cell.remarks} == {}


def test_thresholds_are_of_held_out_images_at_the_stated_rate(finished: Path, cells: Cells) -> None:
    thresholds = cells["mi-magnet", "natural", "none", 0.0].thresholds
    for name, expected in thresholds.items():
        (path,) = finished.glob(f"calibrations/digits/{name}-seed0-*.safetensors")
        scores = load_tensors(path)["scores"]
        assert read_calibration(path).threshold == expected
        assert (scores >= expected).sum() == int(read_card(path)["spec"]["rate"] * len(scores))
        assert len(scores) == 287


def test_the_images_behind_a_threshold_are_those_that_no_training_saw(finished: Path, config: Path) -> None:
    protocol = load_protocol(config, {"defenses": ["magnet"]})
    tasks = make_detection_plan(protocol, {"digits": locate("digits", Path("data"))})
    context = Context(out=finished, device="cpu", batch_size=0, threads=1)
    (part,) = [task for task in tasks if task.title == "digits train autoencoder-1, seed 0"]
    (path,) = finished.glob("calibrations/digits/reconstruction-1-seed0-*.safetensors")
    images = part.data.load().train_x
    held = torch.from_numpy(images[subset(len(images), 287)]).float() / 255
    with torch.no_grad():
        errors = (held - load_part(part, context)(held)).square().flatten(1).mean(1)
    torch.testing.assert_close(load_tensors(path)["scores"].float(), errors)


def test_few_natural_images_are_flagged_and_most_are_right(cells: Cells) -> None:
    natural = cells["magnet", "natural", "none", 0.0]
    assert len(natural.rows["label"]) == 360
    assert natural.flagged.mean() < 0.08
    assert natural.accepted.mean() > 0.8
    assert np.array_equal(natural.rows["prediction"], natural.rows["clean_prediction"])


def test_the_attacks_beat_the_bare_classifier_by_their_confidence(finished: Path, cells: Cells) -> None:
    for attack in ("cw", "ead-l1", "ead-en"):
        weak, strong = (cells["magnet", "oblivious", attack, kappa] for kappa in (0.0, 10.0))
        assert weak.fooled[weak.selected].mean() > 0.95
        assert strong.fooled[strong.selected].mean() > 0.9
        assert strong.rows["l2"].mean() > weak.rows["l2"].mean()
    l1, en = (cells["magnet", "oblivious", name, 0.0].rows["l1"] for name in ("ead-l1", "ead-en"))
    assert (l1 <= en + 1e-4).all()
    assert (l1 < en - 1e-3).any()


def test_a_union_catches_what_magnet_catches_on_the_very_same_images(cells: Cells) -> None:
    for name, setting, attack, kappa in cells:
        if setting == "oblivious":
            base, union = (cells[each, setting, attack, kappa] for each in ("magnet", name))
            assert np.array_equal(base.rows["l2"], union.rows["l2"])
            assert (union.defended() >= base.defended()).all()
            for detector in base.detectors:
                assert np.array_equal(base.scores(detector), union.scores(detector))


def test_flags_are_scores_at_the_threshold(cells: Cells) -> None:
    for cell in cells.values():
        for name, threshold in cell.thresholds.items():
            assert np.array_equal(cell.flags(name), cell.scores(name) >= threshold)


def test_knowing_the_system_beats_it(cells: Cells) -> None:
    """What the attack that knows the system gets past it is not flagged and is misclassified."""
    for name in ("magnet", "mi-magnet-cross-jaccard"):
        white = cells[name, "white", "adaptive", 0.1]
        worst = min(
            cell.defended()[cell.selected].mean()
            for (system, setting, *_), cell in cells.items()
            if (system, setting) == (name, "oblivious")
        )
        held = white.defended()[white.selected].mean()
        assert held < 0.35
        assert held <= worst + 0.05


def test_the_generator_is_kept_to_be_looked_at(finished: Path) -> None:
    found = find_conditional_examples(finished, "digits")
    assert found
    examples = read_conditional_examples(found[0])
    assert examples.conditional.shape == (8, 10, 1, 8, 8)
    assert (examples.predicted == np.arange(10)).mean() > 0.9


def test_tables_and_csv_are_left(finished: Path) -> None:
    lines = list(csv.DictReader((finished / "detections.csv").read_text().splitlines()))
    assert {line["system"] for line in lines} == set(SYSTEMS.split(","))
    assert (finished / "detectors.csv").is_file()
    page = (finished / "tables" / "detectors-digits.html").read_text()
    assert "not a security claim" in page


def test_again_there_is_nothing_to_do(store: Path, config: Path, bench: Bench) -> None:
    said = bench("run", "--defense", SYSTEMS, "--config", config, "--out", store)
    assert said.status == 0
    assert f"nothing to do: all {4 * 7 + 3} cells are done" in said.out


def test_a_lost_cell_alone_is_made_again_to_the_bit(store: Path, config: Path, bench: Bench) -> None:
    (path,) = store.glob("detections/digits/mi-magnet/cw-k10-seed0-*.parquet")
    before = read_detection(path)
    path.unlink()
    said = bench("run", "--defense", SYSTEMS, "--config", config, "--out", store, "--workers", 2)
    assert said.status == 0
    assert "1 of 31 cells to do, 1 tasks" in said.out
    after = read_detection(path)
    assert all(np.array_equal(before.rows[name], after.rows[name]) for name in before.rows)


def test_a_part_that_fails_its_gate_is_said_so(tmp_path: Path, bench: Bench) -> None:
    config = tmp_path / "short.toml"
    config.write_text(SHORT)
    said = bench("run", "--defense", "mi-magnet", *TINY, "--config", config, "--out", tmp_path / "r")
    assert said.status in (0, 1)
    cells = [read_detection(path) for path in find_detections(tmp_path / "r")]
    assert {cell.spec["setting"] for cell in cells} == {"natural", "oblivious", "white", "grey"}
    remarks = {text for cell in cells for text in cell.remarks.values()}
    refused = {cell.error for cell in cells if cell.status == "error"}
    assert any("generator inadequate: swap accuracy" in text for text in remarks) or refused
    assert any("undertrained: mean squared error" in text for text in remarks)


def test_a_threshold_that_cannot_be_had_fails_its_cells_and_no_others(tmp_path: Path, bench: Bench) -> None:
    said = bench(
        "run", "--defense", "magnet", "--epochs", 1, "--train-limit", 100, "--n-examples", 4, "--kappa", 0,
        "--out", tmp_path / "r",
    )  # fmt: skip
    assert said.status == 1
    assert "a rate of 0.01 flags none of 20 images" in said.err
    cells = [read_detection(path) for path in find_detections(tmp_path / "r")]
    assert {cell.status for cell in cells} == {"error"}


def test_a_run_uses_no_global_randomness(finished: Path, cells: Cells) -> None:
    """The random control is a function of the pixels: natural images that recur score the same."""
    natural = cells["magnet-random", "natural", "none", 0.0]
    scores = natural.scores("control-random")
    assert 0 <= scores.min() < 0.05
    assert 0.95 < scores.max() < 1
    assert abs(np.corrcoef(scores, natural.scores("reconstruction-1"))[0, 1]) < 0.2
