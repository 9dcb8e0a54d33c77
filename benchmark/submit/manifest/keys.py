"""The keys of a ``submission.toml``: each value is parsed, and every problem named with its remedy."""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robustness_bench.benchmark.errors import BenchError, unknown
from robustness_bench.benchmark.submit.manifest.fields import authors, contact, licence, one_of, text
from robustness_bench.benchmark.submit.manifest.text import link, shown

MANIFEST = "submission.toml"
_SHOWN = 20  # unknown keys shown; the rest is counted


class ManifestError(BenchError):
    """All problems of a manifest, a line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(f"{MANIFEST}: {problem}" for problem in problems))
        self.problems = tuple(problems)


class Key(NamedTuple):
    """One key and its valid values."""

    parse: Callable[[Any], Any]
    fill: str
    """What to write, shown if it is empty."""
    default: Any = None
    """The default; None: it must be filled in."""


KIND = {"kind": Key(one_of(("defense", "attack"), "kind"), "", "defense")}
WHO = {
    "name": Key(text(80), "say what the row should be called"),
    "authors": Key(authors, 'name them: ["Ada Lovelace", "Alan Turing"]'),
    "paper": Key(link, "", ""),
    "code": Key(link, "", ""),
    "licence": Key(licence, 'write an SPDX name such as "MIT" (spdx.org/licenses)'),
    "contact": Key(contact, "write an e-mail address or a link"),
}
"""The keys that every submission has."""


def read_tree(folder: Path) -> dict[str, Any]:
    """Read the manifest in ``folder`` as a TOML tree.

    Raises:
        ManifestError: it is not TOML.
        BenchError: it is missing or not readable.
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
    """Return last part of a key -> its value, if valid; invalid ones are added to the problems.

    Args:
        free: the section that is checked elsewhere.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in sections:
            flat[key if "." not in key else f"{key}."] = value  # a quoted dot does not make a section
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
