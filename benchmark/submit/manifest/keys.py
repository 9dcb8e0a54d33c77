"""Read a ``submission.toml`` into its model: every problem is named with its remedy."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from robustness_bench.benchmark.errors import BenchError, unknown
from robustness_bench.benchmark.models import Several, Strict, problems, shown
from robustness_bench.benchmark.submit.manifest.text import Contact, Licence, Link, Name, slug_of

MANIFEST = "submission.toml"
KINDS = ("defense", "attack")
_SHOWN = 20  # unknown keys shown; the rest is counted


class ManifestError(BenchError):
    """All problems of a manifest, a line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(f"{MANIFEST}: {problem}" for problem in problems))
        self.problems = tuple(problems)


class Sent(Strict):
    """What every submission says. Its texts are safe to show.

    A field's docstring is its comment in the template, and what an error says if it is missing.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)
    SECTIONS: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Section of the file -> its fields; all others stand above the sections."""
    WRITTEN: ClassVar[dict[str, Any]] = {}
    """What the template writes in place of an empty text."""

    name: Name
    """Name of the row: up to 80 characters, no <, > or &."""
    authors: Annotated[Several[Name], Field(max_length=100)]
    """One name in quotes for each: ["Ada Lovelace", "Alan Turing"]."""
    paper: Link = ""
    """Links. One of the two may stay empty."""
    code: Link = ""
    licence: Licence
    """Licence of all files, as an SPDX name: "MIT", "Apache-2.0", "CC-BY-4.0"."""
    contact: Contact
    """An e-mail address or a link, for questions; not shown on the leaderboard."""

    @property
    def slug(self) -> str:
        """Its name in file names and URLs."""
        return slug_of(self.name)

    @property
    def link(self) -> str:
        return self.paper or self.code

    @classmethod
    def prefix(cls, name: str) -> str:
        """Return "section." of a field."""
        return next((f"{section}." for section, names in cls.SECTIONS.items() if name in names), "")


Submitted = TypeVar("Submitted", bound=Sent)


def read_tree(folder: Path) -> dict[str, Any]:
    """Read the manifest in ``folder`` as a TOML tree.

    Raises:
        ManifestError: it is not TOML.
        BenchError: it is missing or not readable.
    """
    try:
        return tomllib.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"cannot read {MANIFEST}: {error.strerror}; bench submit init writes one") from error
    except UnicodeDecodeError as error:
        raise ManifestError(["is not UTF-8: save it as UTF-8 text"]) from error
    except RecursionError as error:
        raise ManifestError(["is nested too deeply: bench submit init writes a fresh one"]) from error
    except ValueError as error:
        raise ManifestError([f"is not TOML: {shown(str(error))}; fix that line"]) from error


class Draft:
    """A manifest being read: its values by field, and what is wrong with it so far."""

    def __init__(self, folder: Path, model: type[Sent]) -> None:
        self.problems: list[str] = []
        self.values: dict[str, Any] = {}
        self._names = {model.prefix(name) + name: name for name in model.model_fields}
        self._sections = list(model.SECTIONS)
        tree = read_tree(folder)
        if (kind := tree.pop("kind", KINDS[0])) not in KINDS:
            self.problems.append(f"kind is an {unknown('kind', str(kind)[:40], KINDS)}")
        flat = self._flat(tree)
        strays = [key for key in flat if key not in self._names]
        self.problems += [self._stray(key) for key in strays[:_SHOWN]]
        if len(strays) > _SHOWN:
            more = len(strays) - _SHOWN
            self.problems.append(f"{more} more unknown keys: bench submit init writes a fresh file")
        self._empty = {key for key, value in flat.items() if value in ("", [])}
        known = flat.keys() & self._names.keys() - self._empty
        self.values = {self._names[key]: flat[key] for key in known}
        if not self.values.keys() & {"paper", "code"}:
            self.problems.append("paper and code are both empty: give at least one link")

    def parsed(self, model: type[Submitted]) -> Submitted | None:
        """Return the submission; None, with more problems, if a value is missing or wrong."""
        try:
            return model.model_validate(self.values)
        except ValidationError as error:
            for line in problems(error, model, lambda loc: model.prefix(str(loc[0]))):
                key = line.partition(" ")[0]
                self.problems.append(line.replace("missing", "empty", 1) if key in self._empty else line)
        return None

    def _flat(self, tree: dict[str, Any]) -> dict[str, Any]:
        """Return full key -> value."""
        flat: dict[str, Any] = {}
        for key, value in tree.items():
            if key not in self._sections:
                flat[key if "." not in key else f"{key}."] = value  # a quoted dot does not make a section
            elif isinstance(value, dict):
                flat |= {f"{key}.{name}": inner for name, inner in value.items()}
            else:
                self.problems.append(f"{key} must be a section [{key}], got {shown(value)}")
        return flat

    def _stray(self, key: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", key):
            return f"unknown key {shown(key)}: delete it"
        last = key.rpartition(".")[2]
        for full, name in self._names.items():
            if name == last:
                section = full.rpartition(".")[0]
                place = f"under [{section}]" if section else "above all sections"
                return f"unknown key {key!r}: {last} stands {place}"
        return str(unknown("key", key, [*self._names, *self._sections]))
