"""Make this submission anew: train the defense, measure what is claimed, fill in the template.

Standard AT (Madry et al. 2018) of a ResNet-18 of width 4 on the embedded digits, a few minutes on one core:

    python examples/submission/make.py
"""

import csv
import re
import shutil
import sys
import tempfile
from pathlib import Path

from robustness_bench.benchmark.cli import main
from robustness_bench.benchmark.files import file_hash, write_atomic
from robustness_bench.benchmark.submit.intake.template import write_template

FOLDER = Path(__file__).parent / "standard-at-digits"
WEIGHTS = "weights.safetensors"
WIDTH, EPS = 4, 0.18
_RUN = ["--defense", "standard", "--dataset", "digits", "--norm", "linf", "--threat", "white"]
_SIZE = ["--eps-linf", str(EPS), "--width", str(WIDTH), "--epochs", "24", "--n-examples", "0"]


def train(store: Path) -> tuple[Path, dict[str, float]]:
    """Run bench; the trained weights, and attack -> accuracy in % on all test images."""
    sys.argv = ["bench", "run", *_RUN, *_SIZE, "--attacks", "aa", "--out", str(store)]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    (weights,) = store.glob("checkpoints/digits/standard-*.safetensors")
    rows = csv.DictReader((store / "results.csv").read_text().splitlines())
    return weights, {row["attack"]: float(row["mean"]) for row in rows}


def filled(template: str, values: dict[str, str]) -> str:
    """The template with a value, as TOML, for each key."""
    for key, value in values.items():
        line = re.compile(rf"^{key} = \S+", re.MULTILINE)
        if len(line.findall(template)) != 1:
            raise ValueError(f"the template has no single line {key} = ")
        template = line.sub(f"{key} = {value}", template)
    return template


def values(weights: Path, accuracy: dict[str, float]) -> dict[str, str]:
    """What the author of this defense writes into submission.toml."""
    return {
        "name": '"Standard AT, small"',
        "authors": '["The Robustness Bench authors"]',
        "paper": '"https://arxiv.org/abs/1706.06083"',
        "licence": '"MIT"',
        "contact": '"someone@example.org"',
        "dataset": '"digits"',
        "notes": '"The worked example: made by make.py in its folder."',
        "norm": '"linf"',
        "eps": str(EPS),
        "architecture": '"resnet-18"',
        "width": str(WIDTH),
        "sha256": f'"{file_hash(weights)}"',
        "natural": f"{accuracy['none']:.2f}",
        "aa": f"{accuracy['aa']:.2f}",
    }


def make(folder: Path) -> None:
    """Write the submission into the folder, in place of what is there, once all of it is made."""
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "made"
        weights, accuracy = train(Path(scratch) / "store")
        (manifest,) = write_template(made, own=False)
        shutil.copyfile(weights, made / WEIGHTS)
        text = filled(manifest.read_text(encoding="utf-8"), values(made / WEIGHTS, accuracy))
        write_atomic(manifest, text.encode())
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made, folder)


if __name__ == "__main__":
    make(FOLDER)
