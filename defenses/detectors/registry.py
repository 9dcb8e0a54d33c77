"""The named parts, detectors and systems: ``presets.toml``, then plugins. Naming them needs no torch."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness_bench.attacks.class_names import load, recorded
from robustness_bench.attacks.plugins import (
    FilePoint,
    Offer,
    PresetError,
    check_keys,
    code_hash,
    file_points,
    offers,
)

if TYPE_CHECKING:
    from robustness_bench.defenses.detectors.base import Detector, Part

ROLES = ("autoencoder", "generator")
"""The hyperparameters that name parts."""
_RECIPE = ("epochs", "batch_size", "lr", "schedule")
_ENTRY_POINTS = "bench.detectors"
GROUPS = ("magnet", "mi", "control", "plugins")
"""Of systems, in the order of the tables."""


@dataclass(frozen=True, kw_only=True)
class PartPreset:
    """A network that detectors share, and how it is trained.

    Attributes:
        part: the recorded name of the class (``attacks.class_names``).
        parameters: its hyperparameters.
        recipe: epochs, batch size, learning rate and schedule.
        gate: what it must reach to be used: for an auto-encoder the largest mean squared error on held-out
            images; for a generator the smallest share of generated images that the classifier assigns to
            the class they were generated for.
    """

    name: str
    part: str
    parameters: dict[str, Any]
    recipe: dict[str, Any]
    gate: float
    code: str = ""
    """Hash of a plugin's file; our own have none."""

    def identity(self) -> dict[str, Any]:
        """The network and its loss, as it enters the task id."""
        return {"part": self.part, **_coded(self.code), **self.parameters}


@dataclass(frozen=True, kw_only=True)
class DetectorPreset:
    """One named detector: a way to score images, and the share of natural images it may flag.

    Attributes:
        detector: the recorded name of the class (``attacks.class_names``).
        images: held-out images that set the threshold; 0 = all.
        rates: data set -> share of them that is flagged.
    """

    name: str
    label: str
    detector: str
    parameters: dict[str, Any]
    images: int
    rates: dict[str, float]
    code: str = ""
    """Hash of a plugin's file; our own have none."""

    def identity(self) -> dict[str, Any]:
        """What enters the task id."""
        return {"detector": self.detector, **_coded(self.code), **self.parameters}

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts it uses."""
        return tuple(self.parameters[role] for role in ROLES if role in self.parameters)


@dataclass(frozen=True, kw_only=True)
class SystemPreset:
    """A union of detectors and a reformer, around any classifier.

    Attributes:
        group: of ``GROUPS``.
        adaptive: whether it is attacked adaptively too.
        reformer: the part through which images go before they are classified.
        detectors: data set -> names; a data set that is not there has no recipe.
    """

    name: str
    label: str
    group: str
    source: str
    adaptive: bool
    reformer: str
    detectors: dict[str, tuple[str, ...]]


def _coded(code: str) -> dict[str, str]:
    return {"code": code} if code else {}


def part_presets(dataset: str) -> dict[str, PartPreset]:
    """Name -> part, of one data set; none where it has no recipe."""
    return _presets(file_points(_ENTRY_POINTS)).parts.get(dataset, {})


def detector_presets() -> dict[str, DetectorPreset]:
    """Name -> detector."""
    return _presets(file_points(_ENTRY_POINTS)).detectors


def system_presets() -> dict[str, SystemPreset]:
    """Name -> system, in the order of the tables' rows."""
    return _presets(file_points(_ENTRY_POINTS)).systems


@dataclass(frozen=True)
class _Presets:
    """All that there are."""

    parts: dict[str, dict[str, PartPreset]]
    detectors: dict[str, DetectorPreset]
    systems: dict[str, SystemPreset]


@cache
def _presets(files: tuple[FilePoint, ...]) -> _Presets:
    """The file's, then those of installed plugins and of ``files``."""
    tables = tomllib.loads((Path(__file__).parent / "presets.toml").read_text(encoding="utf-8"))
    presets = _Presets({}, {}, {})
    for dataset, parts in tables["parts"].items():
        presets.parts[dataset] = {name: _part(name, table) for name, table in parts.items()}
    for name, table in tables["detectors"].items():
        presets.detectors[name] = _detector(name, table)
    for name, table in tables["systems"].items():
        presets.systems[name] = _system(name, table, presets.systems)
    for offer in offers([*entry_points(group=_ENTRY_POINTS), *files], "detector", presets.systems):
        _add(offer, presets)
    return presets


def _part(name: str, table: dict[str, Any]) -> PartPreset:
    table = dict(table)
    recipe = {key: table.pop(key) for key in _RECIPE}
    gate, part, code = table.pop("gate"), table.pop("part"), table.pop("code", "")
    return PartPreset(name=name, part=part, parameters=table, recipe=recipe, gate=gate, code=code)


def _detector(name: str, table: dict[str, Any]) -> DetectorPreset:
    table = dict(table)
    shown = {key: table.pop(key) for key in ("label", "detector", "images")}
    rates, code = table.pop("rate"), table.pop("code", "")
    return DetectorPreset(name=name, rates=rates, code=code, parameters=table, **shown)


def _system(name: str, table: dict[str, Any], systems: dict[str, SystemPreset]) -> SystemPreset:
    base = systems.get(table.get("base", ""))
    detectors, reformer = table["detectors"], table.get("reformer", "")
    if base is not None:
        reformer = base.reformer
        added = detectors if isinstance(detectors, dict) else dict.fromkeys(base.detectors, detectors)
        detectors = {data: [*base.detectors[data], *names] for data, names in added.items()}
    shown = {key: table[key] for key in ("label", "group", "source", "adaptive")}
    unions = {data: tuple(names) for data, names in detectors.items()}
    return SystemPreset(name=name, reformer=reformer, detectors=unions, **shown)


_SYSTEM = {"label": str, "source": str, "adaptive": bool}
_OF_SYSTEM = {"base": str, "reformer": str, "group": str}
_DETECTOR = {"detector": str, "label": str, "images": int, "rate": dict}
_NUMBERS: dict[str, Any] = {"gate": float, "epochs": int, "batch_size": int, "lr": float}
_PART = {"part": str, "schedule": str, **_NUMBERS}


def _add(offer: Offer, presets: _Presets) -> None:
    """A plugin's system and its own detectors and parts, checked: tables like those of ``presets.toml``.

    Raises:
        PresetError: naming what is missing, wrong or there already.
    """
    name, where, table = offer
    check_keys(table, {"system": dict}, where, {"detectors": dict, "parts": dict})
    for dataset, parts in table.get("parts", {}).items():
        known = presets.parts.setdefault(dataset, {})
        for each, own in parts.items():
            known[each] = _part(each, _checked(own, f"{where}: part {each!r}", "part", _PART, each in known))
    for each, own in table.get("detectors", {}).items():
        told, there = f"{where}: detector {each!r}", each in presets.detectors
        presets.detectors[each] = made = _detector(each, _checked(own, told, "detector", _DETECTOR, there))
        _check_rates(made, told)
    system = {"group": "plugins", **table["system"]}
    _check_system(system, where, presets)
    presets.systems[name] = made_system = _system(name, system, presets.systems)
    for dataset, names in made_system.detectors.items():
        _check_union(made_system, dataset, names, where, presets)


def _checked(table: Any, where: str, key: str, required: dict[str, Any], there: bool) -> dict[str, Any]:
    """The table, with its class's recorded name and code."""
    if there:
        raise PresetError(f"{where} exists already: rename it")
    if isinstance(table, dict):  # other keys are hyperparameters
        check_keys({name: table[name] for name in required if name in table}, required, where, {})
    else:
        check_keys(table, required, where, {})
    code = code_hash(table[key], where)
    return {**table, key: recorded(table[key]), "code": code}


def _check_rates(detector: DetectorPreset, where: str) -> None:
    for dataset, rate in detector.rates.items():
        # An excess is measured from the threshold to the score that a tenth of natural images reach.
        if not isinstance(rate, float) or not 0 < rate < 0.1:
            raise PresetError(f"{where}: rate of {dataset} must be a share below 0.1, got {rate!r}")
    if detector.images < 0:
        raise PresetError(f"{where}: images must be 0 (all) or more, got {detector.images}")


def _check_system(table: dict[str, Any], where: str, presets: _Presets) -> None:
    """What must hold before it can be read."""
    detectors = table.get("detectors")
    shown = {key: value for key, value in table.items() if key != "detectors"}
    check_keys(shown, _SYSTEM, f"{where}: system", _OF_SYSTEM)
    if table["group"] not in GROUPS:
        raise PresetError(f"{where}: group must be one of {', '.join(GROUPS)}, got {table['group']!r}")
    base = table.get("base", "")
    if base and base not in presets.systems:
        raise PresetError(f"{where}: base {base!r} is no detector; known: {', '.join(presets.systems)}")
    if base and "reformer" in table:
        raise PresetError(f"{where}: the reformer is that of its base {base}: leave it out")
    lists = detectors if isinstance(detectors, dict) else {"": detectors} if base else {}
    if not lists or not all(isinstance(names, list) and names for names in lists.values()):
        form = "a dict of data set -> list of detectors"
        more = ", or one list for all of its base" if base else ""
        raise PresetError(f"{where}: system.detectors must be {form}{more}, got {detectors!r}")
    if base and isinstance(detectors, dict):
        known = presets.systems[base].detectors
        if strange := sorted(detectors.keys() - known.keys()):
            raise PresetError(f"{where}: {base} has no recipe for {strange[0]}; it knows {', '.join(known)}")


def _check_union(
    system: SystemPreset, dataset: str, names: tuple[str, ...], where: str, presets: _Presets
) -> None:
    """Raise PresetError unless all that a system needs on a data set is there."""
    needed = [system.reformer] if system.reformer else []
    for name in names:
        if name not in presets.detectors:
            known = ", ".join(presets.detectors)
            raise PresetError(f"{where}: {name!r} is none of the detectors {known}")
        detector = presets.detectors[name]
        if dataset not in detector.rates:
            raise PresetError(f"{where}: detector {name!r} has no rate for {dataset}: add it to its rate")
        needed += detector.parts
    for part in needed:
        if part not in presets.parts.get(dataset, {}):
            raise PresetError(f"{where}: there is no part {part!r} for {dataset}: add it to parts")


def build_detector(identity: dict[str, Any]) -> "Detector":
    """Return the detector that ``DetectorPreset.identity`` describes."""
    detector: Detector = _built(dict(identity), "detector")
    return detector


def build_part(identity: dict[str, Any]) -> "Part":
    """Return the part that ``PartPreset.identity`` describes."""
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in identity.items()}
    part: Part = _built(arguments, "part")
    return part


def _built(arguments: dict[str, Any], key: str) -> Any:
    arguments.pop("code", None)
    return load(str(arguments.pop(key)))(**arguments)
