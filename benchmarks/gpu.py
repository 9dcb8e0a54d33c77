"""The steps of `gpu.sh`, which says what they are; each is done once, and its result kept in OUT/steps."""

import argparse
import dataclasses
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import training
from torch import nn
from torch.nn import functional

import robustness_bench
from robustness_bench.attacks.numerics import geometry
from robustness_bench.benchmark.context import environment
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.files import read_json, write_atomic, write_json
from robustness_bench.benchmark.plan.layers import to_toml
from robustness_bench.benchmark.statistics import wilson
from robustness_bench.benchmark.store.cards import read_card
from robustness_bench.benchmark.store.cells import Record, read_records
from robustness_bench.benchmark.train.defenses import autocast

Found = dict[str, Any]
LEVEL = 0.95
STEPS = ("tests", "speed", "run")
ROOT = Path(__file__).parents[1]


class Peak(NamedTuple):
    """Dense TFLOP/s of a card, by its vendor's datasheet (half of what it prints "with sparsity")."""

    bf16: float
    tf32: float
    float32: float


PEAKS = {
    # NVIDIA H200 Tensor Core GPU datasheet, https://www.nvidia.com/en-us/data-center/h200/, and .../h100/
    "NVIDIA H200": Peak(989.5, 494.5, 67.0),
    "NVIDIA H200 NVL": Peak(835.5, 417.5, 60.0),
    "NVIDIA H100 80GB HBM3": Peak(989.5, 494.5, 67.0),
    "NVIDIA H100 NVL": Peak(835.5, 417.5, 60.0),
    "NVIDIA H100 PCIe": Peak(756.5, 378.0, 51.0),
    # NVIDIA A100 Tensor Core GPU datasheet, https://www.nvidia.com/en-us/data-center/a100/
    "NVIDIA A100-SXM4-80GB": Peak(312.0, 156.0, 19.5),
    "NVIDIA A100-SXM4-40GB": Peak(312.0, 156.0, 19.5),
    "NVIDIA A100 80GB PCIe": Peak(312.0, 156.0, 19.5),
}
"""Name that the driver tells -> peak. Another card has none: its share is left out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done.

    Attributes:
        batch_sizes: of the measured steps; the training has its schedule's.
        turn: seconds that a turn of a measured step should take.
        reserve: seconds kept for the attacks when the epochs are chosen.
        epochs: the most.
        tests: an expression of pytest's -k that the tests' names match.
        tests_share: the most of the time that they may take.
    """

    device: str = "cuda"
    dataset: str = "cifar10"
    width: int = 64
    shape: tuple[int, int, int] = (3, 32, 32)
    attack_steps: tuple[int, ...] = (10, 1)
    batch_sizes: tuple[int, ...] = (128, 1024)
    rounds: int = 3
    turn: float = 1.0
    train_limit: int = 0
    n_examples: int = 1000
    epochs: int = 100
    reserve: float = 180.0
    tests: str = "cuda"
    tests_share: float = 0.2


TOY = Size(
    device="cpu",
    dataset="digits",
    width=2,
    shape=(1, 8, 8),
    attack_steps=(2, 1),
    batch_sizes=(8,),
    rounds=1,
    turn=0.0,
    train_limit=96,
    n_examples=8,
    epochs=1,
    tests="noise",
    tests_share=0.5,
)


def tests(size: Size, out: Path, left: float) -> Found:
    """Run the tests that are marked cuda, for no longer than their share of the time."""
    options = ["-q", "-m", "cuda", "-k", size.tests, "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, "tests/test_cuda.py"]
    variables, limit = os.environ | {"BENCH_TEST_DEVICE": size.device}, size.tests_share * left
    ran = subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=limit
    )
    (out / "tests.log").write_text(ran.stdout + ran.stderr, encoding="utf-8")
    return {"status": ran.returncode, "summary": ran.stdout.strip().splitlines()[-1:], "log": "tests.log"}


def by_hand(work: training.Workload, steps: int) -> float:
    """Seconds per step of adversarial training as it is mostly written, weights' gradients and all.

    The attack climbs the cross-entropy of the network in training, in evaluation mode, by ``backward()``.
    """
    model, attack, device = work.model, work.attack, work.device
    started = training.now(device)
    with training.kept_buffers(model):
        for _ in range(steps):
            batch = work.batch(work.indices)
            x, y = batch.x, batch.y
            model.eval()
            x_adv = (x + attack.eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
            for _ in range(attack.steps):
                x_adv.requires_grad_()
                with autocast(work.precision, device):
                    loss = functional.cross_entropy(model(x_adv), y)
                loss.backward()
                assert x_adv.grad is not None
                step_size = attack.rel_step_size * attack.eps
                x_adv = geometry.climb(x, x_adv.detach(), x_adv.grad, attack.norm, attack.eps, step_size)
            model.train()
            with autocast(work.precision, device):
                loss = functional.cross_entropy(model(x_adv), y)
            work.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), work.recipe.clip_norm or float("inf"))
            work.optimizer.param_groups[0]["lr"] = 0.0
            work.optimizer.step()
    return (training.now(device) - started) / steps


def speed(size: Size, out: Path, left: float) -> Found:
    """Measure our step and the one by hand in turns, for every attack, precision and batch size."""
    rows: list[Found] = []
    peaks = PEAKS.get(torch.cuda.get_device_name()) if size.device == "cuda" else None
    tf32 = size.device == "cuda" and torch.backends.cudnn.allow_tf32
    for batch_size in size.batch_sizes:
        for steps, precision in product(size.attack_steps, ("bf16", "float32")):
            options = training.parse(
                [
                    *("--width", str(size.width), "--batch-size", str(batch_size), "--precision", precision),
                    *("--dataset-shape", "x".join(map(str, size.shape)), "--device", size.device),
                    *("--attack-steps", str(steps)),
                ]
            )
            work = training.prepare(options)
            timed = [
                training.Entry("ours", "ours", "by hand", partial(training.training_turn, work, "standard")),
                training.Entry("by hand", "by hand", "by hand", partial(by_hand, work)),
            ]
            counts = {entry.name: training.count(entry) for entry in timed}
            slowest = max(entry.turn(1) for entry in timed)
            seconds = training.measure(timed, max(1, round(size.turn / slowest)), size.rounds)
            used = "bf16" if precision == "bf16" else "tf32" if tf32 else "float32"
            peak = getattr(peaks, used) if peaks else None
            for row in training.rows(timed, seconds, counts, batch_size, peak):
                shown = {"attack_steps": steps, "precision": precision, "arithmetic": used}
                rows.append({**shown, "batch_size": batch_size, **row})
    return {"rows": rows, "peak": peaks._asdict() if peaks else None}


def protocol(size: Size, out: Path, left: float) -> Path:
    """Return the protocol of the run, chosen once: as many epochs as fit into what is left of the time."""
    file = out / "protocol.toml"
    if not file.is_file():
        epochs = size.epochs
        if (measured := _step(out, "speed")) is not None:
            (mine,) = (row for row in measured["rows"] if _is_trained(row, size))
            # The prior's pass and the judging of held-out images, neither of which was measured, as twice.
            fitting = (left - size.reserve) / (2.0 * mine["seconds_per_epoch"])
            epochs = max(1, min(size.epochs, int(fitting)))
        tree = {
            "datasets": [size.dataset],
            "defenses": ["standard"],
            "norms": ["linf"],
            "threats": ["white"],
            "n_examples": size.n_examples,
            "diagnosis": False,
            "schedule": "one-step-strong",
            "model": {"width": size.width},
            "training": {"epochs": epochs, "train_limit": size.train_limit, "precision": "bf16"},
            "dataset": {size.dataset: {"attacks": {"strict": {"linf": ["none", "aa-fast", "aa"]}}}},
        }
        write_atomic(file, to_toml(tree).encode())
    return file


def _is_trained(row: Found, size: Size) -> bool:
    wanted = {"name": "ours", "attack_steps": 1, "precision": "bf16", "batch_size": size.batch_sizes[0]}
    return wanted.items() <= row.items()


def run(size: Size, data: Path, out: Path, left: float) -> Found:
    """Train and attack, by what `bench run --config OUT/protocol.toml` does."""
    file = protocol(size, out, left)
    failed = robustness_bench.run(file, out=out, data_dir=data, device=size.device, workers=1).failures
    found: Found = {"protocol": file.name, "failures": sorted(failed)}
    for record in read_records(out):
        found[record.spec["attack"]] = _cell(record)
    (card,) = (path for path in out.glob("checkpoints/*/*.json") if path.is_file())
    history = read_card(card.with_suffix(".safetensors"))["history"]
    found["training"] = {"epochs": len(history), "seconds_per_epoch": [each["seconds"] for each in history]}
    return found


def _cell(record: Record) -> Found:
    if record.status == "error":
        return {"error": record.error.strip().splitlines()[-1]}
    images, share = len(record.robust), float(record.robust.mean())
    low, high = wilson(share, images, LEVEL)
    return {
        "accuracy": 100 * share,
        "interval": [100 * low, 100 * high],
        "images": images,
        "seconds": record.seconds,
        "forwards": float(record.rows["forwards"].mean()),
        "backwards": float(record.rows["backwards"].mean()),
    }


def _step(out: Path, name: str) -> Found | None:
    path = out / "steps" / f"{name}.json"
    found: Found | None = read_json(path) if path.is_file() else None
    return found


def perform(steps: Mapping[str, Callable[[float], Found]], out: Path, deadline: float, device: str) -> Found:
    """Do what is not done, each step for itself, and leave everything in ``gpu.json``."""
    (out / "steps").mkdir(parents=True, exist_ok=True)
    told: Found = {"environment": environment(device), "peaks": {k: v._asdict() for k, v in PEAKS.items()}}
    for name, step in steps.items():
        if (found := _step(out, name)) is None:
            started = time.monotonic()
            try:
                found = step(deadline - started)
            except BenchError:
                raise
            except Exception:  # a step that breaks must not cost the others
                found = {"error": traceback.format_exc()}
            found["step_seconds"] = round(time.monotonic() - started, 1)
            if _is_whole(found):
                write_json(out / "steps" / f"{name}.json", found)
        told[name] = found
        write_json(out / "gpu.json", told)
        print(f"{name}: {found.get('error', '').strip() or 'done'} ({found['step_seconds']} s)", flush=True)
    return told


def _is_whole(found: Found) -> bool:
    return not (found.get("error") or found.get("status") or found.get("failures"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Perform the steps; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of CIFAR-10")
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--minutes", type=float, default=10.0, help="for everything")
    parser.add_argument("--toy", action="store_true", help="digits on the CPU, in seconds")
    parser.add_argument("--steps", default=",".join(STEPS), help="which of them")
    options = parser.parse_args(arguments)
    size, deadline = TOY if options.toy else Size(), time.monotonic() + 60 * options.minutes
    if options.toy:
        torch.set_num_threads(1)  # for so small a network more only wait for each other
    if size.device == "cuda" and not torch.cuda.is_available():
        print("gpu.sh: torch sees no CUDA GPU; --toy runs on the CPU", file=sys.stderr)
        return 2
    known: dict[str, Callable[[float], Found]] = {
        "tests": partial(tests, size, options.out),
        "speed": partial(speed, size, options.out),
        "run": partial(run, size, options.data, options.out),
    }
    try:
        chosen = {name: known[name] for name in options.steps.split(",")}
        told = perform(chosen, options.out, deadline, size.device)
    except KeyError as error:
        parser.error(f"unknown step {error}; known: {', '.join(known)}")
    except BenchError as error:
        print(f"gpu.sh: {error}", file=sys.stderr)
        return 2
    return 0 if all(_is_whole(told[name]) for name in chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
