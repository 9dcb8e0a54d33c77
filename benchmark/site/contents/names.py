"""What things are called on a page, and what their files are called."""

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from robustness_bench.attacks.registry import SETS, attack_names, attack_presets
from robustness_bench.benchmark.files import canonical_json, short_hash
from robustness_bench.benchmark.report.lines.results import sets_of
from robustness_bench.defenses.registry import defense_presets

OWN_SET = "other"
"""Stands for the parameter set of an attack whose parameters no named set has."""
_THREATS = {"white": "white box", "black": "black box"}
_PAPERS = (
    (re.compile(r"arXiv:(\d{4}\.\d{4,5})"), "https://arxiv.org/abs/{}"),
    (re.compile(r"openreview ([A-Za-z0-9_-]{6,})"), "https://openreview.net/forum?id={}"),
)
_ADDRESS = re.compile(r"https://[\w.-]+(/[^\s<>\"'\\]*)?")


class Shown(NamedTuple):
    """A defense or an attack as the registry has it; one that it lacks is shown by its name."""

    name: str
    label: str
    group: str
    source: str
    order: int


@cache
def _attacks() -> dict[str, Shown]:
    shown = {}
    for order, name in enumerate(attack_names()):
        preset = next(attack_presets(each)[name] for each in SETS if name in attack_presets(each))
        label = "Natural" if preset.kind == "natural" else preset.label
        shown[name] = Shown(name, label, preset.kind, preset.source, order)
    return shown


def defense(name: str) -> Shown:
    """The registry's, or the bare name."""
    presets = defense_presets()
    if name not in presets:
        return Shown(name, name, "other", "", len(presets))
    found = presets[name]
    return Shown(name, found.label, found.group, found.source, list(presets).index(name))


def attack(name: str) -> Shown:
    """The registry's, or the bare name."""
    return _attacks().get(name) or Shown(name, name, "other", "", len(_attacks()))


class Sets:
    """The parameter sets of records; equal attacks are looked up once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, ...]] = {}

    def of(self, spec: dict[str, Any]) -> tuple[str, ...]:
        """As ``sets_of``, but never empty."""
        key = canonical_json([spec["attack"], spec["norm"], spec["eps"], spec["parameters"]])
        if key not in self._known:
            self._known[key] = sets_of(spec) or (OWN_SET,)
        return self._known[key]


def set_text(name: str) -> str:
    """How a parameter set is spoken of."""
    return "parameters of no named set" if name == OWN_SET else f"{name} set"


def threat(name: str) -> str:
    """White box, in lower case."""
    return _THREATS.get(name, name)


def slug(*parts: str) -> str:
    """A file name of lower-case letters, digits and hyphens; a hash follows where it lost something."""
    text = "-".join(parts)
    plain = unicodedata.normalize("NFKD", text.casefold()).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^a-z0-9.]+", "-", plain).strip("-.").replace(".", "-")[:80]
    faithful = re.fullmatch(r"[a-z0-9.-]{1,80}", text) is not None
    return plain if faithful and plain else "-".join(filter(None, [plain, short_hash(text)[:6]]))


def paper(source: str) -> str:
    """The address of the first paper that a source names, the source itself if it is one, or nothing."""
    for pattern, address in _PAPERS:
        if match := pattern.search(source):
            return address.format(match[1])
    return source if _ADDRESS.fullmatch(source) else ""


def embedded(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element or start another."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def short_value(value: Any) -> str:
    """A setting in a few characters."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " ".join(map(short_value, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key -> short value."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = short_value(value)
    return flat


def thousands(number: int) -> str:
    """With a thin space every three digits."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
