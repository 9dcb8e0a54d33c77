"""Defenses from outside: a file with one class, or a class that an installed entry point names."""

import hashlib
import importlib.util
import inspect
import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness_bench.attacks.registry import PresetError

if TYPE_CHECKING:
    from robustness_bench.defenses.base import Defense

_loaded: dict[str, "type[Defense]"] = {}  # loaded by --plugin in this process


def loaded_classes() -> dict[str, "type[Defense]"]:
    """Return name -> class of the plugin files loaded so far."""
    return _loaded


def load_plugin(path: Path) -> str:
    """Run the file at ``path`` and register its one defense; each worker process repeats this.

    Returns:
        The defense's name: the file's name, with hyphens.

    Raises:
        PresetError: not a Python file that can be run, not exactly one usable defense in it, or a name
            that another file already has.
    """
    if path.suffix != ".py" or not path.is_file():
        raise PresetError(f"--plugin {path} is not a Python file: give a .py file with one Defense class")
    name = path.stem.replace("_", "-")
    if name in _loaded and _file(_loaded[name]).resolve() != path.resolve():
        other = _file(_loaded[name])
        raise PresetError(f"--plugin {path} offers defense {name!r}, as {other} does: rename one of them")
    module_name = f"bench_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # build_defense imports it by this name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise PresetError(f"--plugin {path} cannot be loaded: {type(error).__name__}: {error}") from error
    found = dict.fromkeys(each for each in vars(module).values() if _is_defense(each))
    own = [each for each in found if each.__module__ == module_name]
    if len(own) != 1:
        names = ", ".join(each.__name__ for each in own) or "none"
        raise PresetError(f"--plugin {path} must define exactly one Defense class, it has {names}")
    _check(own[0], f"--plugin {path}")
    _loaded[name] = own[0]
    return name


def load_entry_point(point: EntryPoint) -> "type[Defense]":
    """Return the class that an entry point of the group ``bench.defenses`` names.

    Raises:
        PresetError: it cannot be imported, or is not a usable defense.
    """
    where = f"defense {point.name!r} of the plugin {point.value}"
    try:
        defense = point.load()
    except Exception as error:
        raise PresetError(f"{where} cannot be loaded: {error}") from error
    if not _is_defense(defense):
        raise PresetError(f"{where} must be a concrete Defense class, got {defense!r}")
    _check(defense, where)
    return defense  # type: ignore[no-any-return]


def source_hash(defense: "type[Defense]") -> str:
    """Return the SHA-256 of the file that holds the class: changed code counts as another defense."""
    return hashlib.sha256(_file(defense).read_bytes()).hexdigest()


def _file(defense: "type[Defense]") -> Path:
    file = inspect.getsourcefile(defense)
    assert file is not None
    return Path(file)


def _is_defense(value: Any) -> bool:
    from robustness_bench.defenses.base import Defense

    return inspect.isclass(value) and issubclass(value, Defense) and not inspect.isabstract(value)


def _check(defense: "type[Defense]", where: str) -> None:
    """Raise PresetError unless it can be built without arguments and its hyperparameters be stored."""
    try:
        values = vars(defense())
    except Exception as error:
        raise PresetError(
            f"{where}: {defense.__name__}() cannot be built: {error}; every field needs a default, and the "
            "class needs @dataclass(frozen=True, kw_only=True)"
        ) from error
    for key, value in values.items():
        if _is_defense(type(value)):
            continue
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise PresetError(
                f"{where}: {key} = {value!r} cannot be stored; hyperparameters are finite numbers, "
                "strings, booleans or lists of them"
            ) from error
    unknown = set(defense.requires) - {"estimators"}
    if unknown:
        raise PresetError(f'{where}: requires may hold "estimators" only, got {", ".join(sorted(unknown))}')
