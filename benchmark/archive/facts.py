"""One file of results as its reader finds it, and whether it is what its name and id say."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from attacks.registry import NORMS
from benchmark.archive.rules import (
    WrongError,
    bound_file,
    bound_table,
    check_circumstances,
    check_flags,
    check_history,
    check_identity,
    check_number,
    check_place,
    check_rows,
    check_samples,
    check_sha256,
    texts,
)
from benchmark.archive.sources import Source
from benchmark.atomic import canonical_json, file_hash, short_hash
from benchmark.checkpoints import read_card
from benchmark.diagnostics import read_flags
from benchmark.errors import StoreError
from benchmark.mi_records import read_mi_record
from benchmark.protocol import THREATS
from benchmark.records import read_record
from benchmark.submission.entries import read_entry
from benchmark.submission.external import read_row

_UNREADABLE = (
    pa.ArrowException,
    ArithmeticError,
    AttributeError,
    KeyError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What readers raise on hostile content, besides their own errors."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What other files have to agree with.

    Attributes:
        ok: False for a cell that failed.
        result: hash of what was found, without when, where and how fast; equal results are equal texts.
        sha256: of a card: its tensors'.
        family, model_family: as a record states them; nothing where it states none.
    """

    id: str
    seed: int
    spec: dict[str, Any]
    result: str
    ok: bool = True
    sha256: str = ""
    family: str = ""
    model_family: str = ""

    @property
    def parents(self) -> dict[str, str]:
        """Role -> id."""
        return dict(self.spec["parents"])

    @property
    def is_cell(self) -> bool:
        return bool(self.spec["kind"] == "evaluate")


def examine(source: Source, name: str) -> Facts:
    """Read one file that has no owner.

    Raises:
        StoreError: damaged, or not what its name says; in the words of ``source``.
    """
    with opened(source, name) as path:
        bound_file(path)
        return _READERS[name.partition("/")[0]](path, name)


@contextmanager
def opened(source: Source, name: str) -> Iterator[Path]:
    """A file of ``source``; whatever is wrong with it becomes a StoreError in the words of ``source``."""
    with source.file(name) as path:
        try:
            yield path
        except StoreError as error:
            reason = str(error).replace(f"{path} ", "").partition("; delete")[0]
            raise source.refusal(name, reason) from error
        except WrongError as error:
            raise source.refusal(name, str(error)) from error
        except _UNREADABLE as error:
            what = f"{type(error).__name__}: {error}"
            raise source.refusal(name, f"is not what bench writes ({what})") from error


def _record(path: Path, name: str) -> Facts:
    bound_table(path)
    record = read_record(path)
    spec = record.spec
    check_identity(record.id, spec, record.seed, ("evaluate",))
    data, norm, threat, defense, attack = texts(spec, "dataset", "norm", "threat", "defense", "attack")
    place = f"{data}/{norm}/{threat}/{defense}/{attack}"
    check_place(name, f"records/{place}-seed{record.seed}-{record.id}.parquet")
    if norm not in NORMS or threat not in THREATS or not isinstance(spec["parameters"], dict):
        raise WrongError(f"has settings that bench does not know: {norm}, {threat}")
    texts(spec, "kind_of_attack")
    check_sha256(spec["data"])
    texts(vars(record), "family", "model_family", "error")
    check_number("eps", spec["eps"])
    check_circumstances(record.environment, record.seconds)
    check_flags(record.flags)
    if record.status == "ok":
        check_rows(record.rows, spec)
    elif record.status != "error" or not record.error or len(record.rows["sample"]):
        raise WrongError("is neither a result nor the story of a failure")
    return Facts(
        id=record.id,
        seed=record.seed,
        spec=spec,
        result=_digest(record.rows, record.flags),
        ok=record.status == "ok",
        family=record.family,
        model_family=record.model_family,
    )


def _estimates(path: Path, name: str) -> Facts:
    bound_table(path)
    record = read_mi_record(path)
    spec = record.spec
    check_identity(record.id, spec, record.seed, ("measure-mi",))
    data, norm, defense, attack, by = texts(spec, "dataset", "norm", "defense", "attack", "objective")
    check_place(name, f"mi/{data}/{norm}/{defense}/{attack}-{by}-seed{record.seed}-{record.id}.parquet")
    texts(vars(record), "family")
    check_number("eps", spec["eps"])
    check_circumstances(record.environment, record.seconds)
    check_samples(record.rows, spec)
    return Facts(
        id=record.id,
        seed=record.seed,
        spec=spec,
        result=_digest(record.rows, []),
        family=record.family,
    )


def _diagnosis(path: Path, name: str) -> Facts:
    flags, story = read_flags(path), json.loads(path.read_text())
    spec, seed, identity = story["spec"], story["seed"], story["id"]
    check_identity(identity, spec, seed, ("diagnose",))
    data, norm = texts(spec, "dataset", "norm")
    check_place(name, f"diagnoses/{data}/", f"-{norm}-seed{seed}-{identity}.json")
    check_circumstances(story["environment"], story["seconds"])
    check_flags(flags)
    return Facts(id=identity, seed=seed, spec=spec, result=short_hash([story["measured"], flags]))


def _card(path: Path, name: str) -> Facts:
    card = read_card(path.with_suffix(".safetensors"))
    spec, seed, identity, sha256 = card["spec"], card["seed"], card["id"], card["sha256"]
    crafted = name.startswith("crafted/")
    check_identity(identity, spec, seed, ("craft",) if crafted else ("train", "load", "estimators"))
    (data,) = texts(spec, "dataset")
    if crafted:
        norm, attack = texts(spec, "norm", "attack")
        check_place(name, f"crafted/{data}/{norm}/{attack}-on-", f"-seed{seed}-{identity}.json")
    else:
        of_seed = "" if spec["kind"] == "load" else f"-seed{seed}"
        check_place(name, f"checkpoints/{data}/", f"{of_seed}-{identity}.json")
    check_sha256(sha256)
    check_circumstances(card["environment"], card["seconds"])
    check_history(card)
    return Facts(id=identity, seed=seed, spec=spec, result=sha256, sha256=sha256)


def _submission(path: Path, name: str) -> Facts:
    entry = read_entry(path)
    check_place(name, f"submissions/{entry.submission.slug}.json")
    return _by_itself(path, name, "submission")


def _external(path: Path, name: str) -> Facts:
    row = read_row(path)
    check_place(name, f"external/{row.dataset}/{row.norm}/{row.slug}.json")
    return _by_itself(path, name, "external")


def _by_itself(path: Path, name: str, kind: str) -> Facts:
    """Of a file that rests on no other and that nothing rests on."""
    return Facts(id=name, seed=0, spec={"kind": kind, "parents": {}}, result=file_hash(path))


_READERS: dict[str, Callable[[Path, str], Facts]] = {
    "records": _record,
    "mi": _estimates,
    "diagnoses": _diagnosis,
    "checkpoints": _card,
    "crafted": _card,
    "submissions": _submission,
    "external": _external,
}


def _digest(rows: dict[str, NDArray[Any]], flags: list[str]) -> str:
    seen = hashlib.sha256(canonical_json([sorted(rows), flags]).encode())
    for name in sorted(rows):
        seen.update(np.ascontiguousarray(rows[name] + 0).tobytes())  # -0.0 is 0.0
    return seen.hexdigest()
