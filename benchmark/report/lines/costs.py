"""The cost of each cell: passes and seconds, one line of ``costs.csv`` per record.

Separate from ``results.csv``, because seconds differ from run to run.
"""

from collections.abc import Sequence

from robustness_bench.benchmark.report.rendering.csv import to_csv
from robustness_bench.benchmark.store.cells import Record

COLUMNS = (
    *("dataset", "norm", "eps", "threat", "defense", "attack", "seed", "images", "forwards"),
    *("backwards", "seconds", "hardware", "setting"),
)


def costs(records: Sequence[Record]) -> str:
    """Return CSV text; passes are per image, seconds per cell."""
    return to_csv(COLUMNS, (_row(record) for record in records if record.status == "ok"))


def _row(record: Record) -> list[object]:
    spec = record.spec
    return [
        *(spec["dataset"], spec["norm"], f"{spec['eps']:.6g}"),
        *(spec["threat"], spec["defense"], spec["attack"]),
        *(record.seed, spec["n_examples"]),
        *(f"{record.rows[name].mean():.2f}" for name in ("forwards", "backwards")),
        *(f"{record.seconds:.3f}", record.environment["hardware"], record.family),
    ]
