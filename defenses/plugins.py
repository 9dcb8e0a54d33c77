"""What comes from outside in a file: a defense, which is one class, or what its OFFERS name."""

import hashlib
import importlib.util
import inspect
import json
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from robustness_bench.attacks.plugins import (
    OF_FILES,
    FilePoint,
    Offer,
    PresetError,
    file_points,
    offer_from_file,
)

if TYPE_CHECKING:
    from robustness_bench.defenses.base import Defense

_loaded: dict[str, "type[Defense]"] = {}  # loaded by --plugin in this process


def loaded_classes() -> dict[str, "type[Defense]"]:
    """Return name -> class of the plugin files loaded so far."""
    return _loaded


def load_plugin(path: Path) -> str:
    """Run the file at ``path`` and register what it offers; a worker does so again by itself.

    A file defines one Defense class, or ``OFFERS``: what an installed package would register, by the group of
    entry points (``attacks.plugins.OF_FILES``).

    Returns:
        The defense's name, or the detector's: the file's, with hyphens. Empty where it offers neither.

    Raises:
        PresetError: not a Python file that can be run, or neither exactly one usable defense nor OFFERS in
            it, or the name of another file's.
    """
    if path.suffix != ".py" or not path.is_file():
        raise PresetError(f"--plugin {path} is not a Python file: give a .py file with one Defense class")
    name = path.stem.replace("_", "-")
    if name in _loaded and _file(_loaded[name]).resolve() != path.resolve():
        other = _file(_loaded[name])
        raise PresetError(f"--plugin {path} offers defense {name!r}, as {other} does: rename one of them")
    module = _run(path)
    if "OFFERS" in vars(module):
        return _offer(name, path, module)
    found = dict.fromkeys(each for each in vars(module).values() if _is_defense(each))
    own = [each for each in found if each.__module__ == module.__name__]
    if len(own) != 1:
        names = ", ".join(each.__name__ for each in own) or "none"
        raise PresetError(
            f"--plugin {path} must define exactly one Defense class, it has {names}; a data set, network or "
            "detector is named in OFFERS"
        )
    _check(own[0], f"--plugin {path}")
    _loaded[name] = own[0]
    return name


class _AsItIs(SourceFileLoader):
    """Compiles the file that is there, without Python's bytecode cache.

    The cache knows a file by its size and the second of its last change: ``2.0`` made ``3.0`` within a second
    would run as 2.0 under the id of 3.0.
    """

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _run(path: Path) -> ModuleType:
    module_name = f"bench_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path, loader=_AsItIs(module_name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # its classes are imported by this name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise PresetError(f"--plugin {path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def _offer(name: str, path: Path, module: ModuleType) -> str:
    """Register a file's OFFERS under its name; "" unless a detector is among them."""
    offered: Any = vars(module)["OFFERS"]
    groups = ", ".join(OF_FILES)
    if not isinstance(offered, dict) or not offered:
        raise PresetError(f"--plugin {path}: OFFERS must be a dict with keys of {groups}, got {offered!r}")
    if strange := [group for group in offered if group not in OF_FILES]:
        raise PresetError(f"--plugin {path}: OFFERS has the unknown key {strange[0]!r}; known: {groups}")
    resolved = str(path.resolve())
    for group, value in offered.items():
        for point in file_points(group):
            if point.name == name and point.value != resolved:
                raise PresetError(
                    f"--plugin {path} offers {name!r}, as {point.value} does: rename one of them"
                )
        code = hashlib.sha256(path.read_bytes()).hexdigest()
        offer_from_file(group, FilePoint(name=name, value=resolved, code=code, found=value))
    return name if "bench.detectors" in offered else ""


def offered_class(offer: Offer) -> "type[Defense]":
    """The class that an entry point of the group ``bench.defenses`` names.

    Raises:
        PresetError: it is no usable defense.
    """
    if not _is_defense(offer.value):
        raise PresetError(f"{offer.where} must be a concrete Defense class, got {offer.value!r}")
    _check(offer.value, offer.where)
    return offer.value  # type: ignore[no-any-return]


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
