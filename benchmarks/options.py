"""What each training option brings to Standard AT, for the same passes of the network.

    python benchmarks/options.py --config benchmark/protocols/cifar10-slim.toml --data-dir DATA --out OUT

Standard AT is trained by the protocol as it stands, then once for each option, everything else equal; an
option that costs more passes a step gets fewer epochs. Each has a folder of its own under OUT, and the same
command goes on where it ended. OUT/options.csv has the accuracies and, of the same images, the differences
to the first row with 95 % intervals.
"""

import argparse
import csv
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import robustness_bench
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.statistics import Resampled, differences, resample
from robustness_bench.benchmark.store.cells import Record, read_records

ATTACKS = ("none", "aa-fast")


class Option(NamedTuple):
    """Keys of [training], and passes of the network per image and step, forward and back."""

    keys: Mapping[str, Any]
    passes: int


# One step of the inner attack and one of training are two passes. Numbers are those of the papers
# (docs/training.md names them), but the average's decay, which fits a run of few steps.
OPTIONS = {
    "none": Option({}, 2),
    "label smoothing 0.4": Option({"label_smoothing": 0.4}, 2),
    "average of the weights": Option({"ema": 0.99}, 2),
    "CutMix 0.5": Option({"cutmix": 0.5}, 2),
    "random erasing 0.5": Option({"erase": 0.5}, 2),
    "AWP 0.005": Option({"awp": 5e-3}, 3),
    "FGSM-PGI 10": Option({"prior": 10.0, "rel_step_size": 1.0}, 3),
}


class Row(NamedTuple):
    """What came of an option; accuracies in %."""

    option: str
    epochs: int
    passes_per_image: int
    seconds_per_epoch: float
    """The least of its epochs: what else the machine did counts least in it."""
    natural: float
    natural_difference: str
    aa_fast: float
    aa_fast_difference: str


def protocol_of(base: Mapping[str, Any], option: Option, epochs: int) -> dict[str, Any]:
    """Standard AT alone, white box, with the option, for as many passes as ``epochs`` cost without it."""
    training = {**base.get("training", {}), **option.keys, "epochs": max(1, 2 * epochs // option.passes)}
    return {
        **{key: value for key, value in base.items() if key != "attacks"},
        **{"defenses": ["standard"], "threats": ["white"], "seeds": 1, "diagnosis": False},
        "attacks": {"strict": {norm: list(ATTACKS) for norm in base.get("norms", ["linf"])}},
        "training": training,
    }


def row_of(name: str, folder: Path, first: Mapping[str, Record]) -> Row:
    """Read what an option's run left, and compare it with the first option's records."""
    mine = records_of(folder)
    with (folder / "learning.csv").open(newline="", encoding="utf-8") as file:
        seconds = [float(line["seconds"]) for line in csv.DictReader(file)]
    accuracies = {attack: round(100 * float(np.mean(mine[attack].robust)), 2) for attack in ATTACKS}
    against = {attack: difference(mine[attack], first[attack]) for attack in ATTACKS}
    passes = len(seconds) * OPTIONS[name].passes
    natural, attacked = ATTACKS
    return Row(
        name,
        len(seconds),
        passes,
        min(seconds),
        accuracies[natural],
        against[natural],
        accuracies[attacked],
        against[attacked],
    )


def records_of(folder: Path) -> dict[str, Record]:
    """Attack -> record of a folder's only model."""
    return {record.spec["attack"]: record for record in read_records(folder)}


def difference(mine: Record, other: Record) -> str:
    """In points, of the same images, with the interval over them."""
    sides: Sequence[Resampled] = resample([mine.robust[None], other.robust[None]])
    found = differences(sides[0], sides[1:], matched=[False])[0]
    return f"{100 * found.mean:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--config", type=Path, required=True, help="TOML protocol of one data set and one norm"
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6, help="of training without an option")
    chosen = parser.parse_args()
    try:
        base = tomllib.loads(chosen.config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(f"--config {chosen.config} cannot be read: {error}")
    rows: list[Row] = []
    for name, option in OPTIONS.items():
        folder = chosen.out / name.replace(" ", "-").lower()
        print(f"{name}:", flush=True)
        try:
            finished = robustness_bench.run(
                protocol_of(base, option, chosen.epochs), out=folder, data_dir=chosen.data_dir, workers=1
            )
        except BenchError as error:
            sys.exit(f"options: error: {error}")
        if finished.failures:
            sys.exit(f"options: error: {name}: {', '.join(finished.failures)} failed")
        rows.append(row_of(name, folder, records_of(chosen.out / "none")))
        with (chosen.out / "options.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerows([Row._fields, *rows])
        print("  ", *rows[-1])


if __name__ == "__main__":
    main()
