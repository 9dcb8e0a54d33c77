"""Every pair of rows of a board, attack by attack: the figures of `bench compare`, as text."""

from typing import Any

import numpy as np

from robustness_bench.benchmark.report.lines.compare import (
    McNemar,
    in_points,
    p_text,
    paired,
    points,
    side,
    span,
)
from robustness_bench.benchmark.report.lines.worst_case import NAME as WORST
from robustness_bench.benchmark.site.contents.boards import Board
from robustness_bench.benchmark.site.contents.cells import Cell
from robustness_bench.benchmark.statistics import Difference, Outcomes, differences, resample

Seeds = dict[int, Outcomes]
Against = dict[str, dict[str, list[Any]]]
"""Other family -> column key -> difference; its interval; 1, -1 or 0 if the first is shown to be better,
worse or neither; and per common seed: seed, images that only the first withstands, only the second, p."""


def pairs(board: Board) -> dict[str, Against]:
    """Return family -> its comparison with every other row, under each attack that both have faced."""
    found: dict[str, Against] = {row.family: {} for row in board.rows}
    for key in (*(column.key for column in board.columns), WORST):
        faced = {row.family: seeds for row in board.rows if (seeds := _seeds(row.at(key)))}
        for one, told in _compared(faced).items():
            for other, figures in told.items():
                found[one].setdefault(other, {})[key] = figures
    return found


def _seeds(cell: Cell | None) -> Seeds:
    outcomes = cell.outcomes if cell else {}
    return {seed: outcome for seed, outcome in outcomes.items() if outcome is not None}


def _compared(faced: dict[str, Seeds]) -> dict[str, dict[str, list[Any]]]:
    """Return family -> other family -> the figures of one column."""
    if len(faced) < 2:
        return {}
    found: dict[str, dict[str, list[Any]]] = {family: {} for family in faced}
    drawn = dict(zip(faced, resample([np.stack([*own.values()]) for own in faced.values()]), strict=True))
    for one, own in faced.items():
        # With the same seeds the swapped pair has the same draws: the figures of the other direction.
        others = [each for each in faced if each != one and each not in found[one]]
        matched = [faced[each].keys() == own.keys() for each in others]
        told = differences(drawn[one], [drawn[each] for each in others], matched=matched)
        for other, alike, difference in zip(others, matched, told, strict=True):
            tests = {seed: paired(own[seed], faced[other][seed]) for seed in own if seed in faced[other]}
            found[one][other] = _figures(difference, tests)
            if alike:
                swapped = {s: McNemar(t.only_second, t.only_first, t.p) for s, t in tests.items()}
                mean, low, high = difference  # 0 - x is never the negative zero that -x can be
                found[other][one] = _figures(Difference(0 - mean, 0 - high, 0 - low), swapped)
    return found


def _figures(difference: Difference, tests: dict[int, McNemar]) -> list[Any]:
    shown = in_points(difference)
    told = [[seed, test.only_first, test.only_second, p_text(test.p)] for seed, test in tests.items()]
    return [points(shown.mean), span(shown), side(shown), told]
