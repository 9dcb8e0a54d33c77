"""Write a store as folders that are ready to push to the hub."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from robustness_bench.benchmark.errors import BenchError, check_known
from robustness_bench.benchmark.exchange.hub.cells import Value, by_model, values
from robustness_bench.benchmark.exchange.hub.models import exportable, folder_name, write_model
from robustness_bench.benchmark.exchange.hub.records import write_records
from robustness_bench.benchmark.exchange.sources import given
from robustness_bench.benchmark.store.cards import read_card
from robustness_bench.benchmark.store.cells import read_records

RECORDS = "records"
_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


class Written(NamedTuple):
    """What was written: the models' folders, why others were not, and the rows of the records."""

    models: list[Path]
    left_out: dict[str, str]
    rows: int


def export_to_hub(store: Path, folder: Path, benchmark: str, defenses: Sequence[str] = ()) -> Written:
    """Write a repository per model of a store, and one of all records.

    Args:
        benchmark: ORG/NAME, what the records' repository is called on the hub; the models' results name it.
        defenses: only models of these; all unless given. The records are always all.

    Raises:
        BenchError: no such name, no results, or huggingface_hub is not installed.
        StoreError: a file of the store is damaged.
    """
    if not _REPOSITORY.fullmatch(benchmark):
        raise BenchError(
            f"--benchmark must be ORG/NAME, the name of {folder / RECORDS} on the hub, got {benchmark!r}"
        )
    given(store)  # or an error
    records = read_records(store)
    known = sorted({record.spec["defense"] for record in records})
    check_known("defense in this store", defenses, known)
    models, left_out, every = [], {}, list[Value]()
    for (_, seed), own in by_model(records).items():
        found = values(own, seed)
        every += found
        of, name = [record for record in own if record.seed == seed], own[0].spec["defense"]
        if defenses and name not in defenses:
            continue
        identity: str = min(record.spec["parents"]["model"] for record in of)
        path = next(store.glob(f"checkpoints/*/*-{identity}.safetensors"), None)
        title = f"{own[0].spec['dataset']} {name}, seed {seed}, {identity}"
        if path is None:
            left_out[title] = "its weights are not in the store"
            continue
        card = read_card(path)
        if reason := exportable(card):
            left_out[title] = reason
        else:
            models.append(folder / folder_name(card, of))
            write_model(models[-1], path, card, of, found, benchmark)
    return Written(models, left_out, write_records(folder / RECORDS, records, every, benchmark))
