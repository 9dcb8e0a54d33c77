"""The named attacks of ``presets.toml`` and of installed plugins. Needs no torch: planning is instant."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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
EIGHT_BIT, JPEG = "8-bit", "jpeg-"
STORAGES = {EIGHT_BIT: "rounded to the 256 levels of 8 bits", JPEG: "as a JPEG of this quality, 1 to 100"}
"""Ways to store an image before it is judged: ``NAME@8-bit``, ``NAME@jpeg-75``."""
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
    storage: str = ""
    """How its images are stored before they are judged (``STORAGES``); empty: they are judged as made."""
    bf16: bool = False
    """Whether its gradients may be taken in bf16 (``numerics.precision``)."""

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


def attack_preset(name: str, attack_set: str) -> AttackPreset | None:
    """Return the preset of a name, which may end with a storage; None if the set has none of this name."""
    base, storage = parsed(name)
    table = _tables().get(base, {})
    if attack_set not in table:
        return None
    preset = _preset(base, table, attack_set)
    if not storage:
        return preset
    # A natural image that is stored is an image at any distance.
    kind = "unbounded" if preset.kind == "natural" else preset.kind
    label = f"{preset.label} {storage.replace(JPEG, 'JPEG ')}"
    return replace(preset, name=name, label=label, kind=kind, storage=storage)


def parsed(name: str) -> tuple[str, str]:
    """Return the attack's own name, and how its images are stored before they are judged, if at all.

    A name whose end is no storage is returned whole. Natural images have 8 bits, so ``none@8-bit`` is none.
    """
    base, _, storage = name.partition("@")
    quality = storage.removeprefix(JPEG)
    is_jpeg = storage != quality and quality.isdecimal() and quality == str(int(quality))
    if (is_jpeg and 1 <= int(quality) <= 100) or (storage == EIGHT_BIT and base != "none"):
        return base, storage
    return name, ""


def attack_place(name: str) -> tuple[int, int, str]:
    """Return a sort key: the order of the registry, stored images behind their attack; then unknown names."""
    (base, storage), names = parsed(name), attack_names()
    quality = int(storage.removeprefix(JPEG)) if storage.startswith(JPEG) else 0
    return names.index(base) if base in names else len(names), quality, name


def in_order(names: Iterable[str]) -> list[str]:
    """Return the names that an attack has, each once, in the order of the tables' columns."""
    known = attack_names()
    return sorted((name for name in set(names) if parsed(name)[0] in known), key=attack_place)


def is_bounded(spec: Mapping[str, Any]) -> bool:
    """Return whether a cell with these settings counts in the worst case.

    Stored images do not: they may lie beyond ε, and those of which they are made count themselves.
    """
    return spec["kind_of_attack"] in BOUNDED and "storage" not in spec


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
    """A plugin's preset, checked: a mapping with the keys of ``presets.toml``; PresetError for any other."""
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
