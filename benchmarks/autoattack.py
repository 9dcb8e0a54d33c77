"""AutoAttack here, aa-fast and pyautoattack called directly, on the same weights and images, in turns.

    bench run --dataset digits --norm linf --defense standard --attacks none --seeds 1 --out RUN
    python benchmarks/autoattack.py RUN/checkpoints/digits/standard-*.safetensors --images 64 --rounds 5

README.md beside this file says how to read the table.
"""

import argparse
import json
import logging
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from robustness_bench.attacks.base import Attack, Counted
from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.networks import build_model
from robustness_bench.benchmark.networks.fold import folded

LIBRARY = "pyautoattack"


class Problem(NamedTuple):
    model: nn.Module
    """As trained, which is what the library is given."""
    ours: nn.Module
    """As ``bench run`` has it: batch norm folded, channels last."""
    x: Tensor
    y: Tensor
    norm: str
    eps: float


class Turn(NamedTuple):
    seconds: float
    """Of processor time."""
    stands: Tensor
    forwards: float
    backwards: float


def read(checkpoint: Path, data: Path, images: int, eps: float | None) -> Problem:
    """The model of a ``bench run`` and the first test images of its data set."""
    spec = json.loads(checkpoint.with_suffix(".json").read_text(encoding="utf-8"))["spec"]
    located = locate(spec["dataset"], data)
    model = build_model(spec["model"], located.info, spec["width"])
    model.load_state_dict(load_file(checkpoint))
    model = model.eval().requires_grad_(False)
    ours = folded(model).requires_grad_(False).to(memory_format=torch.channels_last)
    splits = located.load()
    x = torch.tensor(splits.test_x[:images]).float() / 255
    y = torch.tensor(splits.test_y[:images])
    return Problem(model, ours, x, y, spec["norm"], spec["eps"] if eps is None else eps)


def by_library(on: Problem) -> Turn:
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.CRITICAL)
    counted = Counted(on.model)
    library = AutoAttack(counted, norm={"linf": "Linf", "l2": "L2"}[on.norm], eps=on.eps, seed=0)
    # Its constructor asks for no model's passes; the counter's own work is a thousandth of a pass.
    started = time.process_time()
    x_adv, _ = library.run_standard_evaluation(on.x, on.y, batch_size=len(on.x))
    seconds = time.process_time() - started
    n, stands = len(on.x), on.model(x_adv).argmax(1) == on.y
    return Turn(seconds, stands, counted.forwards / n, counted.backwards / n)


def by_us(attack: Attack, on: Problem) -> Turn:
    x = on.x.contiguous(memory_format=torch.channels_last)
    started = time.process_time()
    outcome = attack(on.ours, x, on.y, seed=0)
    seconds = time.process_time() - started
    return Turn(seconds, outcome.prediction == on.y, outcome.forwards, outcome.backwards)


def measure(on: Problem, names: Sequence[str], rounds: int) -> dict[str, list[Turn]]:
    """Every entry's turns, one of each after the other."""
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            if name == LIBRARY:
                turns[name].append(by_library(on))
            else:
                attack = attack_presets("strict")[name].build(on.norm, on.eps)
                turns[name].append(by_us(attack, on))
    return turns


def report(turns: dict[str, list[Turn]]) -> str:
    """A line for each entry, compared with the first one in every round."""
    first, *_ = turns
    lines = ["| | s | ratio | min | max | stand | only here | forwards | backwards |", "|---|" + "---|" * 8]
    for name, mine in turns.items():
        ratios = [a.seconds / b.seconds for a, b in zip(mine, turns[first], strict=True)]
        one, other = mine[0], turns[first][0]
        cells = [
            f"{statistics.median(turn.seconds for turn in mine):.2f}",
            *(f"{value:.3f}" for value in (statistics.median(ratios), min(ratios), max(ratios))),
            str(int(one.stands.sum())),
            str(int((one.stands & ~other.stands).sum())),
            f"{one.forwards:.1f}",
            f"{one.backwards:.1f}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; an unusable one ends the program with status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a model of bench run, .safetensors")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--images", type=int, default=64, help="the first ones of the test split")
    parser.add_argument("--eps", type=float, help="the training's unless given")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument(
        "--entries", default=f"{LIBRARY},aa,aa-fast", help="what takes turns; the first is compared with"
    )
    options = parser.parse_args(arguments)
    if not options.checkpoint.is_file():
        parser.error(f"{options.checkpoint} is no file: name the .safetensors file of a model of bench run")
    if options.images < 1 or options.rounds < 1:
        parser.error("--images and --rounds must be at least 1")
    known = {LIBRARY, *attack_presets("strict")}
    if wrong := [name for name in options.entries.split(",") if name not in known]:
        parser.error(f"unknown {', '.join(wrong)}; known: {', '.join(sorted(known))}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    on = read(options.checkpoint, options.data, options.images, options.eps)
    print(f"{options.images} images, {on.norm}, eps {on.eps:g}, {options.rounds} rounds, one thread")
    print(report(measure(on, options.entries.split(","), options.rounds)))


if __name__ == "__main__":
    main()
