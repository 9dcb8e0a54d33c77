"""``submission.toml``: what a submission says of itself, checked in full before anything is read or run."""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from attacks.registry import NORMS
from benchmark.datasets import DATASETS
from benchmark.errors import BenchError, unknown
from benchmark.models import MODELS
from benchmark.submission.consistency import OWN, claims, problems_between
from benchmark.submission.fields import authors, contact, file, licence, one_of, sha256, text, truth, whole
from benchmark.submission.text import fraction, link, shown, slug_of

MANIFEST = "submission.toml"
_MOST = 10**10  # images
_SHOWN = 20  # unknown keys, the rest is counted


class ManifestError(BenchError):
    """All that is wrong with a manifest, a line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(f"{MANIFEST}: {problem}" for problem in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A defense that was sent in, and what is claimed of it. Accuracies in %; texts may be shown."""

    slug: str
    """Its name in file names and addresses."""
    name: str
    authors: tuple[str, ...]
    paper: str
    """A link, or empty; so is ``code``, but not both."""
    code: str
    licence: str
    contact: str
    dataset: str
    notes: str
    norm: str
    eps: float
    """In pixels of [0, 1]."""
    architecture: str
    """A name of ``benchmark.models.MODELS``, or "own"."""
    width: int
    """0 for an architecture of one's own."""
    weights: str
    sha256: str
    weights_plain: bool
    forward_passes: int
    randomised: bool
    real: int
    """Training images beyond the data set's own; so is ``synthetic``."""
    synthetic: int
    claimed: dict[str, float]
    """"natural" or the name of an attack -> accuracy"""

    @property
    def own(self) -> bool:
        """Whether the network is code that came with it."""
        return self.architecture == OWN


class _Key(NamedTuple):
    parse: Callable[[Any], Any]
    fill: str
    """What to write, for one who left it empty."""
    default: Any = None
    """None: it must be filled in."""


def read_manifest(folder: Path) -> Submission:
    """The manifest in ``folder``.

    Raises:
        ManifestError: with every problem that was found.
        BenchError: not there, or not readable.
    """
    problems: list[str] = []
    tree = _tree(folder / MANIFEST)
    values = _values(tree, problems)
    claimed = claims(tree.get("claimed", {}), problems)
    problems = [_with_hash(problem, folder, values.get("weights")) for problem in problems]
    problems += problems_between(values, claimed)
    if problems:
        raise ManifestError(problems)
    return Submission(slug=slug_of(values["name"]), claimed=claimed, **values)


def _tree(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"cannot read {MANIFEST}: {error.strerror}; bench submit init writes one") from error
    except UnicodeDecodeError as error:
        raise ManifestError(["is not UTF-8: save it as UTF-8 text"]) from error
    except RecursionError as error:
        raise ManifestError(["is nested too deeply: bench submit init writes a fresh one"]) from error
    except ValueError as error:
        raise ManifestError([f"is not TOML: {shown(str(error))}; mend that line"]) from error


_DATASET = one_of(DATASETS, "data set")
_ARCHITECTURE = one_of((*MODELS, OWN), "architecture")
_KEYS = {
    "name": _Key(text(80), "say what the row is to be called"),
    "authors": _Key(authors, 'name them: ["Ada Lovelace", "Alan Turing"]'),
    "paper": _Key(link, "", ""),
    "code": _Key(link, "", ""),
    "licence": _Key(licence, 'write an SPDX name such as "MIT" (spdx.org/licenses)'),
    "contact": _Key(contact, "write an e-mail address or a link"),
    "dataset": _Key(_DATASET, f"choose one of {', '.join(DATASETS)}"),
    "notes": _Key(text(2000, markup=True, lines=True), "", ""),
    "threat.norm": _Key(one_of(NORMS, "norm"), f"choose one of {', '.join(NORMS)}"),
    "threat.eps": _Key(fraction, 'write the budget the claims are for, such as "8/255"'),
    "model.architecture": _Key(_ARCHITECTURE, f"choose one of {', '.join((*MODELS, OWN))}"),
    "model.width": _Key(whole(0, 1024), "", 0),
    "model.weights": _Key(file, "name the .safetensors file"),
    "model.sha256": _Key(sha256, "write what `sha256sum` prints for the weights file"),
    "model.weights_plain": _Key(truth, "", False),
    "model.forward_passes": _Key(whole(1, 100_000), "say how many one prediction takes"),
    "model.randomised": _Key(truth, "write true or false"),
    "data.real": _Key(whole(0, _MOST), "say how many images, 0 if none"),
    "data.synthetic": _Key(whole(0, _MOST), "say how many images, 0 if none"),
}
_SECTIONS = ("threat", "model", "data", "claimed")


def _values(tree: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Last part of a key -> its value, of those that are sound."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in _SECTIONS:
            flat[key if "." not in key else f"{key}."] = value  # a dot in quotes is no section
        elif not isinstance(value, dict):
            problems.append(f"{key} must be a section [{key}], got {shown(value)}")
        elif key != "claimed":
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
    strays = [key for key in flat if key not in _KEYS]
    problems += [_stray(key) for key in strays[:_SHOWN]]
    if len(strays) > _SHOWN:
        problems.append(f"{len(strays) - _SHOWN} more unknown keys: bench submit init writes a fresh file")
    values = {}
    for key, rule in _KEYS.items():
        value = flat.get(key, "")
        if value not in ("", []):
            try:
                values[key.rpartition(".")[2]] = rule.parse(value)
            except ValueError as error:
                problems.append(f"{key} {error}")
        elif rule.default is None:
            problems.append(f"{key} is {'empty' if key in flat else 'missing'}: {rule.fill}")
        else:
            values[key.rpartition(".")[2]] = rule.default
    return values


def _stray(key: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", key):
        return f"unknown key {shown(key)}: delete it"
    full = {rule.rpartition(".")[2]: rule for rule in _KEYS}
    last = key.rpartition(".")[2]
    if last in full:
        place, _, _ = full[last].rpartition(".")
        return f"unknown key {key!r}: {last} stands {f'under [{place}]' if place else 'above all sections'}"
    return str(unknown("key", key, [*_KEYS, *_SECTIONS]))


def _with_hash(problem: str, folder: Path, weights: str | None) -> str:
    """The problem with model.sha256, with what to write where the weights file is there."""
    from benchmark.atomic import file_hash

    if not problem.startswith("model.sha256") or not weights or not (folder / weights).is_file():
        return problem
    return f'{problem.partition(":")[0]}: {weights} has sha256 = "{file_hash(folder / weights)}"'
