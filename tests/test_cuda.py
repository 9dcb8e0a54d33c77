"""On a CUDA GPU: noise, attacks, training and a whole run give what the CPU gives.

``BENCH_TEST_DEVICE=cpu`` runs them without a GPU, which says that they run, not that a GPU is right.
"""

import os
from pathlib import Path

import pytest
import torch

from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Planner
from robustness_bench.benchmark.store.cards import read_card
from robustness_bench.benchmark.store.cells import read_records
from robustness_bench.benchmark.train.defenses import train
from tests.conftest import Bench
from tests.support import Linear, images

DEVICE = os.environ.get("BENCH_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA GPU"),
]


def test_noise_has_the_same_bits() -> None:
    here, there = (
        Noise.for_samples(torch.arange(50, device=device), 7, "test") for device in ("cpu", DEVICE)
    )
    assert torch.equal(here.uniform((3, 8, 8)), there.uniform((3, 8, 8)).cpu())
    assert torch.allclose(here.normal((100,)), there.normal((100,)).cpu(), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "norm"), [("pgd-40", "linf"), ("pgd-40", "l2"), ("aa", "linf"), ("cw-fast", "l2")]
)
def test_attacks_find_what_a_linear_model_has(name: str, norm: str) -> None:
    model, x = Linear().to(DEVICE), (0.4 + 0.2 * images(24, size=6)).to(DEVICE)
    y, limit = model(x).argmax(1), model.boundary(x, norm).median().item()
    preset = attack_presets("strict")[name]
    outcome = preset.build(norm, limit)(model, x, y)
    fooled = outcome.prediction != y
    if preset.takes_eps:
        near, far = model.boundary(x, norm) < 0.98 * limit, model.boundary(x, norm) > 1.001 * limit
        assert fooled[near].all()
        assert not fooled[far].any()
    else:
        assert fooled.all()
        assert (outcome.distance <= 1.1 * model.boundary(x, norm)).all()


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_training_has_the_losses_of_the_cpu(tmp_path: Path, precision: str) -> None:
    tree = {"epochs": 1, "train_limit": 96, "batch_size": 32, "attack_steps": 1, "prior": 1.0, "ema": 0.5}
    overrides = {"defenses": ["trades"], "model": {"width": 4}, "training": tree | {"precision": precision}}
    (settings,) = load_protocol(None, overrides).settings
    task = Planner(settings, locate("digits", Path())).train("trades", "linf", 0)
    losses = []
    for device in ("cpu", DEVICE):
        out = tmp_path / device
        train(task, Context(out=out, device=device, batch_size=0, threads=1), lambda *progress: None)
        (epoch,) = read_card(out / task.path)["history"]
        losses.append([epoch[term] for term in ("natural", "kl", "prior")])
    assert losses[1] == pytest.approx(losses[0], rel=0.02 if precision == "float32" else 0.1, abs=1e-3)


def test_a_run_leaves_records_of_this_device(bench: Bench, tmp_path: Path) -> None:
    small = ["--epochs", 1, "--train-limit", 96, "--width", 2, "--n-examples", 8, "--norm", "linf"]
    asked = ["--defense", "standard", "--attacks", "aa-fast@8-bit,ti-dim"]
    said = bench("run", *small, *asked, "--out", tmp_path, "--device", DEVICE)
    assert said.status == 0, said.err
    found = read_records(tmp_path)
    assert {record.status for record in found} == {"ok"}
    assert {record.environment["device"].partition(":")[0] for record in found} == {DEVICE}
