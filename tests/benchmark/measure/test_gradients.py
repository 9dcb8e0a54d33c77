"""Models that hide their gradients are flagged, honest ones are not."""

import copy
import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks.pgd import PGD
from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.measure import gradients as probing
from robustness_bench.benchmark.measure.attacks import Columns, Sample
from robustness_bench.benchmark.measure.gradients import Batches, Piece, _sureness, measure
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import make_plan
from robustness_bench.benchmark.store.diagnoses import read_diagnosis
from robustness_bench.benchmark.store.flags import FLAGS, SATURATED, Attacked, Measured, flags
from tests.conftest import ROOT, Bench

ATTACKS = {
    "images": 64,
    "steps": 20,
    "rel_step_size": 0.1,
    "restarts": 2,
    "square_queries": 200,
    "budgets": [0.5, 1.0, 2.0, 4.0],
}
PROBE = {"version": 2, "images": 64, "passes": 5, "mixed": 16, "attacks": ATTACKS}
SPEC: dict[str, Any] = {"norm": "linf", "eps": 0.18, "probe": PROBE}


class Wrapped(nn.Module):
    """A model behind a layer that changes images or a function that changes logits."""

    def __init__(
        self,
        inner: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda z: z,
    ) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inner(self.before(x)))


class NaNGradient(torch.autograd.Function):
    """The identity, with a gradient that is not a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * torch.nan


def cut(x: Tensor) -> Tensor:
    """A gradient-killing layer."""
    return x.detach()


def quantise(x: Tensor) -> Tensor:
    """Nine grey levels: the gradient of rounding is zero."""
    return (x * 8).round() / 8


def jitter(x: Tensor) -> Tensor:
    """A random layer."""
    return x + 0.05 * torch.randn_like(x)


@pytest.fixture(scope="module")
def sample() -> Sample:
    splits = locate("digits", Path("data")).load()
    x = torch.tensor(splits.test_x[:64]).float() / 255
    return Sample(torch.arange(64), x, torch.tensor(splits.test_y[:64]))


@pytest.fixture(scope="module")
def honest() -> dict[str, nn.Module]:
    """A small network trained on natural digits, and one trained on adversarial ones."""
    splits = locate("digits", Path("data")).load()
    x, y = torch.tensor(splits.train_x).float() / 255, torch.tensor(splits.train_y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 64), nn.ReLU()
        )
        fresh.append(nn.Linear(64, 10))
        models: dict[str, nn.Module] = {"natural": fresh, "adversarial": copy.deepcopy(fresh)}
        for kind, model in models.items():
            optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
            for step in range(150):
                rows = torch.arange(step * 128, step * 128 + 128) % len(x)
                images = x[rows]
                if kind == "adversarial":
                    attack = PGD(norm="linf", eps=0.18, steps=5).for_transfer()
                    images = attack(model, images, y[rows], seed=step, goal="transfer").x_adv
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), y[rows]).backward()
                optimizer.step()
    return models


def flagged(model: nn.Module, sample: Sample) -> tuple[list[str], Measured]:
    measured = measure(model.eval(), sample, SPEC, at_once)
    return flags(measured), measured


def at_once(name: str, n: int, piece: Piece) -> Columns:
    return piece(slice(0, n), lambda done, total, unit: None)


@pytest.mark.parametrize("kind", ["natural", "adversarial"])
def test_an_honest_model_is_not_flagged(kind: str, honest: dict[str, nn.Module], sample: Sample) -> None:
    raised, measured = flagged(honest[kind], sample)
    assert raised == []
    assert measured.natural > 0.8
    seen = measured.attacked
    assert seen
    assert seen.all <= seen.gradient <= seen.pgd <= measured.natural
    assert list(seen.margins) == sorted(seen.margins)


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (cut, {"zero-gradients", "black-beats-white", "square-improves"}),
        (quantise, {"zero-gradients", "black-beats-white", "square-improves"}),
        (jitter, {"randomised"}),
    ],
)
def test_a_layer_that_hides_gradients_is_flagged(
    before: Callable[[Tensor], Tensor],
    expected: set[str],
    honest: dict[str, nn.Module],
    sample: Sample,
) -> None:
    raised, _ = flagged(Wrapped(honest["natural"], before=before), sample)
    assert expected <= set(raised)


def test_outputs_that_are_probabilities_are_flagged(honest: dict[str, nn.Module], sample: Sample) -> None:
    assert "probabilities" in flagged(Wrapped(honest["natural"], after=lambda z: z.softmax(1)), sample)[0]


def test_a_gradient_that_is_no_number_is_flagged(honest: dict[str, nn.Module], sample: Sample) -> None:
    raised, measured = flagged(Wrapped(honest["natural"], before=NaNGradient.apply), sample)
    assert "broken-gradients" in raised
    assert measured.broken_gradients == 1.0


def test_a_model_that_nothing_moves_is_flagged(sample: Sample) -> None:
    """It knows the labels and does not look at the images."""
    truth = nn.functional.one_hot(sample.y, 10).float()

    class Oracle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 5.0 * truth[: len(x)] + 0.0 * x.flatten(1).sum(1, keepdim=True)

    raised, measured = flagged(Oracle(), sample)
    assert {"survives-any-budget", "loss-not-rising", "zero-gradients"} <= set(raised)
    assert measured.attacked
    assert measured.attacked.huge == 1.0


def test_logits_that_are_scaled_up_saturate(honest: dict[str, nn.Module], sample: Sample) -> None:
    raised, measured = flagged(Wrapped(honest["natural"], after=lambda z: 30 * z), sample)
    assert "saturated" in raised
    assert measured.saturated > 0.5
    assert measured.zero_gradients == 0.0  # the model's own gradient is there


def test_the_threshold_of_saturation_is_where_float32_rounds_it_away() -> None:
    margins = torch.tensor([SATURATED - 3.0, SATURATED + 1.0])
    logits = torch.stack([margins, torch.zeros(2)], 1)
    y = torch.zeros(2, dtype=torch.int64)
    assert ((1.0 - logits.softmax(1)[:, 0]) > 0).tolist() == [True, False]
    assert (_sureness(logits, y) > SATURATED).tolist() == [False, True]


class Mixes(nn.Module):
    """Batch norm without running statistics in front of a model."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False, track_running_stats=False)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(0.5 + 0.25 * self.norm(x))
        return logits


def test_a_model_that_mixes_its_batch_is_flagged(honest: dict[str, nn.Module], sample: Sample) -> None:
    """By signs alone, too; a randomised model that does not is not."""
    spec = {**SPEC, "probe": {**PROBE, "attacks": None}}
    mixing = measure(Mixes(honest["natural"]).eval(), sample, spec, at_once)
    assert "batch-dependent" in flags(mixing)
    assert mixing.attacked is None
    random = measure(Wrapped(honest["natural"], before=jitter).eval(), sample, spec, at_once)
    assert "randomised" in flags(random)
    assert "batch-dependent" not in flags(random)


def in_parts(size: int) -> Batches:
    def batches(name: str, n: int, piece: Piece) -> Columns:
        parts = [piece(slice(k, k + size), lambda *told: None) for k in range(0, n, size)]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    return batches


@pytest.mark.parametrize("kind", ["natural", "adversarial"])
def test_what_is_seen_does_not_depend_on_the_batch_size(
    kind: str, honest: dict[str, nn.Module], sample: Sample
) -> None:
    model = honest[kind].eval()
    whole, parts = (measure(model, sample, SPEC, batches) for batches in (at_once, in_parts(7)))
    assert whole.attacked
    assert parts.attacked
    assert parts.attacked.margins == pytest.approx(whole.attacked.margins, rel=1e-4)
    assert parts.attacked._replace(margins=whole.attacked.margins) == whole.attacked
    assert parts._replace(attacked=whole.attacked) == whole


@pytest.mark.parametrize(("batch_size", "most"), [(8, 8), (0, 20)])
def test_no_more_images_at_once_than_asked_for_or_fit(
    batch_size: int, most: int, honest: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--batch-size 8; and auto where memory runs out above 20 images. Only the batches compared have 16."""
    sizes: list[int] = []

    def room(x: Tensor) -> Tensor:
        sizes.append(len(x))
        if len(x) > 20:
            raise torch.OutOfMemoryError("planted")
        return x

    tree = {"defenses": ["undefended"], "norms": ["linf"], "threats": ["white"], "n_examples": 30}
    plan = make_plan(load_protocol(None, tree), {"digits": locate("digits", Path("data"))})
    (task,) = [task for task in plan if task.kind == "diagnose"]
    monkeypatch.setattr(probing, "load_model", lambda *_: Wrapped(honest["natural"].eval(), before=room))
    attacks = {**task.spec["probe"]["attacks"], "steps": 2, "square_queries": 2}
    task = dataclasses.replace(
        task, spec={**task.spec, "probe": {**task.spec["probe"], "mixed": 16, "attacks": attacks}}
    )
    context = Context(out=tmp_path, device="cpu", batch_size=batch_size, threads=1)
    told: list[tuple[float, float, str]] = []
    probing.diagnose(task, context, lambda *progress: told.append(progress))
    found = json.loads((tmp_path / task.path).read_text())
    assert found["measured"]["attacked"]["images"] == 30
    run = [size for size in sizes if size <= 20]
    assert max(run) <= max(most, 16)
    assert max(sizes) == (30 if batch_size == 0 else 16)
    assert [path.name for path in (tmp_path / task.path).parent.iterdir()] == [task.path.name]
    assert {unit for _, _, unit in told} == {"images (signs)", "images (attacks)"}
    assert all(0 <= done <= total == 30 for done, total, _ in told)


LEFT = Attacked(
    images=100, pgd=0.5, gradient=0.48, square=0.6, all=0.48, huge=0.0, margins=(-2.0, 0.0, 3.0, 9.0)
)
GOOD = Measured(
    images=100,
    classes=10,
    natural=0.95,
    changed_logits=0.0,
    changed_by_batch=0.0,
    probability_rows=0.0,
    saturated=0.0,
    zero_gradients=0.0,
    broken_gradients=0.0,
    attacked=LEFT,
)


def changed(**values: Any) -> Measured:
    left = {name: values.pop(name) for name in Attacked._fields if name in values and name != "images"}
    return GOOD._replace(attacked=LEFT._replace(**left), **values)


@pytest.mark.parametrize(
    ("flag", "below", "above"),
    [
        ("randomised", {"changed_logits": 1e-4}, {"changed_logits": 1.1e-4}),
        ("batch-dependent", {"changed_by_batch": 0.01}, {"changed_by_batch": 0.011}),
        ("saturated", {"saturated": 0.01}, {"saturated": 0.02}),
        ("probabilities", {"probability_rows": 0.99}, {"probability_rows": 1.0}),
        ("zero-gradients", {"zero_gradients": 0.01}, {"zero_gradients": 0.02}),
        ("broken-gradients", {"broken_gradients": 0.0}, {"broken_gradients": 0.01}),
        ("black-beats-white", {"square": 0.48}, {"square": 0.47}),
        ("square-improves", {"all": 0.46}, {"all": 0.45}),
        ("survives-any-budget", {"huge": 0.14}, {"huge": 0.16}),
        ("loss-not-rising", {"margins": (-2.0, 0.0, 8.95, 8.9)}, {"margins": (-2.0, 0.0, 9.0, 8.8)}),
    ],
)
def test_each_threshold_from_both_sides(flag: str, below: dict[str, Any], above: dict[str, Any]) -> None:
    assert flags(GOOD) == []
    assert flags(changed(**below)) == []
    assert flags(changed(**above)) == [flag]
    alone = [] if set(above) & set(Attacked._fields) else [flag]
    assert flags(changed(**above)._replace(attacked=None)) == alone  # what was not looked for is not said


def test_every_flag_is_documented_with_its_threshold() -> None:
    text = (ROOT / "docs" / "diagnostics.md").read_text(encoding="utf-8")
    for name, flag in FLAGS.items():
        assert f"| `{name}` | {flag.meaning} | {flag.threshold} |" in text


@pytest.mark.parametrize("text", ['{"flag', '{"flags": []}', "[]", "spec", "unhashable"])
def test_a_damaged_diagnosis_is_named(tmp_path: Path, text: str) -> None:
    spec: dict[str, Any] = {"norm": "linf", "eps": 0.1, "probe": PROBE, "data": "d", "n_examples": 5}
    spec |= {"parents": {"model": "m"}} | ({"data": ["d"]} if text == "unhashable" else {"probe": 7})
    whole = json.dumps({"id": "i", "seed": 0, "flags": [], "spec": spec})
    (tmp_path / "x.json").write_text(whole if text in ("spec", "unhashable") else text)
    with pytest.raises(StoreError, match=r"x\.json is damaged .*delete it and run the same command"):
        read_diagnosis(tmp_path / "x.json")


def test_flags_reach_records_results_and_tables(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient-killing layer in front of a trained defense, through the whole command."""
    from robustness_bench.benchmark.measure import attacks as evaluation
    from robustness_bench.benchmark.measure import gradients as probing
    from robustness_bench.benchmark.store.cells import read_records
    from robustness_bench.benchmark.train import defenses

    def hiding(*arguments: Any) -> nn.Module:
        return Wrapped(defenses.load_model(*arguments), before=cut)

    monkeypatch.setattr(evaluation, "load_model", hiding)
    monkeypatch.setattr(probing, "load_model", hiding)
    tiny = ["--epochs", 4, "--train-limit", 400, "--width", 2, "--n-examples", 40, "--workers", 1]
    what = ["--defense", "undefended", "--norm", "linf", "--threat", "white", "--attacks", "pgd-40"]
    said = bench("run", *tiny, *what, "--out", tmp_path)
    assert said.status == 0, said.err
    assert "Flagged: Undefended: " in said.out
    for record in read_records(tmp_path):
        assert record.diagnosis
        assert "zero-gradients" in record.diagnosis.flags
    assert "zero-gradients" in (tmp_path / "results.csv").read_text()
    (diagnosis,) = tmp_path.glob("diagnoses/digits/*.json")
    assert "zero-gradients" in read_diagnosis(diagnosis).flags


def test_a_diagnosis_can_be_declined_and_made_later(bench: Bench, tmp_path: Path) -> None:
    """The cells are the same records; without it, nothing is said to be unflagged."""
    out = tmp_path / "results"
    tiny = ["run", "--epochs", 1, "--train-limit", 100, "--width", 2, "--n-examples", 12, "--workers", 1]
    tiny += ["--defense", "undefended", "--norm", "linf", "--threat", "white", "--attacks", "none"]

    def flag_column() -> set[str]:
        return {line["flags"] for line in csv.DictReader((out / "results.csv").read_text().splitlines())}

    said = bench(*tiny, "--out", out, "--no-diagnosis")
    assert said.status == 0, said.err
    assert "diagnose" not in said.out.replace("Not diagnosed: Undefended.", "")
    assert "Not diagnosed: Undefended." in said.out
    assert flag_column() == {"not diagnosed"}
    assert not (out / "diagnoses").exists()
    cells = {path: path.read_bytes() for path in out.rglob("*.parquet")}
    assert len(cells) == 1
    said = bench(*tiny, "--out", out)
    assert said.status == 0, said.err
    assert "0 of 1 cells to do, 1 tasks" in said.out
    assert "waiting for: digits linf diagnose undefended (signs only), seed 0" in said.out
    assert "Signs only, no attack looked for hidden gradients: Undefended." in said.out
    assert flag_column() == {"signs only"}
    assert {path: path.read_bytes() for path in out.rglob("*.parquet")} == cells
    assert "nothing to do" in bench(*tiny, "--out", out).out
