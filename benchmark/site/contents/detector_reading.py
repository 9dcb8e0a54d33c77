"""Read the detector results of some stores."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from robustness_bench.benchmark.report.detectors.roc import Scores
from robustness_bench.benchmark.report.detectors.store import detections, validation_scores
from robustness_bench.benchmark.store.detections import Detection
from robustness_bench.benchmark.store.generated import SUFFIX, ConditionalExamples, read_conditional_examples


class DetectorsFound(NamedTuple):
    """The fields that ``reading.Found`` takes over."""

    detections: list[Detection]
    held_out: dict[str, Scores]
    generated: dict[str, ConditionalExamples]


def read_detectors(stores: Sequence[Path]) -> DetectorsFound:
    """Read every cell once, preferring a success to a failure; empty if the stores have no cells.

    Raises:
        StoreError: a damaged file.
    """
    cells: dict[str, Detection] = {}
    held_out: dict[str, Scores] = {}
    generated: dict[str, ConditionalExamples] = {}
    for store in stores:
        for cell in detections(store):
            if cell.id not in cells or cells[cell.id].status == "error":
                cells[cell.id] = cell
        if cells:
            held_out |= validation_scores(store)
            generated |= _generated(store)
    return DetectorsFound([cells[identity] for identity in sorted(cells)], held_out, generated)


def _generated(store: Path) -> dict[str, ConditionalExamples]:
    paths = sorted(store.glob(f"checkpoints/*/[!.]*{SUFFIX}"))
    return {
        path.name.removesuffix(SUFFIX).rpartition("-")[2]: read_conditional_examples(path) for path in paths
    }
