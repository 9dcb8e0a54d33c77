"""Write the CSV files and the tables of a store that may hold submissions."""

from pathlib import Path

from robustness_bench.benchmark.data import Located
from robustness_bench.benchmark.plan.protocol import Protocol
from robustness_bench.benchmark.report import publish as report
from robustness_bench.benchmark.report.rendering.table import Table
from robustness_bench.benchmark.submit.board.entries import register_entries


def publish(out: Path, protocol: Protocol, data: dict[str, Located]) -> list[Table]:
    """Call ``report.publish`` with the store's submissions registered as defenses, so that they have rows."""
    register_entries(out)
    return report.publish(out, protocol, data)
