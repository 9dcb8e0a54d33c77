"""A board as data: a row per cell as CSV, JSON and Parquet."""

import io
import json
from typing import Any

from robustness_bench.benchmark.report.lines.worst_case import NAME as WORST
from robustness_bench.benchmark.report.rendering.csv import csv_text
from robustness_bench.benchmark.site.contents.boards import Board, Row
from robustness_bench.benchmark.site.contents.cells import Cell
from robustness_bench.benchmark.site.contents.families import Family

_FIELDS = (
    "dataset", "norm", "eps", "threat", "set", "images", "rank_first", "rank_last", "defense", "label",
    "setting", "family", "attack", "kind", "in_worst_case", "mean", "std", "low", "high", "seeds", "per_seed",
    "median_distance", "forwards", "backwards", "training_seconds", "flags", "unlooked", "collapsed_seeds",
    "status",
)  # fmt: skip


def cells(board: Board, families: dict[str, Family]) -> list[dict[str, Any]]:
    """Return every cell of a board, including worst cases; accuracies and interval ends in percent."""
    return [line for row in board.rows for line in _lines(board, row, families[row.family])]


def _lines(board: Board, row: Row, family: Family) -> list[dict[str, Any]]:
    shared = {
        "dataset": board.dataset, "norm": board.norm, "eps": board.eps, "threat": board.threat,
        "set": board.attack_set, "images": board.images, "defense": row.defense, "label": family.label,
        "rank_first": row.rank.first if row.rank else None, "rank_last": row.rank.last if row.rank else None,
        "setting": family.setting, "family": row.family, "training_seconds": family.seconds,
        "flags": sorted(family.flags_on(row)), "unlooked": family.unlooked_on(row),
        "collapsed_seeds": sorted(family.collapsed),
    }  # fmt: skip
    lines = []
    for column in board.columns:
        cell = row.cells.get(column.key)
        own = {"attack": column.key, "kind": column.kind, "in_worst_case": column.bounded}
        lines.append(shared | own | (_figures(cell) if cell else _absent("missing")))
    worst = _figures(row.worst) if row.worst else _absent(row.problem)
    lines.append(shared | {"attack": WORST, "kind": WORST, "in_worst_case": False} | worst)
    return [{name: line[name] for name in _FIELDS} for line in lines]


def _figures(cell: Cell) -> dict[str, Any]:
    figure, interval, passes = cell.figure, cell.interval, cell.passes()
    return {
        "mean": figure.mean if figure else None,
        "std": figure.std if figure else None,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "seeds": sorted(cell.outcomes),
        "per_seed": [cell.per_seed[seed] for seed in sorted(cell.outcomes)],
        "median_distance": cell.median_distance(),
        "forwards": passes[0] if passes else None,
        "backwards": passes[1] if passes else None,
        "status": cell.error or cell.problem or "ok",
    }


def _absent(status: str) -> dict[str, Any]:
    numbers = dict.fromkeys(("mean", "std", "low", "high", "median_distance", "forwards", "backwards"))
    return numbers | {"seeds": [], "per_seed": [], "status": status}


def to_json(lines: list[dict[str, Any]]) -> bytes:
    return (json.dumps(lines, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def to_csv(lines: list[dict[str, Any]]) -> bytes:
    """Return CSV: lists are separated by spaces, a failed seed is ERROR, a missing number is empty."""
    return csv_text(_FIELDS, ([_text(line[name]) for name in _FIELDS] for line in lines)).encode()


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join("ERROR" if each is None else _text(each) for each in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def to_parquet(lines: list[dict[str, Any]]) -> bytes:
    """Return Parquet, with lists as lists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number, text = pa.float64(), pa.string()
    special = {
        **dict.fromkeys(("images", "rank_first", "rank_last"), pa.int32()),
        **dict.fromkeys(("seeds", "collapsed_seeds"), pa.list_(pa.int32())),
        **dict.fromkeys(("eps", "mean", "std", "low", "high", "median_distance"), number),
        **dict.fromkeys(("forwards", "backwards", "training_seconds"), number),
        "per_seed": pa.list_(number),
        "flags": pa.list_(text),
        "in_worst_case": pa.bool_(),
    }
    schema = pa.schema([(name, special.get(name, text)) for name in _FIELDS])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(lines, schema), buffer, compression="zstd")
    return buffer.getvalue()
