"""What a user can fix: each error is one line that names the value and the remedy."""

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Caught once, in the command line: printed as one line, exit status 2."""


class DataError(BenchError):
    """A data set that is missing or not what it should be."""


class StoreError(BenchError):
    """A file of results that cannot be read or written."""


def unknown(kind: str, name: str, known: Iterable[str]) -> BenchError:
    """The error for a name that is not in a list: near matches first, then all."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    guess = f"; did you mean {' or '.join(near)}?" if near else ";"
    return BenchError(f"unknown {kind} {name!r}{guess} known: {', '.join(names)}")
