"""Names and order of systems, detectors and attacks in the tables."""

from collections.abc import Mapping
from typing import Any

from robustness_bench.attacks.registry import attack_names, attack_presets
from robustness_bench.defenses.detectors.registry import GROUPS, detector_presets, system_presets

_PRINTED = {"cw": "cw-l2"}  # our name -> the papers', where they differ
_FIRST = ("none", "cw", "ead-l1", "ead-en")  # as in the published tables


def system_names() -> list[str]:
    """Return the systems' names in the order of the tables' rows."""
    presets = system_presets()
    return sorted(presets, key=lambda name: GROUPS.index(presets[name].group))


def _label(presets: Mapping[str, Any], name: str) -> str:
    """Return the preset's label, or the name if there is no preset."""
    return str(presets[name].label) if name in presets else name


def system_label(name: str) -> str:
    return _label(system_presets(), name)


def detector_label(name: str) -> str:
    return _label(detector_presets(), name)


def attack_label(name: str) -> str:
    return _label(attack_presets("strict"), name)


def system_group(name: str) -> str:
    """Return the group of rows that a rule separates in the table."""
    presets = system_presets()
    return presets[name].group if name in presets else ""


def detector_names() -> list[str]:
    """Return the detectors' names in the registry's order."""
    return list(detector_presets())


def known_attacks() -> list[str]:
    """Return the attacks' names in the order of the tables."""
    return [*_FIRST, *(name for name in attack_names() if name not in _FIRST)]


def published_name(attack: str) -> str:
    """Return the detectors' papers' name of one of our attacks."""
    return _PRINTED.get(attack, attack)


def our_name(attack: str) -> str:
    """Return our name of an attack in the detectors' papers."""
    return next((ours for ours, theirs in _PRINTED.items() if theirs == attack), attack)


def confidence(kappa: float) -> str:
    """Return κ as text, 15.0 as 15."""
    return f"{kappa:g}"
