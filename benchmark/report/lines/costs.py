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
    rows = []
    for record in records:
        spec = record.spec
        if record.status == "ok":
            rows.append(
                [
                    *(spec[name] for name in ("dataset", "norm")),
                    f"{spec['eps']:.6g}",
                    *(spec[name] for name in ("threat", "defense", "attack")),
                    record.seed,
                    spec["n_examples"],
                    f"{record.rows['forwards'].mean():.2f}",
                    f"{record.rows['backwards'].mean():.2f}",
                    f"{record.seconds:.3f}",
                    record.environment["hardware"],
                    record.family,
                ]
            )
    return to_csv(COLUMNS, rows)
