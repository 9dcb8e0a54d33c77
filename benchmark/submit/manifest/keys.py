"""The keys of a ``submission.toml``: read as data, each parsed, every problem named with its remedy."""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robustness_bench.benchmark.errors import BenchError, unknown
from robustness_bench.benchmark.submit.manifest.fields import authors, contact, licence, one_of, text
from robustness_bench.benchmark.submit.manifest.text import link, shown

MANIFEST = "submission.toml"
_SHOWN = 20  # unknown keys, the rest is counted


class ManifestError(BenchError):
    """All that is wrong with a manifest, a line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(f"{MANIFEST}: {problem}" for problem in problems))
        self.problems = tuple(problems)


class Key(NamedTuple):
    """What one key may be."""

    parse: Callable[[Any], Any]
    fill: str
    """What to write, for one who left it empty."""
    default: Any = None
    """None: it must be filled in."""


KIND = {"kind": Key(one_of(("defense", "attack"), "kind"), "", "defense")}
WHO = {
    "name": Key(text(80), "say what the row is to be called"),
    "authors": Key(authors, 'name them: ["Ada Lovelace", "Alan Turing"]'),
    "paper": Key(link, "", ""),
    "code": Key(link, "", ""),
    "licence": Key(licence, 'write an SPDX name such as "MIT" (spdx.org/licenses)'),
    "contact": Key(contact, "write an e-mail address or a link"),
}
"""Keys of every submission."""


def read_tree(folder: Path) -> dict[str, Any]:
    """The manifest in ``folder`` as TOML has it.

    Raises:
        ManifestError: not TOML.
        BenchError: not there, or not readable.
    """
    try:
        return tomllib.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"cannot read {MANIFEST}: {error.strerror}; bench submit init writes one") from error
    except UnicodeDecodeError as error:
        raise ManifestError(["is not UTF-8: save it as UTF-8 text"]) from error
    except RecursionError as error:
        raise ManifestError(["is nested too deeply: bench submit init writes a fresh one"]) from error
    except ValueError as error:
        raise ManifestError([f"is not TOML: {shown(str(error))}; fix that line"]) from error


def values_of(
    tree: dict[str, Any],
    keys: Mapping[str, Key],
    sections: Sequence[str],
    problems: list[str],
    free: str = "",
) -> dict[str, Any]:
    """Last part of a key -> its value, of those that are sound; what is not is added to the problems.

    Args:
        free: the section that is looked at elsewhere.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in sections:
            flat[key if "." not in key else f"{key}."] = value  # a dot in quotes is no section
        elif not isinstance(value, dict):
            problems.append(f"{key} must be a section [{key}], got {shown(value)}")
        elif key != free:
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
    strays = [key for key in flat if key not in keys]
    problems += [_stray(key, keys, sections) for key in strays[:_SHOWN]]
    if len(strays) > _SHOWN:
        problems.append(f"{len(strays) - _SHOWN} more unknown keys: bench submit init writes a fresh file")
    values = {}
    for key, rule in keys.items():
        value = flat.get(key, "")
        if value not in ("", []):
            try:
                values[key.rpartition(".")[2]] = rule.parse(value)
            except ValueError as error:
                problems.append(f"{key} {error}")
        elif rule.default is None:
            problems.append(f"{key} is {'empty' if key in flat else 'missing'}: {rule.fill}")
        else:
            values[key.rpartition(".")[2]] = rule.default
    return values


def _stray(key: str, keys: Mapping[str, Key], sections: Sequence[str]) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", key):
        return f"unknown key {shown(key)}: delete it"
    full = {rule.rpartition(".")[2]: rule for rule in keys}
    last = key.rpartition(".")[2]
    if last in full:
        place, _, _ = full[last].rpartition(".")
        return f"unknown key {key!r}: {last} stands {f'under [{place}]' if place else 'above all sections'}"
    return str(unknown("key", key, [*keys, *sections]))
