"""Seconds per training step of every defense, measured side by side in one process.

    python benchmarks/training.py --width 64 --batch-size 16 --threads 1 --out training.csv

A step is what `robustness_bench.benchmark.train.defenses` does with a batch: inner attack, loss terms,
backward pass, clipping, SGD step, by the trainer's own functions. README.md beside this file says how to
read the table.
"""

import argparse
import copy
import csv
import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.benchmark.data import dataset_named
from robustness_bench.benchmark.networks import build_model
from robustness_bench.benchmark.networks.fold import folded
from robustness_bench.benchmark.networks.resnet import ResNet18
from robustness_bench.benchmark.plan.protocol import Training, load_protocol
from robustness_bench.benchmark.store.models import Estimators
from robustness_bench.benchmark.train.defenses import Float, autocast, climbed, inner_attack, seeded
from robustness_bench.benchmark.train.images import Batch
from robustness_bench.benchmark.train.loop import Fit
from robustness_bench.defenses import base as contract
from robustness_bench.defenses.base import Defense, InnerAttack, InnerLoss, against, craft
from robustness_bench.defenses.mutual_information.estimator import build_estimators
from robustness_bench.defenses.registry import DefensePreset, build_defense, defense_presets
from robustness_bench.defenses.standard import Standard

DEFENSES = ("undefended", "standard", "wmim", "namid", "trades", "namid-t", "mart", "namid-m")
ATTACK = "inner attack"
EPOCH = 50_000
_MODEL = "resnet-18"

Turn = Callable[[int], float]
"""Number of steps -> seconds per step."""


class Entry(NamedTuple):
    """Something that is timed, and what its time is compared with."""

    kind: str
    """defense; part of Standard AT's step; alternative: a choice of the trainer's undone."""
    name: str
    relative_to: str
    turn: Turn


class Count(NamedTuple):
    """What one step computes: passes of the network per image, and floating-point operations."""

    forwards: float
    backwards: float
    flops: int


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A network in training and one batch for it.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: (N,), the network's own classes, so that equation 6 of NAMID has samples to select.
        precision: "float32" or "bf16".
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    classes: int
    attack: InnerAttack
    recipe: Training
    precision: str

    @property
    def device(self) -> torch.device:
        return self.images.device

    @cached_property
    def optimizer(self) -> torch.optim.SGD:
        momentum, decay = self.recipe.momentum, self.recipe.weight_decay
        return torch.optim.SGD(self.model.parameters(), momentum=momentum, weight_decay=decay)

    @property
    def indices(self) -> Tensor:
        return torch.arange(len(self.labels))

    def batch(self, indices: Tensor) -> Batch:
        """As `robustness_bench.benchmark.train.images` makes it, but for the augmentation."""
        indices = indices.to(self.device)
        noise = Noise.for_samples(indices, 0, "inner attack", 0)
        return Batch(self.images[indices].float() / 255, self.labels[indices], noise)

    def contiguous(self) -> "Workload":
        """A copy whose weights and images are not in the channels-last format."""
        model = copy.deepcopy(self.model).to(memory_format=torch.contiguous_format)
        return dataclasses.replace(self, model=model, images=self.images.contiguous())


def prepare(options: argparse.Namespace) -> Workload:
    """The network of the options with random weights, random images, and the recipe for CIFAR-10."""
    recipe, info = _settings().training, dataset_named("cifar10").info
    channels, size, _ = options.dataset_shape
    info = dataclasses.replace(
        info,
        channels=channels,
        size=size,
        classes=options.classes,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )
    model = seeded(0, lambda: build_model(_MODEL, info, options.width))
    model = model.to(options.device).to(memory_format=torch.channels_last).train()
    shape, generator = (options.batch_size, *options.dataset_shape), torch.Generator().manual_seed(0)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    images = images.to(options.device, memory_format=torch.channels_last)
    training = recipe.identity() | {"attack_steps": options.attack_steps}
    spec = {"norm": options.norm, "eps": info.eps(options.norm), "training": training}
    return Workload(
        model=model,
        images=images,
        labels=settle(model, images.float() / 255),
        classes=options.classes,
        attack=inner_attack(spec),
        recipe=recipe,
        precision=options.precision,
    )


@torch.no_grad()
def settle(model: nn.Module, x: Tensor) -> Tensor:
    """Give batch norm the statistics of ``x`` (N, C, H, W); the classes that ``model`` tells, (N,)."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    classes: Tensor = model(x).argmax(1)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return classes


def training_turn(work: Workload, name: str, steps: int) -> float:
    """Seconds per step of a defense after its warm-up epochs, by the trainer's loop.

    The learning rate is 0 and batch norm's statistics are put back: the same arithmetic, and every turn
    starts from the same network.

    Raises:
        ValueError: a loss term took no part, since the batch had no samples for it.
    """
    preset = defense_presets()[name]
    defense, estimators = build_defense(preset.identity()), _estimators(preset, work)
    marks: list[float] = []

    def loss(epoch: int, indices: Tensor) -> dict[str, Tensor]:
        terms = loss_terms(work, defense, estimators, indices)
        idle = [term for term, value in terms.items() if not value.requires_grad]
        if idle:
            raise ValueError(f"{name}: no sample for {', '.join(idle)} in the batch: raise --batch-size")
        return terms

    def batches(epoch: int) -> list[Tensor]:
        marks.append(now(work.device))
        return [work.indices] * steps

    def advance(done: float, total: float, unit: str) -> None:
        if done == total:
            marks.append(now(work.device))

    fit = Fit(
        epochs=1,
        stream=("benchmark",),
        batches=batches,
        learning_rate=lambda done: 0.0,
        clip_norm=work.recipe.clip_norm,
        partial=Path(),
        advance=advance,
        keeps=False,
    )
    with kept_buffers(work.model):
        fit.run(work.model, work.optimizer, loss)
    return (marks[1] - marks[0]) / steps


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """The buffers of ``model`` are afterwards what they were."""
    before = [buffer.clone() for buffer in model.buffers()]
    yield
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)


def loss_terms(
    work: Workload, defense: Defense, estimators: Estimators | None, indices: Tensor
) -> dict[str, Tensor]:
    """What the trainer's loss function does with a batch."""
    batch = work.batch(indices)
    with autocast(work.precision, work.device):
        x_adv = batch.x
        if defense.adversarial:
            x_adv, _ = climbed(work.attack, defense, work.model, batch)
        return defense.terms(contract.Batch(Float(work.model), batch.x, batch.y, x_adv, estimators))


def attack_turn(work: Workload, make: Callable[[Workload, Batch], Tensor], steps: int) -> float:
    """Seconds per inner attack of Standard AT."""
    batch = work.batch(work.indices)
    started = now(work.device)
    for _ in range(steps):
        with autocast(work.precision, work.device):
            make(work, batch)
    return (now(work.device) - started) / steps


def as_trained(work: Workload, batch: Batch) -> Tensor:
    """The trainer's inner attack."""
    return climbed(work.attack, Standard(), work.model, batch)[0]


def unfolded(work: Workload, batch: Batch) -> Tensor:
    """The same with batch norm left in the network."""
    victim = Float(copy.deepcopy(work.model).eval()).requires_grad_(False)
    return craft(work.attack, victim, batch.x, batch.noise, against(batch.y))


def with_gradients(work: Workload, batch: Batch) -> Tensor:
    """The same on weights that require gradients, which ``autograd.grad`` of the images does not compute."""
    return work.attack(Float(folded(work.model)).eval(), batch.x, batch.noise, against(batch.y))


def into_weights(work: Workload, batch: Batch) -> Tensor:
    """The same by ``backward()``, which computes the gradients of the weights too."""
    attack = BackwardAttack(**vars(work.attack))
    return attack(Float(folded(work.model)).eval(), batch.x, batch.noise, against(batch.y))


class BackwardAttack(InnerAttack):
    """The inner attack with ``backward()`` in place of ``autograd.grad``."""

    def __call__(self, model: nn.Module, x: Tensor, noise: Noise, loss: InnerLoss) -> Tensor:
        x_adv = self.start_of(x, noise)
        for _ in range(self.steps):
            x_adv.requires_grad_()
            loss(model(x_adv)).sum().backward()
            assert x_adv.grad is not None
            step_size = self.rel_step_size * self.eps
            x_adv = geometry.climb(x, x_adv.detach(), x_adv.grad, self.norm, self.eps, step_size)
        return x_adv


def entries(work: Workload, names: Sequence[str]) -> list[Entry]:
    """Everything that is timed, in the order of a round."""
    timed = [Entry("defense", name, "standard", partial(training_turn, work, name)) for name in names]
    timed.append(Entry("part", ATTACK, "standard", partial(attack_turn, work, as_trained)))
    for name, make in (
        ("batch norm not folded", unfolded),
        ("weights require gradients", with_gradients),
        ("gradients of weights computed", into_weights),
    ):
        timed.append(Entry("alternative", f"{ATTACK}, {name}", ATTACK, partial(attack_turn, work, make)))
    others = {"not channels-last": work.contiguous()}
    if work.device.type == "cuda":
        other = "float32" if work.precision == "bf16" else "bf16"
        others[other] = dataclasses.replace(work, precision=other)
    for name, other_work in others.items():
        turn = partial(training_turn, other_work, "standard")
        timed.append(Entry("alternative", f"standard, {name}", "standard", turn))
    return timed


def count(entry: Entry) -> Count:
    """Passes and operations of one step, which also warms it up."""
    flops = FlopCounterMode(display=False)
    flops.mod_tracker = NoModules()
    with flops, counted_passes() as passes:
        entry.turn(1)
    return Count(passes["forwards"], passes["backwards"], flops.get_total_flops())


class NoModules(ModuleTracker):
    """No counts by module: the hooks of `ModuleTracker` refuse ``autograd.grad`` of a leaf, as images are."""

    def __enter__(self) -> "NoModules":
        return self

    def __exit__(self, *args: object) -> None:
        pass


@contextmanager
def counted_passes() -> Iterator[dict[str, int]]:
    """Images that went forward and backward through any `ResNet18` inside."""
    passes = {"forwards": 0, "backwards": 0}

    def back(gradient: Tensor) -> None:
        passes["backwards"] += len(gradient)

    def forth(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, ResNet18):
            passes["forwards"] += len(output)
            if output.requires_grad:
                output.register_hook(back)

    handle = nn.modules.module.register_module_forward_hook(forth)
    try:
        yield passes
    finally:
        handle.remove()


def measure(timed: Sequence[Entry], steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds per step of every entry in every round; a round is a turn of each."""
    seconds: dict[str, list[float]] = {entry.name: [] for entry in timed}
    for _ in range(rounds):
        for entry in timed:
            seconds[entry.name].append(entry.turn(steps))
    return seconds


def now(device: torch.device) -> float:
    """Seconds on a clock, with all work on the device done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@cache
def _settings() -> Any:
    return load_protocol(overrides={"datasets": ["cifar10"]}).settings[0]


def _estimators(preset: DefensePreset, work: Workload) -> Estimators | None:
    """Random estimators as the trainer hands them over, frozen and evaluating; the same for every turn."""
    if "estimators" not in preset.requires:
        return None
    recipe = _settings().estimators.identity() | preset.estimators
    built: Estimators = _built(work.images.shape[1], work.classes, recipe["objective"], str(work.device))
    return built


@cache
def _built(channels: int, classes: int, objective: Any, device: str) -> Any:
    recipe = _settings().estimators
    build = partial(
        build_estimators,
        channels,
        classes,
        units=recipe.units,
        scores=recipe.scores,
        temperature=recipe.temperature,
        bound=recipe.bound,
        objective=objective,
        floor=recipe.floor,
    )
    return seeded(1, build).eval().requires_grad_(False).to(device)


Row = dict[str, Any]


def rows(
    timed: Sequence[Entry],
    seconds: dict[str, list[float]],
    counts: dict[str, Count],
    batch_size: int,
    peak: float | None,
) -> list[Row]:
    """A row per entry; times are medians over rounds, `relative` is the ratio of two of them."""
    made = []
    for entry in timed:
        own, reference, counted = seconds[entry.name], seconds[entry.relative_to], counts[entry.name]
        median = statistics.median(own)
        by_round = [one / other for one, other in zip(own, reference, strict=True)]
        rate = counted.flops / median / 1e12
        made.append(
            {
                "kind": entry.kind,
                "name": entry.name,
                "seconds_per_step": median,
                "relative_to": entry.relative_to,
                "relative": median / statistics.median(reference),
                "relative_min": min(by_round),
                "relative_max": max(by_round),
                "forwards_per_image": counted.forwards / batch_size,
                "backwards_per_image": counted.backwards / batch_size,
                "images_per_second": batch_size / median,
                "seconds_per_epoch": EPOCH * median / batch_size,
                "tflop_per_step": counted.flops / 1e12,
                "tflop_per_second": rate,
                "percent_of_peak": "" if peak is None else 100 * rate / peak,
            }
        )
    return made


_SHOWN = {
    "name": ("", "{}"),
    "seconds_per_step": ("s/step", "{:.4g}"),
    "relative": ("relative", "{:.3f}"),
    "relative_min": ("min", "{:.3f}"),
    "relative_max": ("max", "{:.3f}"),
    "forwards_per_image": ("forwards", "{:g}"),
    "backwards_per_image": ("backwards", "{:g}"),
    "images_per_second": ("images/s", "{:.4g}"),
    "seconds_per_epoch": ("s/epoch", "{:.0f}"),
    "tflop_per_step": ("TFLOP", "{:.4g}"),
    "tflop_per_second": ("TFLOP/s", "{:.3g}"),
    "percent_of_peak": ("% of peak", "{:.1f}"),
}


def table(shown: Sequence[Row], title: str) -> str:
    """Rows as text."""
    columns = [name for name in _SHOWN if shown and shown[0][name] != ""]
    cells = [[title if name == "name" else _SHOWN[name][0] for name in columns]]
    cells += [[_SHOWN[name][1].format(row[name]) for name in columns] for row in shown]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])


def report(made: Sequence[Row], setting: Row) -> str:
    """Both tables and what the choices of the trainer gain."""
    by_name = {row["name"]: row for row in made}
    attack = by_name[ATTACK]
    lines = [
        ", ".join(f"{name} {value}" for name, value in setting.items()),
        "",
        table([row for row in made if row["kind"] == "defense"], "defense"),
        "",
        table([row for row in made if row["kind"] != "defense"], "Standard AT otherwise"),
        "",
        f"{ATTACK}: {_percent(attack)} of Standard AT's step",
    ]
    for row in made:
        if row["kind"] == "alternative":
            low, high = row["relative_min"], row["relative_max"]
            times = f"{row['relative']:.3f} times ({low:.3f} to {high:.3f})"
            lines.append(f"{row['name']}: takes {times} as long as {row['relative_to']}")
    return "\n".join(lines)


def _percent(row: Row) -> str:
    share, low, high = (100 * row[name] for name in ("relative", "relative_min", "relative_max"))
    return f"{share:.1f} % ({low:.1f} to {high:.1f} %)"


def describe(options: argparse.Namespace) -> Row:
    """What the figures hold for."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "hardware": hardware(options.device),
        "cpus": os.cpu_count(),
        "device": str(options.device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": options.precision,
        "model": _MODEL,
        "width": options.width,
        "norm": options.norm,
        "attack_steps": options.attack_steps,
        "batch_size": options.batch_size,
        "shape": "x".join(map(str, options.dataset_shape)),
        "classes": options.classes,
        "steps": options.steps,
        "rounds": options.rounds,
    }


def hardware(device: torch.device) -> str:
    """The name of the GPU, or of the processor where the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    about = Path("/proc/cpuinfo")
    for line in about.read_text().splitlines() if about.is_file() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write_csv(path: Path, made: Sequence[Row], setting: Row) -> None:
    """The rows, each with the setting."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*made[0], *setting], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **setting} for row in made)


def _shape(text: str) -> tuple[int, int, int]:
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts) or parts[1] != parts[2]:
        raise argparse.ArgumentTypeError(f"{text!r} is not channels x size x size, such as 3x32x32")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _defenses(text: str) -> tuple[str, ...]:
    """In the order of the table; "standard", which all else is compared with, is always among them."""
    known, wanted = defense_presets(), {"standard", *text.split(",")}
    if missing := sorted(wanted - set(known)):
        raise argparse.ArgumentTypeError(f"unknown {', '.join(missing)}; known: {', '.join(known)}")
    return tuple(name for name in known if name in wanted)


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
    return value


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; an unusable one ends the program with status 2."""
    summary = "Seconds per training step of every defense, measured side by side."
    parser = argparse.ArgumentParser(
        description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    positive = partial(_at_least, 1)
    parser.add_argument("--width", type=positive, default=64, help="channels of the first stage")
    parser.add_argument("--batch-size", type=partial(_at_least, 2), default=16, help="images in a step")
    parser.add_argument("--steps", type=positive, default=2, help="steps in a turn")
    parser.add_argument("--rounds", type=positive, default=3, help="turns of every defense")
    parser.add_argument("--dataset-shape", type=_shape, default="3x32x32", help="channels x size x size")
    parser.add_argument("--classes", type=partial(_at_least, 2), default=10, help="of the network")
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32", help="of the networks")
    parser.add_argument("--threads", type=positive, help="torch threads; as torch sets them unless given")
    parser.add_argument("--norm", choices=get_args(Norm), default="linf", help="of the inner attack")
    parser.add_argument("--attack-steps", type=positive, default=10, help="steps of the inner attack")
    parser.add_argument("--defense", type=_defenses, default=",".join(DEFENSES), help="which ones")
    parser.add_argument(
        "--peak-tflops", type=float, help="of the device, for a column with the share reached"
    )
    parser.add_argument("--out", type=Path, help="CSV file for the same figures")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measure, print, write; the rows."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    setting = describe(options)
    timed = entries(prepare(options), options.defense)
    counts = {entry.name: count(entry) for entry in timed}
    seconds = measure(timed, options.steps, options.rounds)
    made = rows(timed, seconds, counts, options.batch_size, options.peak_tflops)
    print(report(made, setting))
    if options.out is not None:
        write_csv(options.out, made, setting)
    return made


if __name__ == "__main__":
    main()
