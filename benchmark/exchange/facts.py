"""Read one file of results, and check that it is what its name and id say."""

import hashlib
import struct
import tokenize
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from robustness_bench.attacks.class_names import load
from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.exchange.rules import (
    WrongError,
    bound_file,
    bound_table,
    check_detector_place,
    check_flagging,
    check_judged,
    check_place,
    check_rows,
    check_samples,
)
from robustness_bench.benchmark.exchange.sources import Source
from robustness_bench.benchmark.exchange.stories import kind_of, told
from robustness_bench.benchmark.files import canonical_json, file_hash, read_sealed, short_hash
from robustness_bench.benchmark.plan.detectors import CALIBRATION
from robustness_bench.benchmark.plan.kinds import TASK_KINDS, TaskKind, kinds_in
from robustness_bench.benchmark.store.cards import read_card
from robustness_bench.benchmark.store.cells import Record, read_record
from robustness_bench.benchmark.store.detections import Detection, read_detection
from robustness_bench.benchmark.store.diagnoses import read_diagnosis
from robustness_bench.benchmark.store.folder import protocol_name
from robustness_bench.benchmark.store.information import MIRecord, read_mi_record
from robustness_bench.benchmark.submit.board.entries import read_entry
from robustness_bench.benchmark.submit.board.external import read_row

_OF_CELLS = ("norm", "threat", "defense", "attack", "kind_of_attack", "eps", "parameters", "n_examples")
_OF_DETECTIONS = (
    *("system", "setting", "attack", "rule", "classifier", "reformer", "confidence", "parameters"),
    *("detectors", "n_examples"),
)
_UNREADABLE = (
    *(pa.ArrowException, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
    *(ArithmeticError, AttributeError, EOFError, KeyError, MemoryError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, Warning),
)
"""What readers raise on hostile content, besides their own errors."""


class Flagging(NamedTuple):
    """A detector's threshold, and the remark on it."""

    threshold: float
    remark: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts that other files must agree with.

    Attributes:
        ok: False for a cell that failed.
        result: hash of the result without time, place and speed; equal results have equal hashes.
        sha256: for a card, the hash of its tensors.
        family, model_family: as a record states them; empty if it does not.
        found: for a calibration, its result.
        used: for a detector cell, calibration id -> what the cell took from it.
    """

    id: str
    seed: int
    spec: dict[str, Any]
    result: str
    ok: bool = True
    sha256: str = ""
    family: str = ""
    model_family: str = ""
    found: Flagging | None = None
    used: dict[str, Flagging] = field(default_factory=dict)

    @property
    def parents(self) -> dict[str, str]:
        """Role -> id."""
        return dict(self.spec["parents"])

    @property
    def cell(self) -> str:
        """Which cell it is of, in words; nothing if it is of none."""
        kind = TASK_KINDS.get(self.spec["kind"])
        return kind.cell.format(**{**self.spec, "seed": self.seed}) if kind else ""


def digest(rows: dict[str, NDArray[Any]], *more: Any) -> str:
    """Return a hash of the content of columns and of further JSON values."""
    seen = hashlib.sha256(canonical_json([sorted(rows), *more]).encode())
    for name in sorted(rows):
        seen.update(np.ascontiguousarray(rows[name] + 0).tobytes())  # -0.0 becomes 0.0
    return seen.hexdigest()


def examine(source: Source, name: str) -> Facts:
    """Read one file that has no owner.

    Raises:
        StoreError: damaged, or not what its name says; in the words of ``source``.
    """
    with opened(source, name) as path:
        bound_file(path)
        folder = name.partition("/")[0]
        if folder in _OTHERS:
            check_place(name, _OTHERS[folder](path))
            return Facts(id=name, seed=0, spec={"kind": folder, "parents": {}}, result=file_hash(path))
        facts: Facts = load(_kind(path, folder).archived)(path, name)
        return facts


def _kind(path: Path, folder: str) -> TaskKind:
    """Return the kind of the task that made a file; only cards share a folder with other kinds."""
    kinds = kinds_in(folder)
    if len(kinds) == 1:
        return next(iter(kinds.values()))
    return kind_of(read_card(path)["spec"], folder)


@contextmanager
def opened(source: Source, name: str) -> Iterator[Path]:
    """Yield a file of ``source``; whatever is wrong with it becomes a StoreError of ``source``."""
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


def record_facts(path: Path, name: str) -> Facts:
    bound_table(path)
    record = read_record(path)
    spec = told(_said(record), "records", *_OF_CELLS).spec
    place = f"{spec.dataset}/{spec.norm}/{spec.threat}/{spec.defense}/{spec.attack}"
    check_place(name, f"records/{place}-seed{record.seed}-{record.id}.parquet")
    _check_status(record)
    if record.status == "ok":
        check_rows(record.rows, record.spec)
    return Facts(
        id=record.id,
        seed=record.seed,
        spec=record.spec,
        result=digest(record.rows),
        ok=record.status == "ok",
        family=record.family,
        model_family=record.model_family,
    )


def estimates_facts(path: Path, name: str) -> Facts:
    bound_table(path)
    record = read_mi_record(path)
    spec = told(_said(record), "mi", "norm", "defense", "attack", "objective", "eps").spec
    place = f"{spec.dataset}/{spec.norm}/{spec.defense}/{spec.attack}-{spec.objective}"
    check_place(name, f"mi/{place}-seed{record.seed}-{record.id}.parquet")
    check_samples(record.rows, record.spec)
    return Facts(
        id=record.id, seed=record.seed, spec=record.spec, result=digest(record.rows, []), family=record.family
    )


def diagnosis_facts(path: Path, name: str) -> Facts:
    values = read_sealed(path)
    story = told(values, "diagnoses", "norm", "eps")
    read_diagnosis(path)
    end = f"-{story.spec.norm}-seed{story.seed}-{story.id}.json"
    check_place(name, f"diagnoses/{story.spec.dataset}/", end)
    result = short_hash([values["measured"], story.flags])
    return Facts(id=story.id, seed=story.seed, spec=values["spec"], result=result)


def detection_facts(path: Path, name: str) -> Facts:
    bound_table(path)
    record = read_detection(path)
    spec = record.spec
    told(_said(record), "detections", *_OF_DETECTIONS)
    check_detector_place(name, record)
    _check_status(record)
    ok = record.status == "ok"
    if ok:
        check_flagging(record)
        check_judged(record)
    said = {d: Flagging(t, record.remarks.get(d, "")) for d, t in record.thresholds.items()} if ok else {}
    return Facts(
        id=record.id,
        seed=record.seed,
        spec=spec,
        result=digest(record.rows, said),
        ok=ok,
        family=record.family,
        used={spec["parents"][CALIBRATION + detector]: each for detector, each in said.items()},
    )


def _said(record: Record | MIRecord | Detection) -> dict[str, Any]:
    """Return a record without what is no part of its story."""
    return {key: value for key, value in vars(record).items() if key not in ("rows", "diagnosis")}


def _check_status(record: Record | Detection) -> None:
    """Check that a failed cell has a traceback and no rows."""
    if record.status == "error" and (not record.error or any(map(len, record.rows.values()))):
        raise WrongError("is neither a result nor the story of a failure")


def _submission(path: Path) -> str:
    return f"submissions/{read_entry(path).submission.slug}.json"


def _external(path: Path) -> str:
    row = read_row(path)
    return f"external/{row.dataset}/{row.norm}/{row.slug}.json"


def _protocol(path: Path) -> str:
    content = path.read_bytes()
    tomllib.loads(content.decode())  # or it is refused
    return f"protocols/{protocol_name(content)}.toml"


_OTHERS: dict[str, Callable[[Path], str]] = {
    "submissions": _submission,
    "external": _external,
    "protocols": _protocol,
}
"""Folder of files that no task makes, and that depend on no other -> the place that one gives itself."""


def card_facts(path: Path, name: str) -> Facts:
    """Return the facts of a card at ``path`` that is called ``name`` in a store."""
    card, folder = read_card(path.with_suffix(".safetensors")), name.partition("/")[0]
    story = told(card, folder)
    of_seed = f"-seed{story.seed}" if kind_of(card["spec"], folder).seeded else ""
    check_place(name, f"{folder}/{story.spec.dataset}/", f"{of_seed}-{story.id}.json")
    return Facts(
        id=story.id, seed=story.seed, spec=card["spec"], result=card["sha256"], sha256=card["sha256"]
    )


def crafted_facts(path: Path, name: str) -> Facts:
    """Return the facts of images made on a model, for defenses or for detectors."""
    facts = card_facts(path, name)
    data, norm, attack = (facts.spec[key] for key in ("dataset", "norm", "attack"))
    start = f"crafted/{data}/{norm}/{attack}"
    if name.startswith(f"crafted/{data}/detectors/"):
        start = f"crafted/{data}/detectors/{attack}-k{facts.spec['parameters']['confidence']:g}"
    check_place(name, f"{start}-on-", ".json")
    return facts


def adapted_facts(path: Path, name: str) -> Facts:
    """Return the facts of images made on a whole system."""
    facts = card_facts(path, name)
    check_place(name, f"crafted/{facts.spec['dataset']}/detectors/{facts.spec['setting']}-", ".json")
    return facts


def calibration_facts(path: Path, name: str) -> Facts:
    """Return the facts of a detector's threshold."""
    facts, card = card_facts(path, name), read_card(path.with_suffix(".safetensors"))
    for part, gate in facts.spec["gates"].items():
        if _fails(card["figures"][part], gate) and not card["remark"]:
            raise WrongError(f"has no remark on {part}, which fails its gate")
    if "near" not in card:
        raise WrongError("lacks near")
    found = Flagging(card["threshold"], card["remark"])
    return replace(facts, found=found, result=short_hash([facts.sha256, *found]))


def _fails(figures: dict[str, Any], gate: float) -> bool:
    if "swap_accuracy" in figures:
        return bool(figures["swap_accuracy"] < gate)
    return bool(figures["held_out_error"] > gate)
