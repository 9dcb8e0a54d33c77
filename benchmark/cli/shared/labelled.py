"""The data set that results are of."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustness_bench.benchmark.data import Located


def locate_labelled(label: str, folder: Path) -> "Located":
    """The data set that results call ``label``: of that name, or whose files in ``folder`` have it."""
    from robustness_bench.benchmark.data import DATASETS, locate
    from robustness_bench.benchmark.errors import BenchError

    if label in DATASETS and (located := locate(label, folder)).label == label:
        return located
    for name in DATASETS:
        with suppress(BenchError):
            located = locate(name, folder)
            if located.label == label:
                return located
    raise BenchError(f"no data set {label} in {folder}: name its folder with --data-dir")
