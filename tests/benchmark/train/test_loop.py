from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.train import loop
from robustness_bench.benchmark.train.loop import Fit, TrainingError, one_cycle, shuffled, stepped


class KilledError(Exception):
    """Stands for the end of the process."""


def fit_to(
    folder: Path,
    kind: str,
    kill_at: tuple[int, int] | None = None,
    scale: float = 1.0,
    figures: list[float] | None = None,
    **settings: Any,
) -> loop.Fitted:
    """Train a small network on fixed data for 6 epochs of 3 steps; die before a step if asked to.

    Args:
        figures: what evaluating on held-out data gives, epoch by epoch.
    """
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 5, generator=generator), torch.randn(40, 1, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    optimizers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(module.parameters(), momentum=0.9, weight_decay=1e-3),
        "adam": lambda: torch.optim.Adam(module.parameters()),
    }

    steps = [0] * 6

    def loss(epoch: int, indices: Tensor) -> dict[str, Tensor]:
        if (epoch, steps[epoch]) == kill_at:
            raise KilledError
        steps[epoch] += 1
        return {"error": scale * ((module(x[indices]) - y[indices]) ** 2).mean()}

    evaluated: list[nn.Module] = []

    def evaluate(module: nn.Module) -> dict[str, float]:
        evaluated.append(module)
        assert figures is not None
        return {"figure": figures[len(evaluated) - 1]}

    fit = Fit(
        epochs=6,
        stream=("test", 0),
        batches=lambda epoch: shuffled(torch.arange(40), 16, epoch),
        learning_rate=one_cycle(0.05),
        clip_norm=1.0,
        partial=folder / "model.partial",
        advance=lambda *progress: None,
        evaluate=None if figures is None else evaluate,
        **settings,
    )
    fitted = fit.run(module, optimizers[kind](), loss)
    return fitted._replace(state={name: tensor.clone() for name, tensor in fitted.state.items()})


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9}], ids=["plain", "ema"])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_resumed_training_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, settings: dict[str, Any]
) -> None:
    """Killed between epochs and within them."""
    monkeypatch.setattr(loop, "_KEEP_EVERY", 0.0)
    (tmp_path / "whole").mkdir()
    whole = fit_to(tmp_path / "whole", kind, **settings)
    for point in ((2, 0), (2, 1), (4, 1)):  # steps of this process, so (2, 1) is the epoch's second
        with pytest.raises(KilledError):
            fit_to(tmp_path, kind, kill_at=point, **settings)
    resumed = fit_to(tmp_path, kind, **settings)
    assert all(torch.equal(whole.state[name], resumed.state[name]) for name in whole.state)
    assert [without_time(e) for e in whole.history] == [without_time(e) for e in resumed.history]
    assert whole.history[-1]["error"] < whole.history[0]["error"]


def without_time(entry: dict[str, float]) -> dict[str, float]:
    """An epoch's entry without what differs from run to run."""
    return {name: value for name, value in entry.items() if name not in ("seconds", "images_per_second")}


def test_the_average_follows_the_weights(tmp_path: Path) -> None:
    """By hand: a network of one weight whose gradient is 1, so w = -0.1 t; the average starts at step 1."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    fit = Fit(
        epochs=1,
        stream=("test", 0),
        batches=lambda epoch: [torch.arange(2)] * 4,
        learning_rate=lambda done: 0.1,
        clip_norm=0.0,
        partial=tmp_path / "model.partial",
        advance=lambda *progress: None,
        ema=0.5,
    )
    optimizer = torch.optim.SGD(module.parameters())
    fitted = fit.run(module, optimizer, lambda epoch, indices: {"w": module.weight.sum()})
    average = -0.1
    for weight in (-0.2, -0.3, -0.4):
        average = 0.5 * average + 0.5 * weight
    assert fitted.state["weight"].item() == pytest.approx(average)
    assert module.weight.item() == pytest.approx(-0.4)


def test_the_best_epoch_is_kept_and_a_tie_goes_to_the_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = [10.0, 40.0, 30.0, 40.0, 20.0, 39.0]
    (tmp_path / "short").mkdir()
    best = fit_to(tmp_path, "sgd", figures=figures, select="figure")
    assert best.epoch == 4
    assert [entry["figure"] for entry in best.history] == figures
    last = fit_to(tmp_path / "short", "sgd", figures=figures)
    assert last.epoch == 6
    assert not torch.equal(best.state["0.weight"], last.state["0.weight"])
    monkeypatch.setattr(loop, "_KEEP_EVERY", 0.0)
    with pytest.raises(KilledError):  # the best epoch survives a kill, though weights went on
        fit_to(tmp_path, "sgd", kill_at=(5, 1), figures=figures, select="figure")
    resumed = fit_to(tmp_path, "sgd", figures=figures[-1:], select="figure")
    assert resumed.epoch == 4
    assert torch.equal(resumed.state["0.weight"], best.state["0.weight"])


def test_a_step_with_a_gradient_that_is_no_number_is_not_made(tmp_path: Path) -> None:
    module = nn.Linear(1, 1, bias=False)
    before = module.weight.detach().clone()
    fit = Fit(
        epochs=1,
        stream=("test", 0),
        batches=lambda epoch: [torch.arange(2)],
        learning_rate=lambda done: 0.1,
        clip_norm=1.0,
        partial=tmp_path / "model.partial",
        advance=lambda *progress: None,
    )

    def loss(epoch: int, indices: Tensor) -> dict[str, Tensor]:
        return {"root": (module.weight - module.weight).sum().abs().sqrt()}  # 0, with gradient inf - inf

    with pytest.raises(TrainingError, match=r"epoch 1, step 1 \(root 0, gradient norm nan\)"):
        fit.run(module, torch.optim.SGD(module.parameters()), loss)
    assert torch.equal(module.weight, before)


def test_divergence_stops_with_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"diverged in epoch 1.*lower the learning rate"):
        fit_to(tmp_path, "sgd", scale=float("nan"))


def test_damaged_partial_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.partial").write_bytes(b"cut off")
    with pytest.raises(BenchError, match=r"model\.partial is damaged.*delete it"):
        fit_to(tmp_path, "sgd")


def test_schedules() -> None:
    steps = stepped(0.1, (0.75, 0.9))
    assert [steps(done) for done in (0.0, 0.74, 0.75, 0.9)] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    cycle = one_cycle(0.1)
    assert cycle(0.0) < 0.001
    assert cycle(0.3) == pytest.approx(0.1)
    assert cycle(0.65) == pytest.approx(0.05)
    assert cycle(0.999) < 0.001


def test_batches_cover_everything_once_and_drop_a_lonely_sample() -> None:
    batches = shuffled(torch.arange(33), 16, 0)
    assert [len(batch) for batch in batches] == [16, 16]
    assert torch.cat(shuffled(torch.arange(40), 16, 0)).sort().values.tolist() == list(range(40))
    assert not torch.equal(batches[0], shuffled(torch.arange(33), 16, 1)[0])


def test_a_term_s_mean_is_over_the_batches_that_had_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four batches: one without any term, two with "rare"; killed before the last, its means are the same."""
    rare, always = {1: 3.0, 3: 5.0}, {0: 1.0, 1: 2.0, 3: 6.0}

    def fitted(folder: Path, kill_at: int = 9) -> dict[str, float]:
        folder.mkdir(exist_ok=True)
        module = nn.Linear(1, 1, bias=False)

        def loss(epoch: int, indices: Tensor) -> dict[str, Tensor]:
            step = int(indices[0])
            if step == kill_at:
                raise KilledError
            zero = 0.0 * module.weight.sum()
            terms = {"always": always, "rare": rare}
            return {name: zero + values[step] for name, values in terms.items() if step in values}

        fit = Fit(
            epochs=1,
            stream=("test", 0),
            batches=lambda epoch: [torch.tensor([step, step]) for step in range(4)],
            learning_rate=lambda done: 0.1,
            clip_norm=0.0,
            partial=folder / "model.partial",
            advance=lambda *progress: None,
        )
        return fit.run(module, torch.optim.SGD(module.parameters()), loss).history[0]

    monkeypatch.setattr(loop, "_KEEP_EVERY", 0.0)
    with pytest.raises(KilledError):
        fitted(tmp_path / "broken", kill_at=3)
    for folder in ("whole", "broken"):
        history = fitted(tmp_path / folder)
        assert history["always"] == pytest.approx(3.0)
        assert history["rare"] == pytest.approx(4.0)


def test_a_partial_state_of_an_older_version_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot tell how many batches had a term."""
    monkeypatch.setattr(loop, "_KEEP_EVERY", 0.0)
    with monkeypatch.context() as older:
        older.setattr(loop, "_STORY", ("history", "step", "seconds", "sums", "largest", "best_epoch"))
        with pytest.raises(KilledError):
            fit_to(tmp_path, "sgd", kill_at=(2, 1))
    with pytest.raises(BenchError, match=r"model\.partial is from an older version.*counts.*delete it"):
        fit_to(tmp_path, "sgd")


def test_every_step_of_every_training_draws_something_else(tmp_path: Path) -> None:
    """From the global generator, which is left as it was; the same training draws the same again."""

    def drawn(seed: int) -> list[float]:
        module, found = nn.Linear(1, 1, bias=False), list[float]()

        def draw(*_: object) -> dict[str, Tensor]:
            found.append(float(torch.rand(())))
            return {"none": 0.0 * module.weight.sum()}

        def evaluate(_: nn.Module) -> dict[str, float]:
            draw()
            return {}

        fit = Fit(
            epochs=3,
            stream=("test", seed),
            batches=lambda epoch: [torch.arange(2)] * 4,
            learning_rate=lambda done: 0.1,
            clip_norm=0.0,
            partial=tmp_path / "model.partial",
            advance=lambda *progress: None,
            evaluate=evaluate,
        )
        before = torch.get_rng_state()
        fit.run(module, torch.optim.SGD(module.parameters()), draw)
        assert torch.equal(torch.get_rng_state(), before)
        return found

    torch.rand(3)
    first = drawn(0)
    torch.rand(3)
    assert drawn(0) == first
    assert len({*first, *drawn(1)}) == 2 * 3 * (4 + 1)
