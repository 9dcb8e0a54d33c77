"""Errors that a user can fix: one line each, with the value and the remedy."""

import difflib
from collections.abc import Collection, Iterable


class BenchError(Exception):
    """Caught once, in the command line: printed as one line, exit status 2."""


class DataError(BenchError):
    """A data set is missing or invalid."""


class StoreError(BenchError):
    """A file of results cannot be read or written."""


def unknown(kind: str, name: str, known: Iterable[str]) -> BenchError:
    """Return the error for a name that is not in a list: near matches first, then all names."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    guess = f"; did you mean {' or '.join(near)}?" if near else ";"
    return BenchError(f"unknown {kind} {name!a}{guess} known: {', '.join(names)}")


def check_known(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise ``unknown`` for the first of the names that is not in a list."""
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)


def printable(text: str, longest: int = 400) -> str:
    """Return untrusted text made safe for a line on a terminal."""
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    return text if len(text) <= longest else f"{text[:longest]}…"


def first_line(error: BaseException) -> str:
    """Return how an error's message begins; its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def last_line(traceback: str) -> str:
    """Return what a traceback ends with: the error itself."""
    return (traceback.strip().splitlines() or ["no reason was kept"])[-1]
