"""A cell for a submission against a record's model, under the record's threat model."""

from pathlib import Path
from typing import Any

from robustness_bench.benchmark.data import Located
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.plan.kinds import TASK_KINDS
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.report.lines.worst_case import SUBMITTED
from robustness_bench.benchmark.store.cards import find_model
from robustness_bench.benchmark.store.cells import Record


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


def task_against(store: Path, record: Record, spec: dict[str, Any], data: Located) -> Task:
    """Return the cell that ``spec_against`` describes, as a task whose parents are in the store.

    Raises:
        BenchError: the model's weights are missing.
    """
    weights = record.spec["parents"]["model"]
    model = find_model(store, weights, record.model_family, data)
    if model is None:
        raise BenchError(f"its weights ({weights}) are not in {store}/checkpoints: make or import them there")
    own = {key: value for key, value in spec.items() if key != "parents"}
    identity = short_hash([spec, record.seed])
    kind = TASK_KINDS["evaluate"]
    where = Path(kind.folder) / spec["dataset"] / spec["norm"] / spec["threat"] / spec["defense"]
    return Task(
        kind=kind.name,
        title=kind.title.format(**{**spec, "seed": record.seed, "at": ""}),
        spec=spec,
        seed=record.seed,
        id=identity,
        family=short_hash([own, {"model": model.family}]),
        path=where / f"{spec['attack']}-seed{record.seed}-{identity}{kind.suffix}",
        data=data,
        parents={"model": model},
    )
