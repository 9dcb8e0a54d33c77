"""The cards of tensors: trainings, crafted images, thresholds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from robustness_bench.benchmark.exchange.detector_rules import check_calibration
from robustness_bench.benchmark.exchange.known import Facts, Flagging
from robustness_bench.benchmark.exchange.rules import (
    check_circumstances,
    check_history,
    check_identity,
    check_number,
    check_place,
    check_sha256,
    texts,
)
from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.store.cards import read_card

_KINDS = {
    "checkpoints": ("train", "load", "estimators", "part"),
    "crafted": ("craft", "adapt"),
    "calibrations": ("calibrate",),
}


def card_facts(path: Path, name: str) -> Facts:
    """Of a card at ``path`` that is called ``name`` in a store."""
    card = read_card(path.with_suffix(".safetensors"))
    spec, seed, identity, sha256 = card["spec"], card["seed"], card["id"], card["sha256"]
    check_identity(identity, spec, seed, _KINDS[name.partition("/")[0]])
    of_seed = "" if spec["kind"] in ("load", "calibrate") else f"-seed{seed}"
    check_place(name, _start(spec, name), f"{of_seed}-{identity}.json")
    check_sha256(sha256)
    check_circumstances(card["environment"], card["seconds"])
    check_history(card)
    facts = Facts(id=identity, seed=seed, spec=spec, result=sha256, sha256=sha256)
    return facts if spec["kind"] != "calibrate" else _calibration(facts, card)


def _start(spec: dict[str, Any], name: str) -> str:
    """How the name of a card begins, by its settings."""
    (data,) = texts(spec, "dataset")
    if spec["kind"] == "adapt":
        return f"crafted/{data}/detectors/{texts(spec, 'setting')[0]}-"
    if spec["kind"] != "craft":
        return f"{name.partition('/')[0]}/{data}/"
    norm, attack = texts(spec, "norm", "attack")
    if not name.startswith(f"crafted/{data}/detectors/"):
        return f"crafted/{data}/{norm}/{attack}-on-"
    check_number("confidence", spec["parameters"]["confidence"])
    return f"crafted/{data}/detectors/{attack}-k{spec['parameters']['confidence']:g}-on-"


def _calibration(facts: Facts, card: dict[str, Any]) -> Facts:
    check_calibration(card)
    found = Flagging(card["threshold"], card["remark"])
    return replace(facts, found=found, result=short_hash([facts.sha256, *found]))
