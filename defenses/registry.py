"""The named defenses: ``presets.toml``, entry points, plugin files. Built-in names need no torch."""

import tomllib
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness_bench.attacks.class_names import load, recorded
from robustness_bench.attacks.plugins import PresetError, offers
from robustness_bench.defenses.plugins import loaded_classes, offered_class, source_hash

if TYPE_CHECKING:
    from robustness_bench.defenses.base import Defense

_ENTRY_POINTS = "bench.defenses"


@dataclass(frozen=True, kw_only=True)
class DefensePreset:
    """One named defense: how tables show it, and what decides its training."""

    name: str
    label: str
    group: str
    adversarial: bool
    """False: trained on natural images alone, hence one model for all norms."""
    requires: tuple[str, ...]
    """What must be trained first: "estimators", the MI estimators of a Standard-AT model."""
    source: str
    defense: str
    """The recorded name of the class (``attacks.class_names``)."""
    parameters: dict[str, Any]
    estimators: dict[str, Any] = field(default_factory=dict)
    """Settings for training its estimators that override the protocol's."""
    code: str = ""
    """Hash of a plugin's file; empty for built-in defenses."""
    revision: int = 1
    """For a built-in defense: incremented when a code change trains another network from the same fields."""

    def identity(self) -> dict[str, Any]:
        """Return what enters the task id, including that of a base defense."""
        parameters = dict(self.parameters)
        if isinstance(parameters.get("base"), str):
            parameters["base"] = defense_presets()[parameters["base"]].identity()
        code = {"code": self.code} if self.code else {}
        revision = {"revision": self.revision} if self.revision > 1 else {}
        return {"defense": self.defense, **code, **revision, **parameters}


def build_defense(identity: dict[str, Any]) -> "Defense":
    """Return the defense that ``DefensePreset.identity`` describes; imports torch."""
    arguments = {
        key: build_defense(value) if isinstance(value, dict) and "defense" in value else value
        for key, value in identity.items()
        if key not in ("defense", "code", "revision")
    }
    defense: Defense = load(str(identity["defense"]))(**arguments)
    return defense


_registered: dict[str, DefensePreset] = {}


def register(preset: DefensePreset) -> None:
    """Register, in this process, a defense that others trained, so that its weights can be loaded.

    Raises:
        PresetError: an installed defense has this name.
    """
    if preset.name in _installed():
        raise PresetError(f"the defense {preset.name!r} exists already: rename this one")
    _registered[preset.name] = preset


def defense_presets() -> dict[str, DefensePreset]:
    """Return name -> preset in the order of the tables' rows: built-in, installed, submitted, loaded."""
    presets = {**_installed(), **_registered}
    for name, defense in loaded_classes().items():
        if name in presets:
            raise PresetError(f"the plugin's defense {name!r} exists already: rename the file")
        presets[name] = _from_class(name, defense)
    return presets


@cache
def _installed() -> dict[str, DefensePreset]:
    table = tomllib.loads((Path(__file__).parent / "presets.toml").read_text(encoding="utf-8"))
    presets = {name: _from_table(name, entry) for name, entry in table.items()}
    for offer in offers(entry_points(group=_ENTRY_POINTS), "defense", presets):
        presets[offer.name] = _from_class(offer.name, offered_class(offer))
    return presets


def _from_table(name: str, entry: dict[str, Any]) -> DefensePreset:
    keys = ("label", "group", "adversarial", "source", "defense", "estimators", "revision")
    shown = {key: entry.pop(key) for key in keys if key in entry}
    requires = tuple(entry.pop("requires"))
    return DefensePreset(name=name, requires=requires, parameters=entry, **shown)


def _from_class(name: str, defense: "type[Defense]") -> DefensePreset:
    identity = _identity(defense())
    return DefensePreset(
        name=name,
        label=defense.label or defense.__name__,
        group=defense.group,
        adversarial=defense.adversarial,
        requires=defense.requires,
        source=defense.source,
        defense=identity.pop("defense"),
        code=source_hash(defense),
        parameters=identity,
        estimators=defense.estimators,
    )


def _identity(defense: "Defense") -> dict[str, Any]:
    """Return the class and fields, also of a defense inside it."""
    from robustness_bench.defenses.base import Defense

    kind = type(defense)
    values = {each.name: getattr(defense, each.name) for each in fields(defense)}
    spelled = {key: _identity(v) if isinstance(v, Defense) else v for key, v in values.items()}
    return {"defense": recorded(f"{kind.__module__}:{kind.__qualname__}"), **spelled}
