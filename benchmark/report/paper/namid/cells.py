"""The cells of a published table: our number, the paper's, and how they compare."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.data import dataset_named
from robustness_bench.benchmark.plan.protocol import Settings
from robustness_bench.benchmark.report.lines.results import Line
from robustness_bench.benchmark.report.literature.layout import Axis, Layout
from robustness_bench.benchmark.report.literature.published import Published, contradictions
from robustness_bench.benchmark.report.rendering.wording import budget
from robustness_bench.benchmark.statistics import Interval, MeanStd, inside, widened


@dataclass(frozen=True, kw_only=True)
class Block:
    """The results of one data set.

    Attributes:
        label: its label.
        images: number of test images per cell, of the ``available``.
        lines: lines of the records with these settings, at their ε.
        unread: why no results were read; "" if they were.
    """

    settings: Settings
    label: str
    images: int
    available: int
    lines: Sequence[Line] = ()
    unread: str = ""


@dataclass(frozen=True, kw_only=True)
class PaperCell:
    """One cell. Accuracies and differences in percent and points.

    Attributes:
        counted: "any distance" if images at any distance count, else "within ε".
        ours: mean over seeds; None if nothing ran or a seed failed.
        line: everything known about our number.
        interval: our interval in percent: ``statistics.widened`` over the test images.
        doubt: what the paper says about its number elsewhere.
        obstacle: why the two numbers cannot be compared.
    """

    table: str
    threat: str
    row: Axis
    column: Axis
    block: Block = field(repr=False)
    counted: str
    ours: MeanStd | None
    line: Line | None
    interval: Interval | None
    published: Published | None
    doubt: str = ""
    obstacle: str = ""

    @property
    def failure(self) -> str:
        """Why a cell that ran has no number."""
        return self.line.error if self.line is not None and self.ours is None else ""

    @property
    def difference(self) -> float | None:
        """Our mean minus the published one."""
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


def paper_cells(layout: Layout, block: Block, figures: Sequence[Published]) -> list[PaperCell]:
    """Return the cells of one data set, row by row.

    Args:
        figures: the paper's; empty to show only ours.
    """
    lines = {
        (each.norm, each.attack, each.defense): each for each in block.lines if each.threat == layout.threat
    }
    printed = {
        each.place[1:]: each
        for each in figures
        if (each.table, each.dataset) == (layout.table, block.settings.dataset)
    }
    doubts = contradictions(tuple(figures))
    cells = []
    for row in layout.rows:
        for column in layout.columns:
            place = (*column, row.key)
            cells.append(_cell(layout, block, row, column, lines.get(place), printed.get(place), doubts))
    return cells


def _cell(
    layout: Layout,
    block: Block,
    row: Axis,
    column: Axis,
    line: Line | None,
    printed: Published | None,
    doubts: dict[Published, str],
) -> PaperCell:
    counted = reading(block.settings, column.key)
    ours = (line.unbounded if counted == "any distance" else line.bounded) if line else None
    return PaperCell(
        table=layout.table,
        threat=layout.threat,
        row=row,
        column=column,
        block=block,
        counted=counted,
        ours=ours,
        line=line,
        interval=widened(ours, line.images) if ours and line else None,
        published=printed,
        doubt=doubts.get(printed, "") if printed else "",
        obstacle=_obstacle(block.settings, column) if printed else "",
    )


def minimum_norm(attack: str) -> bool:
    """Return whether it is a minimum-norm attack rather than one that stays within ε."""
    return attack_presets("paper")[attack].kind == "minimum-norm"


def reading(settings: Settings, attack: str) -> str:
    """Return which adversarial images count, as in every table of these settings' attack set."""
    return "any distance" if minimum_norm(attack) and settings.attack_set == "paper" else "within ε"


def _obstacle(settings: Settings, column: Axis) -> str:
    """Return why a column's numbers cannot be compared with the published ones, or ""."""
    eps, printed = settings.eps[column.group], dataset_named(settings.dataset).info.eps(column.group)
    if minimum_norm(column.key) and reading(settings, column.key) == "within ε":
        return "not comparable: the published figure counts images at any distance, ours only those within ε"
    if eps != printed:
        return f"not comparable: ε = {budget(printed)} in the paper, {budget(eps)} here"
    return ""
