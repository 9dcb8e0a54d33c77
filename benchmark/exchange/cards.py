"""The cards of tensors: trainings, crafted images, thresholds."""

from dataclasses import replace
from pathlib import Path

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


def card_facts(path: Path, name: str) -> Facts:
    """Of a card at ``path`` that is called ``name`` in a store."""
    card = read_card(path.with_suffix(".safetensors"))
    spec, seed, identity, sha256 = card["spec"], card["seed"], card["id"], card["sha256"]
    folder = name.partition("/")[0]
    kind = check_identity(identity, spec, seed, folder)
    of_seed = f"-seed{seed}" if kind.seeded else ""
    check_place(name, f"{folder}/{texts(spec, 'dataset')[0]}/", f"{of_seed}-{identity}.json")
    check_sha256(sha256)
    check_circumstances(card["environment"], card["seconds"])
    check_history(card)
    return Facts(id=identity, seed=seed, spec=spec, result=sha256, sha256=sha256)


def crafted_facts(path: Path, name: str) -> Facts:
    """Of images made on a model, for defenses or for detectors."""
    facts = card_facts(path, name)
    data, norm, attack = texts(facts.spec, "dataset", "norm", "attack")
    start = f"crafted/{data}/{norm}/{attack}"
    if name.startswith(f"crafted/{data}/detectors/"):
        confidence = facts.spec["parameters"]["confidence"]
        check_number("confidence", confidence)
        start = f"crafted/{data}/detectors/{attack}-k{confidence:g}"
    check_place(name, f"{start}-on-", ".json")
    return facts


def adapted_facts(path: Path, name: str) -> Facts:
    """Of images made on a whole system."""
    facts = card_facts(path, name)
    data, setting = texts(facts.spec, "dataset", "setting")
    check_place(name, f"crafted/{data}/detectors/{setting}-", ".json")
    return facts


def calibration_facts(path: Path, name: str) -> Facts:
    """Of a detector's threshold."""
    facts, card = card_facts(path, name), read_card(path.with_suffix(".safetensors"))
    check_calibration(card)
    found = Flagging(card["threshold"], card["remark"])
    return replace(facts, found=found, result=short_hash([facts.sha256, *found]))
