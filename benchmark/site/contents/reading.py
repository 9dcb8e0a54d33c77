"""Read all records and cards of some stores in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.report.detectors.roc import Scores
from robustness_bench.benchmark.report.detectors.store import detections, validation_scores
from robustness_bench.benchmark.report.lines.trained import find_trainings
from robustness_bench.benchmark.report.lines.worst_case import SUBMITTED
from robustness_bench.benchmark.store.cards import read_card
from robustness_bench.benchmark.store.cells import Record, find_records, read_record
from robustness_bench.benchmark.store.detections import Detection, find_detections
from robustness_bench.benchmark.store.diagnoses import Diagnoses
from robustness_bench.benchmark.store.generated import SUFFIX, ConditionalExamples, read_conditional_examples
from robustness_bench.benchmark.submit.board.entries import Entry, find_entries, register_entry
from robustness_bench.benchmark.submit.board.external import ExternalRow, read_external

_KINDS = ("records", "detections")
_COLUMNS = ("sample", "label", "clean_prediction", "adversarial_prediction", "forwards", "backwards")


@dataclass(frozen=True, kw_only=True)
class Found:
    """The content of the stores.

    Attributes:
        records: each id once, a success preferred to a failure.
        files: record id -> its file.
        cards: checkpoint id -> its card.
        entries: defense -> its submission.
    """

    records: list[Record]
    files: dict[str, Path]
    cards: dict[str, dict[str, Any]]
    entries: dict[str, Entry]
    sent: list[Record]
    """Records of submitted images against a model; not among ``records``."""
    external: list[ExternalRow]
    """Results that others measured elsewhere."""
    detections: list[Detection] = field(default_factory=list)
    """Cells of detectors, chosen like ``records``."""
    held_out: dict[str, Scores] = field(default_factory=dict)
    """Calibration id -> scores of held-out images."""
    generated: dict[str, ConditionalExamples] = field(default_factory=dict)
    """Generator's checkpoint id -> its images."""


def default_stores(folder: Path) -> list[Path]:
    """Return the folder and its subfolders, those that have records."""
    candidates = [folder, *sorted(folder.glob("*/"))]
    return [store for store in candidates if any((store / kind).is_dir() for kind in _KINDS)]


def read_stores(stores: Sequence[Path]) -> Found:
    """Read and verify all records and cards; register submissions as defenses.

    Raises:
        StoreError: one is damaged; the message names the file.
        BenchError: a store without records.
    """
    files: dict[str, Path] = {}
    records: dict[str, Record] = {}
    shared: dict[bytes, NDArray[Any]] = {}
    for store in stores:
        paths = find_records(store)
        if not paths and not find_detections(store):
            raise BenchError(f"no records in {store}: name a folder that `bench run` wrote into")
        for path in paths:
            record = _sharing(read_record(path, _needed), shared)
            if record.id not in records or records[record.id].status == "error":
                records[record.id], files[record.id] = record, path
    entries = [entry for store in stores for entry in find_entries(store)]
    for entry in entries:
        register_entry(entry)
    cards = [read_card(path) for store in stores for path in find_trainings(store)]
    diagnoses = Diagnoses(stores)
    joined = [replace(each, diagnosis=diagnoses.of(each.spec)) for each in records.values()]
    ordered = sorted(joined, key=lambda record: record.id)
    return Found(
        records=[record for record in ordered if record.spec["kind_of_attack"] != SUBMITTED],
        sent=[r for r in ordered if r.spec["kind_of_attack"] == SUBMITTED and r.status == "ok"],
        external=[row for store in stores for row in read_external(store)],
        files=files,
        cards={str(card["id"]): card for card in cards},
        entries={entry.defense: entry for entry in entries},
        **_detectors(stores),
    )


def _detectors(stores: Sequence[Path]) -> dict[str, Any]:
    """Return the fields of ``Found`` on detectors; empty if the stores have no cells."""
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
    return {
        "detections": [cells[identity] for identity in sorted(cells)],
        "held_out": held_out,
        "generated": generated,
    }


def _generated(store: Path) -> dict[str, ConditionalExamples]:
    paths = sorted(store.glob(f"checkpoints/*/[!.]*{SUFFIX}"))
    return {
        path.name.removesuffix(SUFFIX).rpartition("-")[2]: read_conditional_examples(path) for path in paths
    }


def _needed(story: dict[str, Any]) -> list[str]:
    """Return the columns of a record that figures need: of the distances at most one."""
    open_ended = story["spec"]["kind_of_attack"] == "minimum-norm"
    return [*_COLUMNS, story["spec"]["norm"]] if open_ended else list(_COLUMNS)


def _sharing(record: Record, shared: dict[bytes, NDArray[Any]]) -> Record:
    """Return the record with sample numbers and labels in arrays shared by all records."""
    own = {name: np.ascontiguousarray(record.rows[name]) for name in ("sample", "label")}
    same = {name: shared.setdefault(array.tobytes(), array) for name, array in own.items()}
    return replace(record, rows=record.rows | same)
