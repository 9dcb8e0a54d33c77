"""Consistency checks between systems: a union of detectors withstands no less than any part of it."""

from collections.abc import Iterable
from itertools import permutations

import numpy as np

from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.report.detectors.lines import NATURAL, OBLIVIOUS, DetectionLine, name_of
from robustness_bench.benchmark.store.detections import Detection

_SHOWN = ("sample", "label", "prediction", "l1", "l2", "linf")  # equal in both: the same images were judged


def check_unions(records: Iterable[Detection]) -> None:
    """Raise StoreError where a system flags less than one with some of its detectors, at equal thresholds.

    Compares systems that judged the same images: natural ones, and those of oblivious attacks.
    """
    judged = [
        each for each in records if each.status == "ok" and each.spec["setting"] in (NATURAL, OBLIVIOUS)
    ]
    for members in grouped(judged, _place).values():
        for part, whole in permutations(members, 2):
            same = all(np.array_equal(part.rows[name], whole.rows[name]) for name in _SHOWN)
            if same and part.thresholds.items() < whole.thresholds.items():
                _check(part, whole)


def _place(record: Detection) -> tuple[object, ...]:
    return *(record.spec[key] for key in ("dataset", "setting", "attack", "confidence")), record.seed


def _check(part: Detection, whole: Detection) -> None:
    lost = part.flagged & ~whole.flagged
    if part.spec.get("reformer") == whole.spec.get("reformer"):
        lost |= part.defended() & ~whole.defended()
    if lost.any():
        raise StoreError(
            f"{name_of(whole)} loses {lost.sum()} of the images that {part.spec['system']} withstands with "
            f"fewer detectors and the same thresholds, which a union cannot do: delete the cells "
            f"{whole.id} and {part.id} and run the same command again"
        )


def check_settings(lines: Iterable[DetectionLine]) -> None:
    """Raise StoreError if a table would have two lines for one cell."""
    seen: dict[tuple[object, ...], DetectionLine] = {}
    for line in lines:
        other = seen.setdefault(line.key, line)
        if other is not line:
            words = " ".join(line.key[:4])
            raise StoreError(
                f"the results hold {words} at κ = {line.confidence:g} under two settings ({other.family} and "
                f"{line.family}): move those of one to a folder of their own (--out)"
            )
