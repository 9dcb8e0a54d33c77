"""`aa-fast` beside `aa` on a network as it is, and on the same network with its gradients hidden.

    python benchmarks/masked.py --weights MODEL.safetensors --width 8 --n-examples 64

The network is a ResNet-18 that `bench run` trained on digits, L-infinity. OUT has, of each, the images that
withstand either, those that `aa-fast` left standing and `aa` did not, and the passes per image.
"""

import argparse
import csv
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests.masked

import robustness_bench
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.networks import build_model
from tests.masked import MASKED


class Row(NamedTuple):
    """What came of a network; counts are of images, passes means per image, forward and back together."""

    network: str
    images: int
    natural: int
    aa: int
    aa_fast: int
    left_by_aa_fast_alone: int
    aa_passes: str
    aa_fast_passes: str


def row_of(name: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float) -> Row:
    """Attack by both, from the same seed."""
    found = robustness_bench.evaluate(model, x, y, attacks=["aa", "aa-fast"], norm="linf", eps=eps)
    of = {attack: rows.reset_index() for attack, rows in found.images.groupby("attack")}
    robust = {attack: rows["robust"] for attack, rows in of.items()}
    passes = {attack: f"{(rows['forwards'] + rows['backwards']).mean():.1f}" for attack, rows in of.items()}
    missed = robust["aa-fast"] & ~robust["aa"]
    natural, full, fast = (int(robust[attack].sum()) for attack in ("none", "aa", "aa-fast"))
    return Row(name, len(y), natural, full, fast, int(missed.sum()), passes["aa"], passes["aa-fast"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--n-examples", type=int, default=64)
    parser.add_argument("--eps", type=float, default=0.18)
    parser.add_argument("--out", type=Path, default=Path("masked.csv"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    data = locate("digits", Path("data"))
    splits = data.load()
    x = torch.tensor(splits.test_x[: chosen.n_examples]).float() / 255
    y = torch.tensor(splits.test_y[: chosen.n_examples])
    model = build_model("resnet-18", data.info, chosen.width)
    try:
        model.load_state_dict(load_file(chosen.weights))
    except (OSError, RuntimeError) as error:  # absent, or of another width
        parser.error(f"--weights {chosen.weights} cannot be used: {str(error).splitlines()[0]}")
    rows = []
    for name, wrap in {"as it is": lambda model: model, **MASKED}.items():
        rows.append(row_of(name, wrap(model.eval()), x, y, chosen.eps))
        print(*rows[-1], flush=True)
        with chosen.out.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([Row._fields, *rows])


if __name__ == "__main__":
    main()
