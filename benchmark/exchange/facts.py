"""One file of results as its reader finds it, and whether it is what its name and id say."""

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from robustness_bench.attacks.class_names import load
from robustness_bench.attacks.registry import NORMS
from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.exchange.detector_rules import (
    check_detector_place,
    check_detector_spec,
    check_flagging,
    check_judged,
)
from robustness_bench.benchmark.exchange.known import Facts, Flagging, digest
from robustness_bench.benchmark.exchange.rules import (
    WrongError,
    bound_file,
    bound_table,
    check_circumstances,
    check_flags,
    check_identity,
    check_kind,
    check_number,
    check_place,
    check_rows,
    check_samples,
    check_sha256,
    texts,
)
from robustness_bench.benchmark.exchange.sources import Source
from robustness_bench.benchmark.files import file_hash, read_json, short_hash
from robustness_bench.benchmark.plan.detectors import CALIBRATION
from robustness_bench.benchmark.plan.kinds import TaskKind, kinds_in
from robustness_bench.benchmark.plan.protocol import THREATS
from robustness_bench.benchmark.store.cards import read_card
from robustness_bench.benchmark.store.cells import read_record
from robustness_bench.benchmark.store.detections import read_detection
from robustness_bench.benchmark.store.diagnoses import read_diagnosis
from robustness_bench.benchmark.store.information import read_mi_record
from robustness_bench.benchmark.submit.board.entries import read_entry
from robustness_bench.benchmark.submit.board.external import read_row

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
    """Of the task that made a file; only cards, of which a folder has several kinds, are asked for it."""
    kinds = kinds_in(folder)
    if len(kinds) == 1:
        return next(iter(kinds.values()))
    return check_kind(read_card(path)["spec"], folder)


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


def record_facts(path: Path, name: str) -> Facts:
    bound_table(path)
    record = read_record(path)
    spec = record.spec
    check_identity(record.id, spec, record.seed, "records")
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
    if record.status == "ok":
        check_rows(record.rows, spec)
    elif record.status != "error" or not record.error or len(record.rows["sample"]):
        raise WrongError("is neither a result nor the story of a failure")
    return Facts(
        id=record.id,
        seed=record.seed,
        spec=spec,
        result=digest(record.rows),
        ok=record.status == "ok",
        family=record.family,
        model_family=record.model_family,
    )


def estimates_facts(path: Path, name: str) -> Facts:
    bound_table(path)
    record = read_mi_record(path)
    spec = record.spec
    check_identity(record.id, spec, record.seed, "mi")
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
        result=digest(record.rows, []),
        family=record.family,
    )


def diagnosis_facts(path: Path, name: str) -> Facts:
    found, story = read_diagnosis(path), read_json(path)
    spec, seed, identity = found.spec, found.seed, found.id
    check_identity(identity, spec, seed, "diagnoses")
    data, norm = texts(spec, "dataset", "norm")
    check_place(name, f"diagnoses/{data}/", f"-{norm}-seed{seed}-{identity}.json")
    check_circumstances(story["environment"], story["seconds"])
    check_number("eps", spec["eps"])
    check_flags(story["flags"])
    return Facts(id=identity, seed=seed, spec=spec, result=short_hash([story["measured"], found.flags]))


def detection_facts(path: Path, name: str) -> Facts:
    bound_table(path)
    record = read_detection(path)
    spec = record.spec
    check_identity(record.id, spec, record.seed, "detections")
    check_detector_spec(spec)
    check_detector_place(name, record)
    texts(vars(record), "family", "error")
    check_circumstances(record.environment, record.seconds)
    ok = record.status == "ok"
    if ok:
        check_flagging(record)
        check_judged(record)
    elif record.status != "error" or not record.error or any(map(len, record.rows.values())):
        raise WrongError("is neither a result nor the story of a failure")
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


_OTHERS: dict[str, Callable[[Path, str], Facts]] = {"submissions": _submission, "external": _external}
"""What no task makes."""
