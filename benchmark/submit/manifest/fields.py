"""Parsers of a manifest's values: each returns the value or raises a ValueError that says what to fix."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from robustness_bench.benchmark.errors import unknown
from robustness_bench.benchmark.submit.manifest.text import link, plain, shown


def one_of(known: Mapping[str, object] | tuple[str, ...], kind: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            if isinstance(value, str) and value.isascii() and value.isprintable() and len(value) <= 40:
                raise ValueError(f"is an {unknown(kind, value, known)}")
            raise ValueError(f"must be one of {', '.join(known)}, got {shown(value)}")
        return value

    return parse


def names(known: tuple[str, ...], kind: str) -> Callable[[Any], tuple[str, ...]]:
    """Return a parser for a list of some of the known names, each once."""
    one = one_of(known, kind)

    def parse(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > len(known):
            raise ValueError(f'must be a list such as ["{known[0]}"], got {shown(value)}')
        return tuple(dict.fromkeys(one(each) for each in value))

    return parse


def whole(least: int, most: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}, got {shown(value)}")
        return value

    return parse


def truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false without quotes, got {shown(value)}")
    return value


def text(longest: int, **allowed: bool) -> Callable[[Any], str]:
    return lambda value: plain(value, longest, **allowed)


def authors(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > 100:
        raise ValueError(f'must be a list of up to 100 names such as ["Ada Lovelace"], got {shown(value)}')
    return tuple(plain(name, 80) for name in value)


def licence(value: Any) -> str:
    text = plain(value, 80)
    if not re.fullmatch(r"[A-Za-z0-9.+()-]+( (AND|OR|WITH) [A-Za-z0-9.+()-]+)*", text):
        raise ValueError(f'{shown(text)} is no SPDX name: write one such as "MIT" (spdx.org/licenses)')
    return text


def contact(value: Any) -> str:
    text = plain(value, 120)
    if re.fullmatch(r"[^\s@]+@[^\s@]+\.[^\s@]+", text):
        return text
    try:
        return link(text)
    except ValueError as error:
        raise ValueError(f"{shown(text)} is neither an e-mail address nor an https link") from error


def file(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(
        r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}\.safetensors", value
    ):
        raise ValueError(
            f"must be the plain name of a .safetensors file next to submission.toml, got {shown(value)}: "
            "letters, digits, dots, hyphens and underscores only"
        )
    return value


def sha256(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise ValueError(f"must be 64 hexadecimal digits, got {shown(value)}: sha256sum prints them")
    return value.lower()
