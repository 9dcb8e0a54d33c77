"""Models that hide their gradients are flagged, honest ones are not."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks.pgd import PGD
from benchmark.datasets import locate
from benchmark.diagnoses import read_diagnosis
from benchmark.diagnostics import FLAGS, Attacked, Measured, flags
from benchmark.errors import StoreError
from benchmark.evaluation import Columns, Sample
from benchmark.probing import Piece, measure
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


def test_a_damaged_diagnosis_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"flag')
    with pytest.raises(StoreError, match=r"x\.json is damaged .*delete it and run the same command"):
        read_diagnosis(tmp_path / "x.json")


def test_flags_reach_records_results_and_tables(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient-killing layer in front of a trained defense, through the whole command."""
    from benchmark import evaluation, probing, training
    from benchmark.records import read_records

    def hiding(*arguments: Any) -> nn.Module:
        return Wrapped(training.load_model(*arguments), before=cut)

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
