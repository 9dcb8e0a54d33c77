"""The optional parts: what each is for, and what to install."""

import importlib
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from robustness_bench.benchmark.errors import BenchError, first_line


class Part(NamedTuple):
    """An extra of this package.

    Attributes:
        packages: distribution -> the module that it brings.
        use: what works with it.
    """

    packages: dict[str, str]
    use: str

    def versions(self) -> dict[str, str]:
        """Return each distribution's version; empty where it is not installed."""
        return {name: installed(name) for name in self.packages}


PARTS = {
    "hub": Part({"huggingface_hub": "huggingface_hub"}, "--weights hf:ORG/NAME and bench export --hf"),
    "tensorboard": Part({"tensorboard": "tensorboard"}, "--tracker tensorboard"),
    "wandb": Part({"wandb": "wandb"}, "--tracker wandb"),
    "mlflow": Part({"mlflow": "mlflow"}, "--tracker mlflow"),
    "trackio": Part({"trackio": "trackio"}, "--tracker trackio"),
    "timm": Part({"timm": "timm"}, "--weights timm:NAME"),
    "peers": Part({"adv-lib": "adv_lib", "torchattacks": "torchattacks"}, "more libraries in bench perf"),
    "ray": Part({"ray": "ray"}, "bench run --engine ray"),
    "s3": Part({"s3fs": "s3fs"}, "bench run --out s3://…"),
    "slurm": Part({"submitit": "submitit"}, "bench run --engine slurm"),
    "robustbench": Part({"robustbench": "robustbench"}, "--weights robustbench:NAME"),
}
"""Extra -> part, as in pyproject.toml."""


def installed(distribution: str) -> str:
    """Return the version of a package; empty where it is not installed, such as ours in a bare checkout."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def part(name: str, module: str, what: str) -> Any:
    """Import a module of an optional part.

    Args:
        what: the user's words that need it, for the error.

    Raises:
        BenchError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BenchError(
            f"{what} needs an optional part ({first_line(error)}): pip install 'robustness-bench[{name}]'"
        ) from error
