"""How the detectors' numbers are written in a cell."""

from robustness_bench.benchmark.report.detectors.lines import DetectionLine
from robustness_bench.benchmark.report.rendering.table import Cell, Notes, spread

MISSING = Cell(text="–")


def bracketed(mean: float, interval: tuple[float, float]) -> str:
    """Return a share in percent and its interval."""
    low, high = interval
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def failed(line: DetectionLine, notes: Notes) -> Cell:
    """Return the cell of a line without a number: its seeds failed, or no image counts."""
    if not line.error:
        return MISSING
    return Cell(text="ERROR", error=line.error, marks=notes.marks(f"failed: {line.error}"))


def plain(line: DetectionLine | None, name: str, notes: Notes) -> Cell:
    """Return mean and standard deviation over seeds."""
    if line is None:
        return MISSING
    figure = line.figure(name)
    if figure is None:
        return failed(line, notes)
    return Cell(text=spread(figure.mean, figure.std, 1), marks=notes.marks(*line.remarks))
