"""The cells of a published table as CSV."""

import csv
import io
from collections.abc import Iterable

from robustness_bench.benchmark.report.paper.namid.cells import PaperCell

COLUMNS = (
    "table",
    "dataset",
    "threat",
    "norm",
    "eps",
    "set",
    "defense",
    "attack",
    "counted",
    "mean",
    "std",
    "seeds",
    "images",
    "low",
    "high",
    "per_seed",
    "published_mean",
    "published_std",
    "difference",
    "inside",
    "note",
    "setting",
)


def to_csv(cells: Iterable[PaperCell]) -> str:
    """Return CSV text with a header and a line per cell; the same cells give the same bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_row(cell) for cell in cells)
    return text.getvalue()


def _row(cell: PaperCell) -> list[str]:
    line, ours, printed, settings = cell.line, cell.ours, cell.published, cell.block.settings
    notes = [cell.failure, cell.doubt, cell.obstacle, "" if line else cell.block.unread or "not run"]
    per_seed = line.per_seed if line else {}
    low, high = cell.interval or (None, None)
    return [
        cell.table,
        cell.block.label,
        cell.threat,
        cell.column.group,
        f"{settings.eps[cell.column.group]:.6g}",
        settings.attack_set,
        cell.row.key,
        cell.column.key,
        cell.counted,
        "ERROR" if cell.failure else _number(ours.mean if ours else None),
        _number(ours.std if ours else None),
        str(len(per_seed)),
        str(line.images) if line else "",
        _number(low),
        _number(high),
        _per_seed(cell),
        _number(printed.mean if printed else None),
        _number(printed.std if printed else None),
        _number(cell.difference),
        {True: "yes", False: "no", None: ""}[cell.inside],
        "; ".join(filter(None, notes)),
        line.setting if line else "",
    ]


def _per_seed(cell: PaperCell) -> str:
    """Return the number per seed as counted; a line has only those within ε."""
    if cell.line is None or cell.counted == "any distance":
        return ""
    return " ".join(f"{seed}:{_number(value) or 'ERROR'}" for seed, value in cell.line.per_seed.items())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
