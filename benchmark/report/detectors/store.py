"""Read a store's results for the detectors' tables, and check that they do not contradict each other."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from pathlib import Path

import numpy as np

from robustness_bench.benchmark.data import Located
from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.plan.detectors import make_detection_plan
from robustness_bench.benchmark.plan.protocol import ADAPTIVE, Protocol, Settings
from robustness_bench.benchmark.report.detectors.lines import NATURAL, OBLIVIOUS, DetectionLine, name_of
from robustness_bench.benchmark.report.detectors.roc import Scores
from robustness_bench.benchmark.store.cards import read_card, verify
from robustness_bench.benchmark.store.detections import Detection, find_detections, read_detection
from robustness_bench.defenses.detectors.registry import system_presets

_SHOWN = ("sample", "label", "prediction", "l1", "l2", "linf")  # equal in both: the same images were judged


def detections(out: Path) -> list[Detection]:
    """Return every cell of a store, in a fixed order."""
    return [read_detection(path) for path in find_detections(out)]


def validation_scores(out: Path) -> dict[str, Scores]:
    """Return calibration id -> scores of held-out natural images, for every calibration of a store.

    Raises:
        StoreError: a damaged file.
    """
    from safetensors.numpy import load_file

    found = {}
    for card in sorted(out.glob("calibrations/**/*.json")):
        path = card.with_suffix(".safetensors")
        verify(path)
        found[read_card(path)["id"]] = load_file(path)["scores"]
    return found


def fitting(
    protocol: Protocol, settings: Settings, data: Mapping[str, Located], records: Sequence[Detection]
) -> list[Detection]:
    """Return the cells that a run of detectors with these settings would include."""
    oblivious = [record.spec for record in records if record.spec["setting"] == OBLIVIOUS]
    detection = settings.detection.model_copy(
        update={
            "attacks": tuple(sorted({spec["attack"] for spec in oblivious})),
            "confidences": tuple(sorted({spec["confidence"] for spec in oblivious})) or (0.0,),
            "adaptive": ADAPTIVE,
        }
    )
    systems = system_presets().items()
    widest = protocol.model_copy(
        update={
            "defenses": (),
            "detectors": tuple(name for name, each in systems if settings.dataset in each.detectors),
            "seeds": max((record.seed for record in records), default=0) + 1,
            "settings": (settings.model_copy(update={"detection": detection}),),
        }
    )
    by_id = {record.id: record for record in records}
    return [by_id[task.id] for task in make_detection_plan(widest, dict(data)) if task.id in by_id]


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
