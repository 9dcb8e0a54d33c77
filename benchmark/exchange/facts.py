"""Read one file of results, and check that it is what its name and id say."""

import struct
import tokenize
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from robustness_bench.attacks.class_names import load
from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.exchange.detector_rules import (
    check_detector_place,
    check_flagging,
    check_judged,
)
from robustness_bench.benchmark.exchange.known import Facts, Flagging, digest
from robustness_bench.benchmark.exchange.rules import (
    WrongError,
    bound_file,
    bound_table,
    check_place,
    check_rows,
    check_samples,
)
from robustness_bench.benchmark.exchange.sources import Source
from robustness_bench.benchmark.exchange.stories import kind_of, told
from robustness_bench.benchmark.files import file_hash, read_json, short_hash
from robustness_bench.benchmark.plan.detectors import CALIBRATION
from robustness_bench.benchmark.plan.kinds import TaskKind, kinds_in
from robustness_bench.benchmark.store.cards import read_card
from robustness_bench.benchmark.store.cells import Record, read_record
from robustness_bench.benchmark.store.detections import Detection, read_detection
from robustness_bench.benchmark.store.diagnoses import read_diagnosis
from robustness_bench.benchmark.store.information import MIRecord, read_mi_record
from robustness_bench.benchmark.store.protocols import protocol_name
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


def examine(source: Source, name: str) -> Facts:
    """Read one file that has no owner.

    Raises:
        StoreError: damaged, or not what its name says; in the words of ``source``.
    """
    with opened(source, name) as path:
        bound_file(path)
        folder = name.partition("/")[0]
        if folder in _OTHERS:
            return _OTHERS[folder](path, name)
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
        id=record.id,
        seed=record.seed,
        spec=record.spec,
        result=digest(record.rows, []),
        family=record.family,
    )


def diagnosis_facts(path: Path, name: str) -> Facts:
    values = read_json(path)
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


def _submission(path: Path, name: str) -> Facts:
    entry = read_entry(path)
    check_place(name, f"submissions/{entry.submission.slug}.json")
    return _by_itself(path, name, "submission")


def _external(path: Path, name: str) -> Facts:
    row = read_row(path)
    check_place(name, f"external/{row.dataset}/{row.norm}/{row.slug}.json")
    return _by_itself(path, name, "external")


def _protocol(path: Path, name: str) -> Facts:
    content = path.read_bytes()
    tomllib.loads(content.decode())  # or it is refused
    check_place(name, f"protocols/{protocol_name(content)}.toml")
    return _by_itself(path, name, "protocol")


def _by_itself(path: Path, name: str, kind: str) -> Facts:
    """Return the facts of a file that depends on no other and that no other depends on."""
    return Facts(id=name, seed=0, spec={"kind": kind, "parents": {}}, result=file_hash(path))


_OTHERS: dict[str, Callable[[Path, str], Facts]] = {
    "submissions": _submission,
    "external": _external,
    "protocols": _protocol,
}
"""What no task makes."""
