"""Read a store's results for the detectors' tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from robustness_bench.benchmark.data import Located
from robustness_bench.benchmark.plan.detectors import make_detection_plan
from robustness_bench.benchmark.plan.protocol import ADAPTIVE, Protocol, Settings
from robustness_bench.benchmark.report.detectors.lines import OBLIVIOUS
from robustness_bench.benchmark.report.detectors.roc import Scores
from robustness_bench.benchmark.store.cards import read_card
from robustness_bench.benchmark.store.detections import Detection, find_detections, read_detection
from robustness_bench.benchmark.store.tensors import verify
from robustness_bench.defenses.detectors.registry import system_presets


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
