"""Find the data set of stored results."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustness_bench.benchmark.data import Located


def locate_labelled(label: str, folder: Path) -> "Located":
    """Return the data set labelled ``label`` in results: by that name, or by its files in ``folder``."""
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
