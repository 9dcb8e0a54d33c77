"""The cards of tensors: trainings, crafted images, thresholds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from robustness_bench.benchmark.exchange.known import Facts, Flagging
from robustness_bench.benchmark.exchange.rules import WrongError, check_place
from robustness_bench.benchmark.exchange.stories import kind_of, told
from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.store.cards import read_card


def card_facts(path: Path, name: str) -> Facts:
    """Return the facts of a card at ``path`` that is called ``name`` in a store."""
    card, folder = read_card(path.with_suffix(".safetensors")), name.partition("/")[0]
    story = told(card, folder)
    of_seed = f"-seed{story.seed}" if kind_of(card["spec"], folder).seeded else ""
    check_place(name, f"{folder}/{story.spec.dataset}/", f"{of_seed}-{story.id}.json")
    return Facts(
        id=story.id, seed=story.seed, spec=card["spec"], result=card["sha256"], sha256=card["sha256"]
    )


def crafted_facts(path: Path, name: str) -> Facts:
    """Return the facts of images made on a model, for defenses or for detectors."""
    facts = card_facts(path, name)
    data, norm, attack = (facts.spec[key] for key in ("dataset", "norm", "attack"))
    start = f"crafted/{data}/{norm}/{attack}"
    if name.startswith(f"crafted/{data}/detectors/"):
        start = f"crafted/{data}/detectors/{attack}-k{facts.spec['parameters']['confidence']:g}"
    check_place(name, f"{start}-on-", ".json")
    return facts


def adapted_facts(path: Path, name: str) -> Facts:
    """Return the facts of images made on a whole system."""
    facts = card_facts(path, name)
    check_place(name, f"crafted/{facts.spec['dataset']}/detectors/{facts.spec['setting']}-", ".json")
    return facts


def calibration_facts(path: Path, name: str) -> Facts:
    """Return the facts of a detector's threshold."""
    facts, card = card_facts(path, name), read_card(path.with_suffix(".safetensors"))
    for part, gate in facts.spec["gates"].items():
        if _fails(card["figures"][part], gate) and not card["remark"]:
            raise WrongError(f"has no remark on {part}, which fails its gate")
    if "near" not in card:
        raise WrongError("lacks near")
    found = Flagging(card["threshold"], card["remark"])
    return replace(facts, found=found, result=short_hash([facts.sha256, *found]))


def _fails(figures: dict[str, Any], gate: float) -> bool:
    if "swap_accuracy" in figures:
        return bool(figures["swap_accuracy"] < gate)
    return bool(figures["held_out_error"] > gate)
