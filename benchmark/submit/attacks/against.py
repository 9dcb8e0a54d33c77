"""A cell for a submission against a record's model, under the record's threat model."""

from pathlib import Path
from typing import Any

from robustness_bench.benchmark.data import Located
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.report.lines.worst_case import SUBMITTED
from robustness_bench.benchmark.store.cells import Record
from robustness_bench.benchmark.store.tensors import read_card


def spec_against(record: Record, name: str, parameters: dict[str, Any], **change: Any) -> dict[str, Any]:
    """Return the cell's spec: the record's, except for the attack and ``change``."""
    return {
        **record.spec,
        "attack": name,
        "kind_of_attack": SUBMITTED,
        "parameters": parameters,
        "parents": {"model": record.spec["parents"]["model"]},
        **change,
    }


def identity_of(spec: dict[str, Any], seed: int) -> str:
    """Return the id of the cell."""
    return short_hash([spec, seed])


def task_against(store: Path, record: Record, spec: dict[str, Any], data: Located) -> Task:
    """Return the cell that ``spec_against`` describes, as a task whose parents are in the store.

    Raises:
        BenchError: the model's weights are missing.
    """
    parents = {"model": _model(store, record, data)}
    families = {role: parent.family for role, parent in parents.items()}
    own = {key: value for key, value in spec.items() if key != "parents"}
    identity, name, defense = identity_of(spec, record.seed), spec["attack"], spec["defense"]
    where = Path("records") / spec["dataset"] / spec["norm"] / spec["threat"] / defense
    return Task(
        kind="evaluate",
        title=f"{spec['dataset']} {spec['norm']} {spec['threat']}-box {defense} × {name}, seed {record.seed}",
        spec=spec,
        seed=record.seed,
        id=identity,
        family=short_hash([own, families]),
        path=where / f"{name}-seed{record.seed}-{identity}.parquet",
        data=data,
        parents=parents,
    )


def _model(store: Path, record: Record, data: Located) -> Task:
    identity = record.spec["parents"]["model"]
    for card_file in sorted(store.glob(f"checkpoints/*/*-{identity}.json")):
        path = card_file.with_suffix(".safetensors")
        if path.is_file():
            card = read_card(path)
            return _parent(card["spec"], card["seed"], identity, record.model_family, path, store, data)
    raise BenchError(f"its weights ({identity}) are not in {store}/checkpoints: make or import them there")


def _parent(
    spec: dict[str, Any], seed: int, identity: str, family: str, path: Path, store: Path, data: Located
) -> Task:
    return Task(
        kind=spec["kind"],
        title=path.stem,
        spec=spec,
        seed=seed,
        id=identity,
        family=family,
        path=path.relative_to(store),
        data=data,
    )
