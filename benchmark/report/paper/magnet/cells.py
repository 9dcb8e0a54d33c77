"""The cells of the tables of Hsu et al. 2018: our number, the paper's, and how they compare."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.report.detectors.lines import OBLIVIOUS, DetectionLine
from robustness_bench.benchmark.report.literature.layout import Axis, Layout
from robustness_bench.benchmark.report.literature.published import Published
from robustness_bench.benchmark.report.paper.magnet.oddities import oddities
from robustness_bench.benchmark.statistics import Interval, MeanStd, inside

OURS = {"cw-l2": "cw"}  # published name -> our name, where they differ


@dataclass(frozen=True, kw_only=True)
class MagnetBlock:
    """The results of one data set.

    Attributes:
        label: its label.
        unread: why no results were read; "" if they were.
    """

    dataset: str
    label: str
    lines: Sequence[DetectionLine] = ()
    unread: str = ""


@dataclass(frozen=True, kw_only=True)
class MagnetCell:
    """One cell: a system under an attack at κ = ``row``. Percent and points.

    Attributes:
        column: the system and the attack, as published.
        line: everything known about our number.
        doubt: what is odd about the published number.
        obstacle: why the two numbers cannot be compared.
    """

    table: str
    row: str
    column: Axis
    block: MagnetBlock = field(repr=False)
    line: DetectionLine | None
    published: Published | None
    doubt: str = ""
    obstacle: str = ""

    @property
    def ours(self) -> MeanStd | None:
        """Mean and spread over the seeds; None if nothing ran or a seed failed."""
        return self.line.figure("both") if self.line else None

    @property
    def interval(self) -> Interval | None:
        """Our interval in percent: ``statistics.widened`` over the images that count."""
        return self.line.interval() if self.line else None

    @property
    def failure(self) -> str:
        """Why a cell that ran has no number."""
        return self.line.error if self.line else ""

    @property
    def difference(self) -> float | None:
        """Our number minus the published one."""
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


def magnet_cells(layout: Layout, block: MagnetBlock, figures: Sequence[Published]) -> list[MagnetCell]:
    """Return the cells of one data set, row by row.

    Args:
        figures: the paper's; empty to show only ours.
    """
    lines = {
        (each.system, each.attack, each.confidence): each for each in block.lines if each.setting == OBLIVIOUS
    }
    own = [each for each in figures if (each.table, each.dataset) == (layout.table, block.dataset)]
    printed = {(each.row, Axis(each.group, each.column)): each for each in own}
    odd = oddities(own)
    cells = []
    for row in layout.rows:
        for column in layout.columns:
            line = lines.get((column.group, OURS.get(column.key, column.key), float(row.key)))
            figure = printed.get((row.key, column))
            cells.append(
                MagnetCell(
                    table=layout.table,
                    row=row.key,
                    column=column,
                    block=block,
                    line=line,
                    published=figure,
                    doubt=odd.get(figure, "") if figure else "",
                    obstacle=_obstacle(line) if line and figure else "",
                )
            )
    return cells


def _obstacle(line: DetectionLine) -> str:
    """Return an obstacle unless β is that of the published numbers, which is the strict set's."""
    printed = attack_presets("strict")[line.attack].parameters.get("beta")
    if line.beta == printed:
        return ""
    return f"not comparable: β = {printed:g} in the paper, {line.beta or 0:g} here"
