"""Read a store's results for the tables of the paper, data set by data set."""

from collections.abc import Sequence
from pathlib import Path

from robustness_bench.benchmark.data import Located, dataset_named, locate
from robustness_bench.benchmark.errors import DataError
from robustness_bench.benchmark.plan.protocol import Protocol, Settings
from robustness_bench.benchmark.report.lines.results import summarize
from robustness_bench.benchmark.report.lines.selection import fitting
from robustness_bench.benchmark.report.paper.namid.cells import Block
from robustness_bench.benchmark.store.cells import Record, read_records


def blocks(
    protocol: Protocol, out: Path, data_dir: Path, download: bool = False, *, needed: bool = True
) -> list[Block]:
    """Return a block per data set of the protocol, with the results of its settings at its ε.

    Args:
        needed: whether the images must be present, to know which results belong to them. If False, a
            missing data set has no results, and the block says so.

    Raises:
        DataError: a data set is missing, although it is needed or has results in the store.
    """
    records = read_records(out)
    made = []
    for settings in protocol.settings:
        try:
            located = locate(settings.dataset, data_dir, download=download, fit=settings.fit)
        except DataError:
            if needed or any(record.spec["dataset"] == settings.dataset for record in records):
                raise
            made.append(_unread(settings, data_dir))
        else:
            made.append(_block(settings, located, records))
    return made


def _block(settings: Settings, located: Located, records: Sequence[Record]) -> Block:
    by_id = {record.id: record for record in records}
    own = fitting(settings, {settings.dataset: located}, by_id) if records else []
    nominal = [record for record in own if record.spec["eps"] == settings.eps[record.spec["norm"]]]
    available = located.test_images
    return Block(
        settings=settings,
        label=located.label,
        images=min(settings.n_examples or available, available),
        available=available,
        lines=summarize(nominal),
    )


def _unread(settings: Settings, data_dir: Path) -> Block:
    available = dataset_named(settings.dataset).info.test_images
    return Block(
        settings=settings,
        label=settings.dataset,
        images=min(settings.n_examples or available, available),
        available=available,
        unread=f"its images are not in {data_dir} (--data-dir)",
    )
