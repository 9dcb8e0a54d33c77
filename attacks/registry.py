"""The named attacks of ``presets.toml`` and of installed plugins. Needs no torch: planning is instant."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness_bench.attacks.class_names import load, recorded
from robustness_bench.attacks.plugins import Offer, PresetError, offers

if TYPE_CHECKING:
    from robustness_bench.attacks.base import Attack

SETS = {
    "strict": "full strength; minimum-norm attacks are judged at ε",
    "paper": "the settings behind the published tables; minimum-norm attacks count at any distance",
}
KINDS = ("natural", "budget", "minimum-norm", "wasserstein", "unbounded")
BOUNDED = ("budget", "minimum-norm")
"""Kinds that stay inside, or are read at, the ε of a threat model: the worst case is made of them."""
NORMS = ("linf", "l2")
EXACT, BF16 = "float32", "bf16"
"""What an attack's gradients are taken in."""
_ENTRY_POINTS = "bench.attacks"


@dataclass(frozen=True, kw_only=True)
class AttackPreset:
    """One named attack under one parameter set: how tables show it, and what decides its results."""

    name: str
    label: str
    norms: tuple[str, ...]
    kind: str
    """natural, budget, minimum-norm, wasserstein or unbounded: see ``presets.toml``."""
    source: str
    attack: str
    """The recorded name of the class (``class_names``)."""
    parameters: dict[str, Any]
    bf16: bool = False
    """Whether its gradients may be taken in bf16 (``attacks.searches.precision``)."""

    @property
    def takes_eps(self) -> bool:
        """Whether a run serves only one ε."""
        return self.kind in ("budget", "wasserstein")

    def arguments(self, norm: str, eps: float) -> dict[str, Any]:
        """Return the constructor's arguments under a threat model."""
        if norm not in self.norms:
            raise ValueError(f"{self.name} works in {', '.join(self.norms)}, got norm {norm!r}")
        budget = {"eps": eps} if self.takes_eps else {}
        return {"norm": norm, **budget, **self.parameters}

    def identity(self, norm: str, eps: float, precision: str = EXACT) -> dict[str, Any]:
        """What enters the task id; it names a precision only where it is another than float32."""
        lowered = {"precision": precision} if precision != EXACT and self.bf16 else {}
        return {"attack": self.attack, **self.arguments(norm, eps), **lowered}

    def build(self, norm: str, eps: float) -> "Attack":
        """Return the attack itself; imports torch."""
        return build_attack(self.identity(norm, eps))


def build_attack(identity: dict[str, Any]) -> "Attack":
    """Return the attack that ``AttackPreset.identity`` describes."""
    arguments = dict(identity)
    attack: Attack = load(str(arguments.pop("attack")))(**arguments)
    return attack


def attack_names() -> list[str]:
    """Return every name of every set, in the order of the tables' columns."""
    return list(_tables())


def attack_presets(attack_set: str) -> dict[str, AttackPreset]:
    """Return name -> preset of the attacks that have this set, in the order of the tables' columns."""
    if attack_set not in SETS:
        raise ValueError(f"the parameter sets are {', '.join(SETS)}, got {attack_set!r}")
    return {
        name: _preset(name, table, attack_set) for name, table in _tables().items() if attack_set in table
    }


def _preset(name: str, table: Mapping[str, Any], attack_set: str) -> AttackPreset:
    parameters = dict(table[attack_set])
    return AttackPreset(
        name=name,
        label=table["label"],
        norms=tuple(table["norms"]),
        kind=table["kind"],
        attack=table["attack"],
        source=parameters.pop("source"),
        parameters=parameters,
        bf16=table.get("bf16", False),
    )


@cache
def _tables() -> dict[str, Mapping[str, Any]]:
    """Return the file's entries, then the plugins'."""
    text = (Path(__file__).parent / "presets.toml").read_text(encoding="utf-8")
    tables: dict[str, Mapping[str, Any]] = tomllib.loads(text)
    for offer in offers(entry_points(group=_ENTRY_POINTS), "attack", tables):
        tables[offer.name] = _plugin(offer)
    return tables


def _plugin(offer: Offer) -> Mapping[str, Any]:
    """The preset that a plugin offers, checked: a mapping with the keys of ``presets.toml``.

    Raises:
        PresetError: a key is missing or wrong.
    """
    _, where, table = offer
    if not isinstance(table, Mapping):
        raise PresetError(f"{where} must be a mapping like an entry of presets.toml, got {table!r}")
    missing = {"attack", "label", "norms", "kind"} - table.keys()
    if missing:
        raise PresetError(f"{where} lacks {', '.join(sorted(missing))}")
    if table["kind"] not in KINDS or not set(table["norms"]) <= set(NORMS):
        raise PresetError(
            f"{where} must have a kind of {', '.join(KINDS)} and norms of {', '.join(NORMS)}, "
            f"got {table['kind']!r} and {table['norms']!r}"
        )
    sets = table.keys() & SETS.keys()
    if not sets or not all("source" in table[name] for name in sets):
        raise PresetError(f"{where} needs a table strict or paper with a source and every hyperparameter")
    return {**table, "attack": recorded(str(table["attack"]))}
