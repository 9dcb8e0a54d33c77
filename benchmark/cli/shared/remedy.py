"""The command line that produces what a table or a figure lacks."""

import shlex
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from robustness_bench.benchmark.cli.shared.options import Request


def command_line(request: Request, verb: str, options: Mapping[str, str], without: Collection[str]) -> str:
    """Return ``bench VERB`` with these options, then all others that were given.

    Args:
        options: flag -> value.
        without: the request's fields that the options replace.
    """
    words = ["bench", verb, *(word for option in options.items() for word in option)]
    for each in fields(Request):
        value = getattr(request, each.name)
        if each.name not in without and value != each.default:
            words += _words(flag(each.type), value)
    return shlex.join(words)


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
    return [flag, str(value)]
