"""The named parts, detectors and systems of ``presets.toml``. Needs no torch: planning is instant."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness_bench.attacks.class_names import load

if TYPE_CHECKING:
    from robustness_bench.defenses.detectors.base import Detector
    from robustness_bench.defenses.detectors.parts import Part

_ROLES = ("autoencoder", "generator")  # the hyperparameters that name parts
_RECIPE = ("epochs", "batch_size", "lr", "schedule")


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

    def identity(self) -> dict[str, Any]:
        """Return what of the network and its loss enters the task id."""
        return {"part": self.part, **self.parameters}


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

    def identity(self) -> dict[str, Any]:
        """Return what enters the task id."""
        return {"detector": self.detector, **self.parameters}

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts it uses."""
        return tuple(self.parameters[role] for role in _ROLES if role in self.parameters)


@dataclass(frozen=True, kw_only=True)
class SystemPreset:
    """A union of detectors and a reformer, around any classifier.

    Attributes:
        group: magnet, mi or control.
        adaptive: whether it is also attacked adaptively.
        reformer: the part that images pass through before they are classified.
        detectors: data set -> names; a data set without an entry has no recipe.
    """

    name: str
    label: str
    group: str
    source: str
    adaptive: bool
    reformer: str
    detectors: dict[str, tuple[str, ...]]


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "presets.toml").read_text(encoding="utf-8"))


@cache
def part_presets(dataset: str) -> dict[str, PartPreset]:
    """Return name -> part for one data set; empty if it has no recipe."""
    return {name: _part(name, dict(table)) for name, table in _tables()["parts"].get(dataset, {}).items()}


def _part(name: str, table: dict[str, Any]) -> PartPreset:
    recipe = {key: table.pop(key) for key in _RECIPE}
    gate, part = table.pop("gate"), table.pop("part")
    return PartPreset(name=name, part=part, parameters=table, recipe=recipe, gate=gate)


@cache
def detector_presets() -> dict[str, DetectorPreset]:
    """Return name -> detector."""
    return {name: _detector(name, dict(table)) for name, table in _tables()["detectors"].items()}


def _detector(name: str, table: dict[str, Any]) -> DetectorPreset:
    shown = {key: table.pop(key) for key in ("label", "detector", "images")}
    return DetectorPreset(name=name, rates=table.pop("rate"), parameters=table, **shown)


@cache
def system_presets() -> dict[str, SystemPreset]:
    """Return name -> system, in the order of the tables' rows."""
    systems: dict[str, SystemPreset] = {}
    for name, table in _tables()["systems"].items():
        base = systems.get(table.get("base", ""))
        detectors, reformer = table["detectors"], table.get("reformer", "")
        if base is not None:
            reformer = base.reformer
            added = detectors if isinstance(detectors, dict) else dict.fromkeys(base.detectors, detectors)
            detectors = {data: [*base.detectors[data], *names] for data, names in added.items()}
        shown = {key: table[key] for key in ("label", "group", "source", "adaptive")}
        unions = {data: tuple(names) for data, names in detectors.items()}
        systems[name] = SystemPreset(name=name, reformer=reformer, detectors=unions, **shown)
    return systems


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
    return load(str(arguments.pop(key)))(**arguments)
