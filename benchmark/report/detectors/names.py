"""What systems, detectors and attacks are called in the tables."""

from collections.abc import Sequence

from robustness_bench.attacks.registry import attack_names, attack_presets
from robustness_bench.defenses.detectors.registry import GROUPS, detector_presets, system_presets

_FIRST = ("none", "cw", "ead-l1", "ead-en")  # as in the published tables


def system_names() -> list[str]:
    """In the order of the tables' rows."""
    presets = system_presets()
    return sorted(presets, key=lambda name: GROUPS.index(presets[name].group))


def system_label(name: str) -> str:
    """Its name where it has no preset."""
    presets = system_presets()
    return presets[name].label if name in presets else name


def system_group(name: str) -> str:
    """What the table rules off."""
    presets = system_presets()
    return presets[name].group if name in presets else ""


def detector_names() -> list[str]:
    """In the order of the registry."""
    return list(detector_presets())


def known_attacks() -> list[str]:
    """In the order of the tables."""
    return [*_FIRST, *(name for name in attack_names() if name not in _FIRST)]


def attack_label(name: str) -> str:
    """Its name where it has no preset."""
    presets = attack_presets("strict")
    return presets[name].label if name in presets else name


def position(name: str, names: Sequence[str]) -> tuple[int, str]:
    """To sort by: known names in their order, then the others."""
    return (names.index(name) if name in names else len(names), name)


def confidence(kappa: float) -> str:
    """15.0 as 15."""
    return f"{kappa:g}"
