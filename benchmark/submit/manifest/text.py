"""Text, links and numbers from strangers: what is let through may be shown on a page."""

import re
import unicodedata
from urllib.parse import urlsplit

from robustness_bench.benchmark.files import short_hash

_NOT_TEXT = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # drawn as nothing, yet letters
_MARKUP = frozenset("<>&")
_LONGEST_LINK, _LONGEST_SLUG = 300, 60
_LARGEST = 1e6


def plain(value: object, longest: int, *, markup: bool = False, lines: bool = False) -> str:
    """``value``, if it is text that shows what it holds: stripped, in Unicode's composed form.

    Args:
        markup: whether <, > and & may be in it.
        lines: whether it may have more than one line.

    Raises:
        ValueError: no text, blank, too long, or with signs that are refused; says which.
    """
    if not isinstance(value, str):
        raise ValueError(f"must be text in quotes, got {shown(value)}")
    text = unicodedata.normalize("NFC", value.strip())
    for sign in text:
        if sign in _MARKUP and not markup:
            raise ValueError(f"has {sign!r} in it: <, > and & are refused, write plain text")
        if not (lines and sign == "\n") and (unicodedata.category(sign) in _NOT_TEXT or sign in _INVISIBLE):
            raise ValueError(f"has the control or invisible character U+{ord(sign):04X} in it: delete it")
    if not text:
        raise ValueError("is blank: write some text")
    if len(text) > longest:
        raise ValueError(f"has {len(text)} characters: shorten it to {longest}")
    return text


def link(value: object) -> str:
    """An http or https address.

    Raises:
        ValueError: anything else, or one with a password in it.
    """
    if not isinstance(value, str):
        raise ValueError(f"must be a link in quotes, got {shown(value)}")
    if len(value) > _LONGEST_LINK:
        raise ValueError(f"has {len(value)} characters: use a link of at most {_LONGEST_LINK}")
    if not re.fullmatch(r"[!#-;=?-\[\]-_a-z~]*", value):
        raise ValueError(f"{shown(value)} has a sign that no link may have: percent-encode it")
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
    """A number above 0, given as one or as a fraction in quotes such as "8/255".

    Raises:
        ValueError: neither.
    """
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
    """An accuracy in %.

    Raises:
        ValueError: not a number from 0 to 100.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise ValueError(f"must be a number from 0 to 100 (%), got {shown(value)}")
    return float(value)


def slug_of(name: str) -> str:
    """``name`` as a part of file names and addresses: a-z, 0-9 and single hyphens, 1 to 60 of them."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", letters).strip("-")[:_LONGEST_SLUG].strip("-")
    return slug or f"defense-{short_hash(name)}"


def shown(value: object) -> str:
    """A stranger's value on a terminal: printable, on one line, short."""
    text = ascii(value) if isinstance(value, str) else repr(value)
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 60 else f"{text[:60]}…"
