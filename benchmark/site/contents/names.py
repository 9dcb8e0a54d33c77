"""Names of things on a page, and names of their files."""

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from robustness_bench.attacks.registry import SETS, attack_place, attack_preset
from robustness_bench.benchmark.files import canonical_json, short_hash
from robustness_bench.benchmark.report.lines.results import sets_of
from robustness_bench.defenses.registry import defense_presets

OWN_SET = "other"
"""The parameter set of an attack whose parameters are in no named set."""
_THREATS = {"white": "white box", "black": "black box"}
_PAPERS = (
    (re.compile(r"arXiv:(\d{4}\.\d{4,5})"), "https://arxiv.org/abs/{}"),
    (re.compile(r"openreview ([A-Za-z0-9_-]{6,})"), "https://openreview.net/forum?id={}"),
)
_ADDRESS = re.compile(r"https://[\w.-]+(/[^\s<>\"'\\]*)?")


class Shown(NamedTuple):
    """How a defense or an attack is shown: as in the registry, or by its bare name if it is not there."""

    name: str
    label: str
    group: str
    source: str
    order: Any
    """Its place among those of its kind; such values can be compared."""


def defense(name: str) -> Shown:
    """Return the registry's entry, or the bare name."""
    presets = defense_presets()
    if name not in presets:
        return Shown(name, name, "other", "", len(presets))
    found = presets[name]
    return Shown(name, found.label, found.group, found.source, list(presets).index(name))


@cache
def attack(name: str) -> Shown:
    """Return the registry's entry, or the bare name."""
    preset = next((found for each in SETS if (found := attack_preset(name, each))), None)
    if preset is None:
        return Shown(name, name, "other", "", attack_place(name))
    label = "Natural" if preset.kind == "natural" else preset.label
    return Shown(name, label, preset.kind, preset.source, attack_place(name))


def attack_key(spec: dict[str, Any]) -> str:
    """Return what decides a record's parameter sets, as JSON."""
    return canonical_json({key: spec[key] for key in ("attack", "norm", "eps", "parameters")})


def sets(attack: str) -> tuple[str, ...]:
    """Return the parameter sets of an ``attack_key`` (``sets_of``), but never an empty tuple."""
    return sets_of(json.loads(attack)) or (OWN_SET,)


def set_text(name: str) -> str:
    return "parameters of no named set" if name == OWN_SET else f"{name} set"


def threat(name: str) -> str:
    """Return the threat in lower case, like "white box"."""
    return _THREATS.get(name, name)


def slug(*parts: str) -> str:
    """Return a file name of lower-case letters, digits and hyphens, with a hash if characters were lost."""
    text = "-".join(parts)
    plain = unicodedata.normalize("NFKD", text.casefold()).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^a-z0-9.]+", "-", plain).strip("-.").replace(".", "-")[:80]
    faithful = re.fullmatch(r"[a-z0-9.-]{1,80}", text) is not None
    return plain if faithful and plain else "-".join(filter(None, [plain, short_hash(text)[:6]]))


def paper(source: str) -> str:
    """Return the address of the first paper that a source names (or the source, if it is one), or ""."""
    for pattern, address in _PAPERS:
        if match := pattern.search(source):
            return address.format(match[1])
    return source if _ADDRESS.fullmatch(source) else ""


def embedded(value: Any) -> str:
    """Return JSON that is safe in a script element: it cannot end the element or start another."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def short_value(value: Any) -> str:
    """Return a setting in a few characters."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " ".join(map(short_value, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return dotted key -> short value."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = short_value(value)
    return flat


def thousands(number: int) -> str:
    """Return the number with a thin space every three digits."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def listed(words: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
