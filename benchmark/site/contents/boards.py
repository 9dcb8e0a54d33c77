"""Boards: rows that can be compared, and their columns and ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from robustness_bench.attacks.registry import is_bounded
from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.report.lines.worst_case import NAME as WORST
from robustness_bench.benchmark.report.rendering.wording import NORM_SYMBOLS, budget
from robustness_bench.benchmark.site.contents import names
from robustness_bench.benchmark.site.contents.cells import Cell, Column, make_cell, make_columns, worst_of
from robustness_bench.benchmark.statistics import Rank, ranks
from robustness_bench.benchmark.store.cells import Record

Records = list[Record]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model family on one board.

    Attributes:
        cells: column key -> cell; without the columns it never faced.
        worst: None unless the row faced all attacks of the worst case.
        problem: why it has no worst case.
        rank: None without a worst case.
        sent: submitted images against it; they count in the worst case.
    """

    family: str
    defense: str
    seeds: tuple[int, ...]
    cells: dict[str, Cell]
    worst: Cell | None
    problem: str
    rank: Rank | None = None
    sent: tuple[Record, ...] = ()

    def at(self, key: str) -> Cell | None:
        """Return the cell of a column, or the worst case."""
        return self.worst if key == WORST else self.cells.get(key)

    @property
    def records(self) -> Records:
        return [record for cell in self.cells.values() for record in cell.records]


@dataclass(frozen=True, kw_only=True)
class Board:
    """Everything under one threat model: rows ranked by worst case, then incomplete rows.

    Attributes:
        preview_of: slug of the larger board of the same data whose first images this board has (test
            images are the first N of one fixed shuffle); "" if there is none. No row of a preview has
            a rank.
        among: number of images of that larger board, otherwise of this one.
    """

    slug: str
    dataset: str
    data: str
    images: int
    norm: str
    eps: float
    threat: str
    attack_set: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    preview_of: str = ""
    among: int = 0

    @property
    def images_text(self) -> str:
        """The number of images, and whether the board is a preview."""
        return f"{self.images} images" + (f", preview of {self.among}" if self.preview_of else "")

    @property
    def threat_model(self) -> str:
        """The threat model in a few words."""
        return f"{NORM_SYMBOLS.get(self.norm, self.norm)} ε = {budget(self.eps)}, {names.threat(self.threat)}"

    @property
    def set_text(self) -> str:
        return names.set_text(self.attack_set)

    @property
    def natural(self) -> Column | None:
        return next((column for column in self.columns if column.kind == "natural"), None)

    @property
    def required(self) -> tuple[Column, ...]:
        """The columns that make up the worst case."""
        return tuple(column for column in self.columns if column.bounded)

    @property
    def ranked(self) -> int:
        return sum(row.rank is not None for row in self.rows)


def make_boards(
    records: Sequence[Record], sent: Sequence[Record] = (), unranked: Mapping[str, str] | None = None
) -> list[Board]:
    """Return a board per data set, threat model and attack set with natural accuracy and an attack inside ε.

    A set whose cells are a proper subset of another set's gets no board. A board is a preview if another one
    that differs only in the number of images has more images and ranks at least as many rows.

    Args:
        sent: records of submitted images.
        unranked: defense -> why it is not ranked.
    """
    against, sets = grouped(sent, _model), cache(names.sets)  # equal attacks are looked up once
    threats: dict[tuple[str, ...], dict[str, Records]] = {}
    for record in records:
        of = threats.setdefault(_threat_model(record), {})
        for each in sets(names.attack_key(record.spec)):
            of.setdefault(each, []).append(record)
    boards = []
    for of in threats.values():
        natural = [r for r in of.get("strict", ()) if r.spec["kind_of_attack"] == "natural"]
        if names.OWN_SET in of:
            of[names.OWN_SET] += natural
        for name, members in of.items():
            kinds = {record.spec["kind_of_attack"] for record in members}
            if "natural" in kinds and any(is_bounded(r.spec) for r in members) and not _covered(name, of):
                boards.append(_board(members, name, against, unranked or {}))
    boards = _distinct(sorted(boards, key=_order))
    return [_preview(board, boards) for board in boards]


def _threat_model(record: Record) -> tuple[str, ...]:
    return tuple(map(str, record.threat_model))


def _model(record: Record) -> tuple[str, ...]:
    """Return the row and threat model that submitted images are against."""
    return record.model_family, *_threat_model(record)


def _covered(name: str, of: dict[str, Records]) -> bool:
    own = {record.id for record in of[name]}
    return any(own < {record.id for record in of[other]} for other in of if other != name)


def _order(board: Board) -> tuple[object, ...]:
    return (
        board.dataset,
        board.norm != "linf",
        board.norm,
        board.eps,
        board.threat != "white",
        board.attack_set != "strict",
        board.attack_set,
        -board.images,
        board.data,
    )


def _distinct(boards: list[Board]) -> list[Board]:
    """Return the boards with unique slugs."""
    taken: dict[str, int] = {}
    for board in boards:
        taken[board.slug] = taken.get(board.slug, 0) + 1
    return [
        replace(b, slug=f"{b.slug}-{short_hash([b.dataset, b.data, b.attack_set, b.eps])}")
        if taken[b.slug] > 1
        else b
        for b in boards
    ]


def _preview(board: Board, boards: Sequence[Board]) -> Board:
    """Return the board, without ranks if one with more images ranks at least as many rows."""
    same = [each for each in boards if _question(each) == _question(board)]
    # A single row measured on more images must not remove the ranks of a full board.
    whole = [each for each in same if each.images > board.images and each.ranked >= board.ranked]
    if not whole:
        return replace(board, among=board.images)
    largest = max(whole, key=lambda each: each.images)
    rows = tuple(replace(row, rank=None) for row in board.rows)
    return replace(board, rows=rows, preview_of=largest.slug, among=largest.images)


def _question(board: Board) -> tuple[object, ...]:
    """Return everything that defines a board except the number of images."""
    return board.dataset, board.data, board.norm, board.eps, board.threat, board.attack_set


def _board(
    members: Records, attack_set: str, against: Mapping[tuple[str, ...], Records], unranked: Mapping[str, str]
) -> Board:
    spec = members[0].spec
    columns, keys = make_columns(members, attack_set)
    families = grouped(members, lambda record: record.model_family)
    rows = [
        _row(family, own, columns, keys, against.get(_model(own[0]), []), unranked)
        for family, own in sorted(families.items())
    ]
    return Board(
        slug=names.slug(
            spec["dataset"], spec["norm"], f"{spec['eps']:.4g}", spec["threat"], attack_set,
            str(spec["n_examples"]),
        ),
        **{name: spec[name] for name in ("dataset", "data", "norm", "eps", "threat")},
        images=spec["n_examples"],
        attack_set=attack_set,
        columns=columns,
        rows=_ranked(rows, next((c.key for c in columns if c.kind == "natural"), "")),
    )  # fmt: skip


def _row(
    family: str,
    own: Records,
    columns: Sequence[Column],
    keys: dict[str, str],
    sent: Records,
    unranked: Mapping[str, str],
) -> Row:
    seeds = tuple(sorted({record.seed for record in own}))
    found: dict[str, dict[int, Record]] = {}
    for record in own:
        found.setdefault(keys[record.id], {})[record.seed] = record
    cells = {
        column.key: make_cell([*found[column.key].values()], seeds, any_distance=column.any_distance)
        for column in columns
        if column.key in found
    }
    needed = [column for column in columns if column.bounded or column.kind == "natural"]
    problems = [_problem(column, cells.get(column.key)) for column in needed]
    defense = own[0].spec["defense"]
    told = dict.fromkeys(record.unranked for record in own)
    problem = "; ".join(filter(None, [*problems, unranked.get(defense, ""), *told]))
    faced = [cells[c.key] for c in needed if c.bounded and c.key in cells]
    worst = None if problem else worst_of(faced, seeds, sent)
    return Row(
        family=family,
        defense=defense,
        seeds=seeds,
        cells=cells,
        worst=worst,
        problem=problem,
        sent=tuple(sent),
    )


def _problem(column: Column, cell: Cell | None) -> str:
    if cell is None:
        return f"{column.label} missing"
    return "" if cell.whole else f"{column.label} {cell.problem}"


def _ranked(rows: list[Row], natural: str) -> tuple[Row, ...]:
    whole = sorted((row for row in rows if row.worst), key=lambda row: _standing(row, natural))
    worst = [row.worst for row in whole if row.worst]
    places = ranks([np.stack([each for each in of.outcomes.values() if each is not None]) for of in worst])
    partial = sorted((row for row in rows if not row.worst), key=lambda row: (row.defense, row.family))
    return (*(replace(row, rank=place) for row, place in zip(whole, places, strict=True)), *partial)


def _standing(row: Row, natural: str) -> tuple[object, ...]:
    assert row.worst is not None
    assert row.worst.figure is not None
    figure = row.cells[natural].figure
    return -row.worst.figure.mean, -figure.mean if figure else 0.0, row.defense, row.family
