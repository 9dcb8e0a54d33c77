"""The command line that produces what a table or a figure lacks."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from robustness_bench.benchmark.cli.shared.options import Request
from robustness_bench.benchmark.mirror import place

_OF_CELLS = ("defense", "dataset", "norm", "threat", "attacks", "seeds", "curve", "kappa")


def command_line(request: Request, verb: str, cells: Mapping[str, Iterable[object]] | None = None) -> str:
    """Return ``bench VERB`` with the options that were given; those that name cells can be replaced.

    Args:
        cells: flag -> values, in place of what was given to name cells.
    """
    words = ["bench", verb]
    for name, values in (cells or {}).items():
        words += [name, ",".join(dict.fromkeys(map(str, values)))]
    for each in given(request):
        value = getattr(request, each.name)
        if not (cells and each.name in _OF_CELLS):
            words += _words(flag(each.type), value)
    return shlex.join(words)


def given(request: Request) -> "list[Field[Any]]":
    """Return the fields of the options that were given."""
    return [each for each in fields(Request) if getattr(request, each.name) != each.default]


def flag(annotation: Any) -> str:
    """Return the option's name on the command line; typer keeps an annotation's first name as its default."""
    option = annotation.__metadata__[0]
    names: list[str] = [option.default, *option.param_decls]
    return names[0]


def _words(flag: str, value: object) -> list[str]:
    if value is True:
        return [flag]
    if isinstance(value, list):
        return [word for each in value for word in (flag, str(each))]
    return [flag, place(value) if isinstance(value, Path) else str(value)]
