"""Map labels in other people's files to the numbers of a data set's classes."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustness_bench.benchmark.data.base import DatasetInfo, Images, Labels
from robustness_bench.benchmark.data.images import wrong_size
from robustness_bench.benchmark.errors import DataError

Names = tuple[str, ...]


def class_number(name: str, classes: Names) -> int | None:
    """Return the number of a class from its name or number; of "n01443537 goldfish" the first word counts."""
    first = name.split()[0] if name.split() else ""
    for each in (name.strip(), first):
        if each in classes:
            return classes.index(each)
        if each.isascii() and each.isdecimal() and int(each) < len(classes):
            return int(each)
    lowered = [each.casefold() for each in classes]
    return lowered.index(name.strip().casefold()) if name.strip().casefold() in lowered else None


def numberings(
    named: Mapping[str, Names | None], classes: Names, dataset: str
) -> tuple[dict[str, list[int]], str]:
    """Return, for each file, the classes' numbers that its own numbers stand for, and a note.

    Names that the data set has are numbered as it numbers them; other names as the first file does.

    Args:
        named: file -> names in the order of its numbers, or None where it names none; training first.

    Returns:
        file -> numbers, for files that name classes; "" or a note.

    Raises:
        DataError: a name that cannot be mapped, or files without names beside others in another order.
    """
    known = {
        file: _known(file, names, classes, dataset) for file, names in named.items() if names is not None
    }
    foreign = [file for file, numbers in known.items() if numbers is None]
    if foreign and len(foreign) < len(known):
        other = next(file for file in known if file not in foreign)
        raise DataError(
            f"{foreign[0]} and {other} name different classes: leave out the file that does not belong"
        )
    maps = {file: numbers for file, numbers in known.items() if numbers is not None}
    note = ""
    if foreign:
        own = named[foreign[0]] or ()
        note = f"{foreign[0]} names classes of its own ({own[0]}, …), not {dataset}'s: its order is kept"
        maps = {file: _by_first(file, named[file] or (), foreign[0], own) for file in foreign}
    bare = [file for file, names in named.items() if names is None]
    turned = [file for file, numbers in maps.items() if numbers != list(range(len(numbers)))]
    if bare and turned:
        raise DataError(
            f"{turned[0]} names classes in another order than {dataset}, {bare[0]} names none: "
            "name the classes in both"
        )
    return maps, note


def _known(file: str, names: Names, classes: Names, dataset: str) -> list[int] | None:
    """Return the numbers of names that the data set has; None if it has none of them."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{file} names the class {twice[0]!r} twice; mend its names")
    numbers = [class_number(name, classes) for name in names]
    if all(number is None for number in numbers) and len(names) <= len(classes):
        return None
    if None in numbers:
        raise DataError(
            f"{file} names the class {names[numbers.index(None)]!r}, which {dataset} lacks; "
            "is --data-dir right? If so, leave the names out of the file"
        )
    if len(set(numbers)) < len(numbers):
        raise DataError(
            f"{file} has two names for one class of {dataset}: {', '.join(names)}; mend its names"
        )
    return [number for number in numbers if number is not None]


def _by_first(file: str, names: Names, first: str, own: Names) -> list[int]:
    for name in names:
        if name not in own:
            raise DataError(f"{file} names the class {name!r}, which {first} lacks; give both the same names")
    return [own.index(name) for name in names]


def numbers_of(values: Sequence[Any], classes: Names, dataset: str, where: str) -> list[int]:
    """Return whole numbers, floats that are whole, and names of classes, as numbers.

    Raises:
        DataError: anything else, named.
    """
    return [_number(value, classes, dataset, where) for value in values]


def _number(value: Any, classes: Names, dataset: str, where: str) -> int:
    if isinstance(value, str):
        number = class_number(value, classes)
        if number is None:
            raise DataError(f"{where} has the label {value!r}, no class of {dataset}; write its number")
        return number
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    shown = "missing labels" if value is None else f"the label {value!r}"
    raise DataError(f"{where} has {shown}; expected whole numbers from 0 to {len(classes) - 1}")


def renumbered(y: Labels, numbers: list[int] | None, where: str) -> Labels:
    """Return labels in the data set's numbering of classes.

    Raises:
        DataError: a label beyond the classes that the file names.
    """
    if numbers is None:
        return y
    if y.min() < 0 or y.max() >= len(numbers):
        raise DataError(
            f"{where} has labels {y.min()} to {y.max()} and names {len(numbers)} classes; name them all"
        )
    return np.asarray(numbers, dtype=np.int64)[y]


def check_split(x: Images, y: Labels, info: DatasetInfo, where: str) -> None:
    """Check what holds for every reader: as many labels as images, shapes, ranges.

    Raises:
        DataError: naming ``where`` it does not.
    """
    if len(x) != len(y):
        raise DataError(f"{where} holds {len(x)} images and {len(y)} labels; fetch both again")
    if len(x) == 0:
        raise DataError(f"{where} holds no images; fetch it again, or is --data-dir right?")
    shape = (info.channels, info.size, info.size)
    if x.shape[1:] != shape:
        raise wrong_size(where, (x.shape[-1], x.shape[-2]), info)
    if y.min() < 0 or y.max() >= info.classes:
        raise DataError(
            f"{where} has labels {y.min()} to {y.max()}, {info.name} has {info.classes} classes (0 to "
            f"{info.classes - 1}): is --data-dir right?"
        )
