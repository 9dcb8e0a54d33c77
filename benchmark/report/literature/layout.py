"""The layout of a published table, derived from its numbers so that it is stated only once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from robustness_bench.benchmark.report.literature.published import Published


class Axis(NamedTuple):
    """A row or a column: its group and its name."""

    group: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Rows, columns and data sets of a published table, in its order.

    Attributes:
        columns: a group is a norm (a detector in the detectors' tables).
        rows: a group is separated by a rule and has its own best; ``grouped`` sets it.
        spread: whether the standard deviation is shown.
    """

    table: str
    threat: str
    datasets: tuple[str, ...]
    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    spread: bool

    def shown(self, asked: Sequence[str], known: Iterable[str]) -> list[str]:
        """Return which of the requested data sets to show.

        Args:
            known: data sets that the paper has in any table. Of these a table shows only its own, unless
                nothing else was requested; other data sets are always shown.
        """
        elsewhere = set(known) - set(self.datasets)
        return [name for name in asked if name not in elsewhere] or list(asked)


def layout(table: str, figures: Sequence[Published], groups: dict[str, str] | None = None) -> Layout:
    """Return the layout of one of the tables in ``figures``.

    Args:
        groups: row -> its group; by default there is one group.
    """
    own = [figure for figure in figures if figure.table == table]
    groups = groups or {}
    return Layout(
        table=table,
        threat=own[0].threat,
        datasets=tuple(dict.fromkeys(each.dataset for each in own)),
        rows=tuple(dict.fromkeys(Axis(groups.get(each.row, ""), each.row) for each in own)),
        columns=tuple(dict.fromkeys(Axis(each.group, each.column) for each in own)),
        spread=any(each.std is not None for each in own),
    )
