"""The numbers that the papers print, as data: ``results/published``, one file per paper; and their layout."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from robustness_bench.benchmark.grouping import grouped

_FOLDER = Path(__file__).parents[3] / "results" / "published"
_DATASETS = {"CIFAR-10": "cifar10", "Tiny-ImageNet": "tiny-imagenet", "MNIST": "mnist"}
Source = Literal["namid", "magnet"]
SOURCES: dict[Source, str] = {"namid": "Zhou et al. 2022", "magnet": "Hsu et al. 2018"}
LU = "Lu et al. 2018"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One printed number, under our names.

    Attributes:
        table: 1 to 6 of the NAMID paper; magnet-1 and magnet-2 of the detectors' paper.
        dataset: our name for it.
        threat: white or black; "" in the detectors' tables, whose attacks do not know the detector.
        group: heading of the column's group: a norm; a detector in the detectors' tables.
        column: an attack.
        row: a defense; the attack's confidence κ in the detectors' tables.
        mean, std: percent; std is None if none is printed.
    """

    table: str
    dataset: str
    threat: str
    group: str
    column: str
    row: str
    mean: float
    std: float | None

    @property
    def place(self) -> tuple[str, str, str, str]:
        """Where its counterpart is in another table of the same threat model."""
        return self.dataset, self.group, self.column, self.row


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One point of a figure of Lu et al. 2018, https://arxiv.org/abs/1805.00310, read off its drawing.

    Percent of the adversarial images that MagNet withstands with none of its parts, only its detectors,
    only its reformer, and both; accurate to 0.1.

    Attributes:
        curve: in their figures 2 to 6.
        variant: default, or jsd with two more detectors.
        attack: cw-l2, ead-l1 or ead-en, the latter with β = 0.1.
    """

    curve: str
    dataset: str
    variant: str
    attack: str
    kappa: float
    none: float
    det: float
    ref: float
    both: float


@cache
def curves() -> tuple[Curve, ...]:
    """Return every point, curve by curve."""
    with (_FOLDER / "lu2018.csv").open(encoding="utf-8", newline="") as file:
        return tuple(_curve(row) for row in csv.DictReader(file))


def _curve(row: Mapping[str, str]) -> Curve:
    return Curve(
        curve=row["curve"],
        dataset=_DATASETS[row["dataset"]],
        variant=row["variant"],
        attack=row["attack"].lower(),
        **{name: float(row[name]) for name in ("kappa", "none", "det", "ref", "both")},
    )


@cache
def published(source: Source) -> tuple[Published, ...]:
    """Return every number of one paper, in the order of its tables."""
    read = {"namid": _namid, "magnet": _magnet}[source]
    with (_FOLDER / f"{source}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(read(row) for row in csv.DictReader(file))


def _namid(row: Mapping[str, str]) -> Published:
    return Published(
        table=row["table"],
        dataset=_DATASETS[row["dataset"]],
        threat=row["threat"].removesuffix("-box"),
        group=row["norm"].lower(),
        column=row["attack"].lower(),
        row=row["defense"].lower().replace("_", "-"),
        mean=float(row["mean"]),
        std=float(row["std"]) if row["std"] else None,
    )


def _magnet(row: Mapping[str, str]) -> Published:
    return Published(
        table=f"magnet-{row['table']}",
        dataset=_DATASETS[row["dataset"]],
        threat="",
        group=row["defense"].lower(),
        column=row["attack"].lower(),
        row=row["kappa"],
        mean=float(row["accuracy"]),
        std=None,
    )


def printed_name(dataset: str) -> str:
    """Return the papers' name of a data set that they have."""
    return next(name for name, ours in _DATASETS.items() if ours == dataset)


def contradictions(figures: tuple[Published, ...]) -> dict[Published, str]:
    """Return numbers that another table of the same paper prints differently -> a remark on them."""
    at = grouped(figures, lambda figure: (figure.threat, *figure.place))
    said = {}
    for each in figures:
        others = [o for o in at[each.threat, *each.place] if o.mean != each.mean]
        if others:
            elsewhere = " and ".join(f"{other.mean:.2f} in Table {other.table}" for other in others)
            said[each] = f"the paper prints {each.mean:.2f} in Table {each.table} and {elsewhere}"
    return said


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
