"""The named defenses of ``presets.toml``. Reading it needs no torch, so that planning stays instant."""

import importlib
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from defenses.base import Defense


@dataclass(frozen=True, kw_only=True)
class DefensePreset:
    """One named defense: what a table shows of it and what decides its training."""

    name: str
    label: str
    group: str
    adversarial: bool
    """False: trained on natural images alone, hence one model for all norms."""
    requires: tuple[str, ...]
    """What is trained first: "estimators", the MI estimators of a Standard-AT model."""
    source: str
    defense: str
    """module:Class"""
    parameters: dict[str, Any]

    def identity(self) -> dict[str, Any]:
        """What enters the task id; a base defense is spelled out too."""
        parameters = dict(self.parameters)
        if "base" in parameters:
            parameters["base"] = defense_presets()[parameters["base"]].identity()
        return {"defense": self.defense, **parameters}


def build_defense(identity: dict[str, Any]) -> "Defense":
    """The defense that ``DefensePreset.identity`` describes; imports torch."""
    arguments = dict(identity)
    module, _, name = str(arguments.pop("defense")).partition(":")
    if "base" in arguments:
        arguments["base"] = build_defense(arguments["base"])
    defense: Defense = getattr(importlib.import_module(module), name)(**arguments)
    return defense


@cache
def defense_presets() -> dict[str, DefensePreset]:
    """Name -> preset, in the order of the tables' rows."""
    table = tomllib.loads((Path(__file__).parent / "presets.toml").read_text(encoding="utf-8"))
    presets = {}
    for name, entry in table.items():
        shown = {key: entry.pop(key) for key in ("label", "group", "adversarial", "source", "defense")}
        requires = tuple(entry.pop("requires"))
        presets[name] = DefensePreset(name=name, requires=requires, parameters=entry, **shown)
    return presets
