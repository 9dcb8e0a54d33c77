"""The data for the first page and for the comparison page."""

from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.report.lines.worst_case import NAME as WORST
from robustness_bench.benchmark.site.contents import names
from robustness_bench.benchmark.site.contents.boards import Board, Row
from robustness_bench.benchmark.site.contents.detectors import DetectorBoard
from robustness_bench.benchmark.site.contents.families import Family, page_id
from robustness_bench.benchmark.site.contents.pairs import pairs
from robustness_bench.benchmark.site.contents.reading import Found
from robustness_bench.benchmark.site.drawing import markup
from robustness_bench.benchmark.statistics import MeanStd


def index(
    found: Found,
    boards: Sequence[Board],
    families: dict[str, Family],
    detectors: Sequence[DetectorBoard] = (),
) -> dict[str, Any]:
    """Return everything that ``index.html.j2`` needs."""
    whole = [board for board in boards if not board.preview_of]
    rows = [each.rows for each in found.records if each.status == "ok"]
    rows += [each.rows for each in found.detections if each.status == "ok"]
    return {
        "boards": whole,
        "previews": lambda board: [each for each in boards if each.preview_of == board.slug],
        "datasets": list(grouped(whole, lambda board: board.dataset).items()),
        "families": families,
        "defenses": len({family.defense for family in families.values()}),
        "detectors": detectors,
        "cells": names.thousands(len(found.records) + len(found.detections)),
        "judged": names.thousands(sum(len(each["label"]) for each in rows)),
        "rank": markup.rank,
        "figure": markup.figure,
        "drawn": markup.drawn,
        "natural": _natural,
        "attack_names": lambda board: ", ".join(_few([c.label for c in board.columns[1:]])),
    }


def _few(labels: list[str]) -> list[str]:
    return labels if len(labels) <= 8 else [*labels[:6], f"{len(labels) - 6} more"]


def _natural(board: Board, row: Row) -> MeanStd | None:
    cell = row.cells.get(board.natural.key) if board.natural else None
    return cell.figure if cell else None


def compared(boards: Sequence[Board], families: dict[str, Family]) -> dict[str, Any]:
    """Return everything that ``compare.html.j2`` needs."""
    listed = [
        {
            "slug": board.slug,
            "title": f"{board.dataset}, {board.threat_model}, {board.set_text}, {board.images_text}",
            "columns": [*([c.key, c.label] for c in board.columns), [WORST, "Worst case"]],
            "rows": [
                [page_id(row.family), families[row.family].label, families[row.family].setting,
                 families[row.family].slug, families[row.family].epochs]
                for row in board.rows
            ],
        }
        for board in boards
    ]  # fmt: skip
    return {"any": bool(boards), "data": Markup(names.embedded(listed))}


def comparisons(board: Board) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a row's file name and its figures, alone and against every other row of its board, as text."""
    found = pairs(board)
    for row in board.rows:
        cells = {key: cell for key in (*row.cells, WORST) if (cell := row.at(key))}
        yield (
            page_id(row.family),
            {
                "board": board.slug,
                "row": page_id(row.family),
                "figures": {key: markup.plain(cell.figure) for key, cell in cells.items()},
                "against": {page_id(other): told for other, told in found[row.family].items()},
            },
        )
