"""TOML layers of a protocol: the built-in files, the user's, the options; later ones win."""

import itertools
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustness_bench.benchmark.errors import BenchError, check_known

DEFAULT = Path(__file__).parents[1] / "protocols" / "default.toml"
_SCHEDULES = Path(__file__).parents[1] / "schedules"
_FULL = "namid-paper"  # the schedule that names every key

Tree = dict[str, Any]


def read_toml(path: Path) -> Tree:
    """Return the content of a protocol file; BenchError if unreadable or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"cannot read --config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BenchError(f"--config {path} is not TOML: {error}") from error


def schedules() -> list[str]:
    """Return the names of the built-in training schedules."""
    return sorted(path.stem for path in _SCHEDULES.glob("*.toml"))


def schedule_texts() -> dict[str, str]:
    """Return name -> the description in its file's first lines."""
    texts = {}
    for name in schedules():
        lines = (_SCHEDULES / f"{name}.toml").read_text(encoding="utf-8").splitlines()
        comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
        texts[name] = " ".join(line.removeprefix("#").strip() for line in comment)
    return texts


def with_schedule(layers: Sequence[Tree], dataset: str) -> Tree:
    """Return all keys of one data set: its training schedule below the layers."""
    name = overlaid(layers, dataset)["schedule"]
    check_known("schedule", [str(name)], schedules())
    recipes = [read_toml(_SCHEDULES / f"{each}.toml") for each in (_FULL, name)]
    return overlaid([*recipes, *layers], dataset)


def overlaid(layers: Sequence[Tree], dataset: str = "") -> Tree:
    """Merge layers, later over earlier; within a layer, a data set's section over the general ones."""
    tree: Tree = {}
    for layer in layers:
        tree = merged(tree, {key: value for key, value in layer.items() if key != "dataset"})
        tree = merged(tree, layer.get("dataset", {}).get(dataset, {}))
    return tree


def merged(base: Tree, layer: Mapping[str, Any]) -> Tree:
    """Return ``base`` with the values of ``layer``; tables are merged key by key.

    Raises:
        BenchError: a table in place of a value, or a value in place of a table.
    """
    tree = dict(base)
    for key, value in layer.items():
        table = isinstance(value, Mapping)
        if key in base and table != isinstance(base[key], Mapping):
            raise BenchError(f"{key} must be {'no' if table else 'a'} table, got {value!r}")
        tree[key] = merged(base.get(key, {}), value) if table else value
    return tree


def _quoted(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def to_toml(tree: Tree, path: str = "") -> str:
    """Return a nested table of texts, numbers, truths and lists as TOML."""
    plain = {key: value for key, value in tree.items() if not isinstance(value, dict)}
    lines = [f"{_quoted(key)} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items()]
    for key, value in tree.items():
        if isinstance(value, dict):
            section = f"{path}{_quoted(key)}"
            inner = to_toml(value, f"{section}.")
            own = any(not isinstance(each, dict) for each in value.values())
            lines += ["", f"[{section}]", inner] if own else [inner]
    return "\n".join(lines).strip("\n") + ("" if path else "\n")
