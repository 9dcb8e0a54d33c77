"""The cells of a published table: our number, the paper's, and how they compare."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from robustness_bench.benchmark.plan.protocol import Settings
from robustness_bench.benchmark.report.detectors.lines import DetectionLine
from robustness_bench.benchmark.report.lines.results import Line
from robustness_bench.benchmark.report.literature.published import Axis, Published
from robustness_bench.benchmark.statistics import Interval, MeanStd, inside

AnyLine = TypeVar("AnyLine", bound=Line | DetectionLine)
"""What our number is read from: a line of defenses' or of detectors' results."""


@dataclass(frozen=True, kw_only=True)
class Block(Generic[AnyLine]):
    """The results of one data set.

    Attributes:
        label: its label.
        images: number of test images per cell, of the ``available``.
        lines: lines of the records with these settings.
        unread: why no results were read; "" if they were.
    """

    settings: Settings
    label: str
    images: int
    available: int
    lines: Sequence[AnyLine] = ()
    unread: str = ""

    @property
    def dataset(self) -> str:
        return self.settings.dataset


@dataclass(frozen=True, kw_only=True)
class PaperCell(Generic[AnyLine]):
    """One cell; numbers in percent, differences in points.

    Attributes:
        line: everything known about our number; None if nothing ran.
        ours: mean and spread over the seeds; None if nothing ran or a seed failed.
        interval: our interval: ``statistics.widened`` over the images that count.
        doubt: what is odd about the published number.
        obstacle: why the two numbers cannot be compared.
    """

    table: str
    threat: str
    row: Axis
    column: Axis
    block: Block[AnyLine] = field(repr=False)
    line: AnyLine | None
    ours: MeanStd | None
    interval: Interval | None
    published: Published | None
    doubt: str
    obstacle: str

    @property
    def failure(self) -> str:
        """Why a cell that ran has no number."""
        return self.line.error if self.line is not None and self.ours is None else ""

    @property
    def difference(self) -> float | None:
        return self.ours.mean - self.published.mean if self.ours and self.published else None

    @property
    def inside(self) -> bool | None:
        """``statistics.inside``; None if the two numbers cannot be compared."""
        if self.interval is None or self.published is None or self.obstacle:
            return None
        return inside(self.published.mean, self.interval)

    def lacking(self, seeds: int) -> list[int]:
        """Return which of the first ``seeds`` seeds never ran or failed."""
        per_seed = self.line.per_seed if self.line else {}
        return [seed for seed in range(seeds) if per_seed.get(seed) is None]


Cells = Sequence[PaperCell[AnyLine]]
Blocks = Sequence[Block[AnyLine]]


def blocks_of(cells: Cells[AnyLine]) -> list[Block[AnyLine]]:
    """Return the data sets of some cells, in order."""
    return list({cell.block.label: cell.block for cell in cells}.values())
