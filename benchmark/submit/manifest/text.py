"""Untrusted text, links and numbers: accepted values are safe to show on a page."""

import re
import unicodedata
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.models import shown

_NOT_TEXT = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
)  # letters that are drawn as nothing
_MARKUP = frozenset("<>&")
_LONGEST_LINK, _LONGEST_SLUG = 300, 60
_LARGEST = 1e6


def plain(value: object, longest: int, *, markup: bool = False, lines: bool = False) -> str:
    """Return ``value`` if it is text without hidden content: stripped, in Unicode's composed form.

    Args:
        markup: whether it may contain <, > and &.
        lines: whether it may have more than one line.

    Raises:
        ValueError: it is not text, blank, too long, or has rejected characters; says which.
    """
    if not isinstance(value, str):
        raise ValueError(f"must be text in quotes, got {shown(value)}")
    text = unicodedata.normalize("NFC", value.strip())
    for sign in text:
        if sign in _MARKUP and not markup:
            raise ValueError(f"has {sign!r} in it: <, > and & are rejected, write plain text")
        if not (lines and sign == "\n") and (unicodedata.category(sign) in _NOT_TEXT or sign in _INVISIBLE):
            raise ValueError(f"has the control or invisible character U+{ord(sign):04X} in it: delete it")
    if not text:
        raise ValueError("is blank: write some text")
    if len(text) > longest:
        raise ValueError(f"has {len(text)} characters: shorten it to {longest}")
    return text


def link(value: object) -> str:
    """Return an http or https address; ValueError for anything else, or one with a password."""
    if not isinstance(value, str):
        raise ValueError(f"must be a link in quotes, got {shown(value)}")
    if len(value) > _LONGEST_LINK:
        raise ValueError(f"has {len(value)} characters: use a link of at most {_LONGEST_LINK}")
    if not re.fullmatch(r"[!#-;=?-\[\]-_a-z~]*", value):
        raise ValueError(f"{shown(value)} has a character that links may not have: percent-encode it")
    try:
        parts = urlsplit(value)
        host, secret = parts.hostname, parts.username is not None or parts.password is not None
    except ValueError as error:
        raise ValueError(f"{shown(value)} is no link ({error}): copy it from the browser") from error
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{shown(value)} is not an http or https link: start it with https://")
    if secret:
        raise ValueError("has a user name or password in it: take it out")
    return value


def fraction(value: object) -> float:
    """Return a number above 0, given as one or as a quoted fraction such as "8/255"; else ValueError."""
    number = 0.0
    if isinstance(value, str):
        parts = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,12})?)(?:/([1-9][0-9]{0,5}))?", value.replace(" ", ""))
        number = float(parts[1]) / int(parts[2] or 1) if parts else 0.0
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _LARGEST:
        number = float(value)
    if not number > 0:
        raise ValueError(f'must be a number above 0 or a fraction such as "8/255", got {shown(value)}')
    return number


def percentage(value: object) -> float:
    """Return an accuracy in %; ValueError unless it is a number from 0 to 100."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise ValueError(f"must be a number from 0 to 100 (%), got {shown(value)}")
    return float(value)


def slug_of(name: str) -> str:
    """Return ``name`` for file names and URLs: 1 to 60 characters of a-z, 0-9 and single hyphens."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", letters).strip("-")[:_LONGEST_SLUG].strip("-")
    return slug or f"defense-{short_hash(name)}"


def text(longest: int, **allowed: bool) -> BeforeValidator:
    """Return a check for ``plain`` text."""
    return BeforeValidator(lambda value: plain(value, longest, **allowed))


def _licence(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.+()-]+( (AND|OR|WITH) [A-Za-z0-9.+()-]+)*", text):
        raise ValueError(f'{shown(text)} is no SPDX name: write one such as "MIT" (spdx.org/licenses)')
    return text


def _contact(text: str) -> str:
    if re.fullmatch(r"[^\s@]+@[^\s@]+\.[^\s@]+", text):
        return text
    try:
        return link(text)
    except ValueError as error:
        raise ValueError(f"{shown(text)} is neither an e-mail address nor an https link") from error


def _file(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}\.safetensors", name):
        raise ValueError(
            f"must be the plain name of a .safetensors file next to submission.toml, got {shown(name)}: "
            "letters, digits, dots, hyphens and underscores only"
        )
    return name


def _sha256(value: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise ValueError(f"must be 64 hexadecimal digits, got {shown(value)}: sha256sum prints them")
    return value.lower()


Name = Annotated[str, text(80)]
Prose = Annotated[str, BeforeValidator(lambda value: value and plain(value, 2000, markup=True, lines=True))]
Link = Annotated[str, BeforeValidator(lambda value: value and link(value))]
"""Like prose, may be empty."""
Licence = Annotated[str, text(80), AfterValidator(_licence)]
Contact = Annotated[str, text(120), AfterValidator(_contact)]
WeightsFile = Annotated[str, AfterValidator(_file)]
Sha256 = Annotated[str, AfterValidator(_sha256)]
Eps = Annotated[float, BeforeValidator(fraction)]
Percentage = Annotated[float, BeforeValidator(percentage)]
