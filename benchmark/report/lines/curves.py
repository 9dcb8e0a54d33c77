"""Robustness curves: accuracy against ε, one line of ``curves.csv`` per point."""

from collections.abc import Sequence

from robustness_bench.benchmark.report.lines.results import percent
from robustness_bench.benchmark.report.rendering.csv import csv_text, numbers
from robustness_bench.benchmark.statistics import mean_std
from robustness_bench.benchmark.store.cells import Record

COLUMNS = (
    *("dataset", "norm", "threat", "defense", "attack", "eps", "mean", "std", "seeds", "images"),
    "setting",
)
Curve = dict[float, dict[int, float | None]]
"""ε -> seed -> accuracy in percent, None for a cell that failed"""


def curves(records: Sequence[Record], budgets: dict[str, Sequence[float]]) -> str:
    """Return CSV text of every curve with more than one point besides natural accuracy, which is ε = 0.

    A budget attack has a point for each ε it ran at; a minimum-norm attack has one for each of
    ``budgets``, from a single run.

    Args:
        budgets: norm -> every ε at which minimum-norm attacks are evaluated.
    """
    found: dict[tuple[str, ...], Curve] = {}
    natural: dict[tuple[str, ...], dict[int, float | None]] = {}
    for record in records:
        spec = record.spec
        cell = tuple(str(spec[name]) for name in ("dataset", "norm", "threat", "defense"))
        setting = (str(spec["n_examples"]), record.model_family)
        if spec["kind_of_attack"] == "natural":
            natural.setdefault((*cell, *setting), {})[record.seed] = _accuracy(record, spec["eps"])
        else:
            curve = found.setdefault((*cell, spec["attack"], *setting), {})
            open_ended = spec["kind_of_attack"] == "minimum-norm"
            for eps in budgets[spec["norm"]] if open_ended else [spec["eps"]]:
                curve.setdefault(eps, {})[record.seed] = _accuracy(record, eps)
    rows = []
    for key, curve in sorted(found.items()):
        if len(curve) > 1:
            start = natural.get((*key[:4], *key[5:]))
            points = sorted(curve.items()) if start is None else [(0.0, start), *sorted(curve.items())]
            rows += [[*key[:5], *_point(eps, seeds), *key[5:]] for eps, seeds in points]
    return csv_text(COLUMNS, rows) if rows else ""


def _accuracy(record: Record, eps: float) -> float | None:
    return None if record.status == "error" else percent(record.robust_at(eps))


def _point(eps: float, seeds: dict[int, float | None]) -> list[str]:
    """Return ε, mean, standard deviation and number of seeds as text."""
    values = [value for value in seeds.values() if value is not None]
    if len(values) < len(seeds):
        return [f"{eps:.6g}", "ERROR", "", str(len(seeds))]
    return [f"{eps:.6g}", *numbers(mean_std(values)), str(len(seeds))]
