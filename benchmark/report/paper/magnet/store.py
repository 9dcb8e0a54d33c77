"""Read a store's results for the tables of Hsu et al. 2018, data set by data set."""

from collections.abc import Sequence
from pathlib import Path

from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.errors import DataError
from robustness_bench.benchmark.plan.protocol import Protocol, Settings
from robustness_bench.benchmark.report.detectors.checks import check_unions
from robustness_bench.benchmark.report.detectors.lines import detection_lines
from robustness_bench.benchmark.report.detectors.store import fitting
from robustness_bench.benchmark.report.paper.magnet.cells import MagnetBlock
from robustness_bench.benchmark.store.detections import Detection


def blocks(
    protocol: Protocol,
    records: Sequence[Detection],
    data_dir: Path,
    download: bool = False,
    *,
    needed: bool = True,
) -> list[MagnetBlock]:
    """Return a block per data set of the protocol, with the results of its settings.

    Args:
        records: all detection records of a store.
        needed: whether the images must be present, to know which results belong to them. If False, a
            missing data set has no results, and the block says so.

    Raises:
        DataError: a data set is missing, although it is needed or has results.
        StoreError: records that contradict each other.
    """
    check_unions(records)
    made = []
    for settings in protocol.settings:
        try:
            made.append(_block(protocol, settings, records, data_dir, download))
        except DataError:
            if needed or any(record.spec["dataset"] == settings.dataset for record in records):
                raise
            unread = f"its images are not in {data_dir} (--data-dir)"
            made.append(MagnetBlock(dataset=settings.dataset, label=settings.dataset, unread=unread))
    return made


def _block(
    protocol: Protocol, settings: Settings, records: Sequence[Detection], data_dir: Path, download: bool
) -> MagnetBlock:
    located = locate(settings.dataset, data_dir, download=download, fit=settings.fit)
    lines = detection_lines(fitting(protocol, settings, {settings.dataset: located}, records))
    return MagnetBlock(dataset=settings.dataset, label=located.label, lines=lines)
