"""CSV text; the same rows give the same bytes."""

import csv
import io
from collections.abc import Iterable, Sequence

from robustness_bench.benchmark.statistics import MeanStd


def csv_text(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Return CSV text: a header and a line per row, None as an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def number(value: float | None, decimals: int = 4) -> str:
    """Return the number as text, empty for None."""
    return "" if value is None else f"{value:.{decimals}f}"


def numbers(figure: MeanStd | None, decimals: int = 4) -> tuple[str, str]:
    """Return mean and standard deviation as text, empty for None."""
    mean, std, _ = figure or (None, None, 0)
    return number(mean, decimals), number(std, decimals)
