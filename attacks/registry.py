"""The named attacks of ``presets.toml``. Reading it needs no torch, so that planning stays instant."""

import importlib
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attacks.base import Attack


@dataclass(frozen=True, kw_only=True)
class AttackPreset:
    """One named attack: what a table shows of it and what decides its results."""

    name: str
    label: str
    norms: tuple[str, ...]
    kind: str
    """natural, budget (inside ε), or minimum-norm (one run answers every ε)."""
    source: str
    attack: str
    """module:Class"""
    parameters: dict[str, Any]

    def arguments(self, norm: str, eps: float) -> dict[str, Any]:
        """The constructor's arguments under a threat model."""
        if norm not in self.norms:
            raise ValueError(f"{self.name} works in {', '.join(self.norms)}, got norm {norm!r}")
        budget = {"eps": eps} if self.kind == "budget" else {}
        return {"norm": norm, **budget, **self.parameters}

    def identity(self, norm: str, eps: float) -> dict[str, Any]:
        """What enters the task id."""
        return {"attack": self.attack, **self.arguments(norm, eps)}

    def build(self, norm: str, eps: float) -> "Attack":
        """The attack itself; imports torch."""
        return build_attack(self.identity(norm, eps))


def build_attack(identity: dict[str, Any]) -> "Attack":
    """The attack that ``AttackPreset.identity`` describes."""
    arguments = dict(identity)
    module, _, name = str(arguments.pop("attack")).partition(":")
    attack: Attack = getattr(importlib.import_module(module), name)(**arguments)
    return attack


@cache
def attack_presets() -> dict[str, AttackPreset]:
    """Name -> preset, in the order of the tables' columns."""
    table = tomllib.loads((Path(__file__).parent / "presets.toml").read_text(encoding="utf-8"))
    presets = {}
    for name, entry in table.items():
        shown = {key: entry.pop(key) for key in ("label", "kind", "source", "attack")}
        norms = tuple(entry.pop("norms"))
        presets[name] = AttackPreset(name=name, norms=norms, parameters=entry, **shown)
    return presets
