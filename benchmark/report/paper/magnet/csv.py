"""The cells of the tables of Hsu et al. 2018 as CSV."""

import csv
import io
from collections.abc import Iterable

from robustness_bench.benchmark.report.detectors.csv import number
from robustness_bench.benchmark.report.paper.magnet.cells import OURS, MagnetCell

COLUMNS = (
    *("table", "dataset", "kappa", "system", "attack", "beta", "mean", "std", "seeds", "n", "low", "high"),
    *("per_seed", "attack_success", "published_mean", "difference", "inside", "note", "family"),
)


def to_csv(cells: Iterable[MagnetCell]) -> str:
    """Return CSV text with a header and a line per cell; the same cells give the same bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_row(cell) for cell in cells)
    return text.getvalue()


def _row(cell: MagnetCell) -> list[str]:
    line, ours, printed = cell.line, cell.ours, cell.published
    success = line.figure("attack_success") if line else None
    low, high = cell.interval or (None, None)
    remarks = line.remarks if line else (cell.block.unread or "not run",)
    return [
        *(cell.table, cell.block.label, cell.row),
        *(cell.column.group, OURS.get(cell.column.key, cell.column.key)),
        f"{line.beta:g}" if line and line.beta is not None else "",
        "ERROR" if cell.failure else number(ours.mean if ours else None),
        number(ours.std if ours else None),
        str(len(line.per_seed) if line else 0),
        str(line.n) if line and line.n else "",
        *(number(low), number(high), _per_seed(cell)),
        number(success.mean if success else None),
        number(printed.mean if printed else None),
        number(cell.difference),
        {True: "yes", False: "no", None: ""}[cell.inside],
        "; ".join(filter(None, [cell.failure, cell.doubt, cell.obstacle, *remarks])),
        line.family if line else "",
    ]


def _per_seed(cell: MagnetCell) -> str:
    per_seed = cell.line.per_seed if cell.line else {}
    return " ".join(
        f"{seed}:{'ERROR' if outcome is None else number(outcome.both)}" for seed, outcome in per_seed.items()
    )
