"""What installed packages and plugin files offer, and what code they bring; imports no torch."""

import hashlib
import importlib.util
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

OF_FILES = ("bench.datasets", "bench.models", "bench.detectors")
"""The groups of entry points that a plugin file may fill too; a defense in a file is its class alone."""
Item = TypeVar("Item")


class PresetError(ValueError):
    """What a registry or a plugin offers is not what it should be: one line that names it and the fault."""


class Offer(NamedTuple):
    """What an entry point names."""

    name: str
    where: str
    """What errors call it."""
    value: Any


@dataclass(frozen=True)
class FilePoint:
    """What a plugin file offers, in the form of an entry point."""

    name: str
    value: str
    """The file."""
    code: str
    """Hash of the file: another content is another offer."""
    found: Any = field(compare=False)

    def load(self) -> Any:
        return self.found


_files: dict[str, dict[str, FilePoint]] = {}


def offer_from_file(group: str, point: FilePoint) -> None:
    """Make what a file offers known in this process."""
    _files.setdefault(group, {})[point.name] = point


def file_points(group: str) -> tuple[FilePoint, ...]:
    """What the files loaded so far offer."""
    return tuple(_files.get(group, {}).values())


class Registry(Mapping[str, Item]):
    """Name -> item of one kind: our own, then what plugins offer, which is read when first looked at.

    Args:
        group: of the entry points.
        kind: for errors.
        own: those that come with the package.
        accept: offer -> item, or a PresetError that says what is wrong with it.
    """

    def __init__(
        self, group: str, kind: str, own: Mapping[str, Item], accept: Callable[[Offer], Item]
    ) -> None:
        self.group, self.kind, self.own = group, kind, own
        self._accept = accept
        self._known: tuple[tuple[FilePoint, ...], dict[str, Item]] | None = None

    def _items(self) -> dict[str, Item]:
        files = file_points(self.group)
        if self._known is None or self._known[0] != files:
            items = dict(self.own)
            points = [*entry_points(group=self.group), *files]
            for offer in offers(points, self.kind, items):
                items[offer.name] = self._accept(offer)
            self._known = files, items
        return self._known[1]

    def __getitem__(self, name: str) -> Item:
        return self._items()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items())

    def __len__(self) -> int:
        return len(self._items())


def offers(points: Iterable[EntryPoint | FilePoint], kind: str, taken: Container[str]) -> Iterator[Offer]:
    """Each entry point of one group, by name.

    Args:
        kind: what the group holds, for errors.
        taken: names that no plugin may have; may grow while the offers are read.

    Raises:
        PresetError: a name that is taken, or what cannot be imported.
    """
    for point in sorted(points, key=lambda point: point.name):
        if point.name in taken:
            raise PresetError(f"the plugin {point.value} offers {kind} {point.name!r}, which exists already")
        where = f"{kind} {point.name!r} of the plugin {point.value}"
        try:
            value = point.load()
        except Exception as error:
            raise PresetError(f"{where} cannot be loaded: {error}") from error
        yield Offer(point.name, where, value)


def check_keys(table: Any, required: Mapping[str, type], where: str, optional: Mapping[str, type]) -> None:
    """Raise PresetError unless ``table`` is a dict with every required key, no other, each of its type."""
    if not isinstance(table, dict):
        raise PresetError(f"{where} must be a dict, got {table!r}")
    if missing := sorted(required.keys() - table.keys()):
        raise PresetError(f"{where} lacks {', '.join(missing)}")
    known = {**required, **optional}
    if unknown := sorted(str(key) for key in table.keys() - known.keys()):
        raise PresetError(f"{where} has the unknown key {', '.join(unknown)}; known: {', '.join(known)}")
    for key, value in table.items():
        if not isinstance(value, known[key]):
            raise PresetError(f"{where}: {key} must be of type {known[key].__name__}, got {value!r}")


def code_hash(name: str, where: str) -> str:
    """SHA-256 of the file in which a class or function ``module:Name`` stands; the module is not run.

    Changed code gives other results, so the hash belongs into their ids.

    Raises:
        PresetError: no such module, or one without a Python file.
    """
    module, colon, kind = name.partition(":")
    if not (colon and kind):
        raise PresetError(f'{where} must name its code as "module:Name", got {name!r}')
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise PresetError(f"{where}: {name} cannot be found: {error}") from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise PresetError(f"{where}: {name} cannot be found: there is no Python file of the module {module}")
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
