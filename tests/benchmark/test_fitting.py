from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmark import fitting
from benchmark.errors import BenchError
from benchmark.fitting import Fit, TrainingError, one_cycle, shuffled, stepped


class KilledError(Exception):
    """Stands for the end of the process."""


def fit_to(
    folder: Path, kind: str, kill_in: int | None = None, scale: float = 1.0
) -> tuple[dict[str, Tensor], fitting.History]:
    """Train a small network on fixed data for 6 epochs; die in one if asked to."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 5, generator=generator), torch.randn(40, 1, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    optimizers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(module.parameters(), momentum=0.9, weight_decay=1e-3),
        "adam": lambda: torch.optim.Adam(module.parameters()),
    }

    def loss(epoch: int, indices: Tensor) -> dict[str, Tensor]:
        if epoch == kill_in:
            raise KilledError
        return {"error": scale * ((module(x[indices]) - y[indices]) ** 2).mean()}

    fit = Fit(
        epochs=6,
        batches=lambda epoch: shuffled(torch.arange(40), 16, epoch),
        learning_rate=one_cycle(0.05),
        clip_norm=1.0,
        partial=folder / "model.partial",
        advance=lambda *progress: None,
    )
    history = fit.run(module, optimizers[kind](), loss)
    return module.state_dict(), history


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_resumed_training_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(fitting, "_KEEP_EVERY", 0.0)
    (tmp_path / "whole").mkdir()
    whole, history = fit_to(tmp_path / "whole", kind)
    for epoch in (2, 4):
        with pytest.raises(KilledError):
            fit_to(tmp_path, kind, kill_in=epoch)
    resumed, resumed_history = fit_to(tmp_path, kind)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    errors = [[entry["error"] for entry in entries] for entries in (history, resumed_history)]
    assert errors[0] == errors[1]
    assert errors[0][-1] < errors[0][0]


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
