"""Rules for every file of results, whoever made it."""

import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robustness_bench.benchmark.data import DATASETS
from robustness_bench.benchmark.errors import first_line
from robustness_bench.benchmark.store.cells import DISTANCES
from robustness_bench.benchmark.store.detections import FLAG, SCORE, Detection
from robustness_bench.benchmark.store.generated import read_conditional_examples

_MOST_ROWS = 2_000_000
MOST_BYTES = 1 << 28
_SIZES = (*DISTANCES, "forwards", "backwards")
_CLASSES = ("label", "clean_prediction", "prediction", "reformed_prediction")
_COLUMNS = {"sample": "int32", **dict.fromkeys(_CLASSES, "int16"), **dict.fromkeys(_SIZES, "float32")}
Rows = dict[str, NDArray[Any]]


class WrongError(ValueError):
    """A file is invalid; the message continues a sentence that begins with its name."""


def bound_file(path: Path) -> None:
    """Raise WrongError for a file that is too large to read at once."""
    if path.stat().st_size > MOST_BYTES:
        raise WrongError("is absurdly large")


def bound_table(path: Path) -> None:
    """Raise WrongError for a Parquet file that would fill the memory."""
    try:
        about = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise WrongError(f"is damaged ({first_line(error)})") from error
    size = sum(about.row_group(at).total_byte_size for at in range(about.num_row_groups))
    if about.num_rows > _MOST_ROWS or size > MOST_BYTES:
        raise WrongError(f"claims {about.num_rows} rows of {size} bytes, more than any test set has")


def check_place(name: str, start: str, end: str = "") -> None:
    whole = name == start if not end else name.startswith(start) and name.endswith(end)
    if not whole:
        raise WrongError(f"lies at another's place, its settings say {start}{'…' if end else ''}{end}")


def check_samples(rows: dict[str, NDArray[Any]], spec: dict[str, Any]) -> None:
    sample, n = rows["sample"], spec["n_examples"]
    if type(n) is not int or len(sample) != n or len(np.unique(sample)) != n or not n:
        raise WrongError(f"has {len(sample)} rows that are not those of {n!r} images")


def check_rows(rows: dict[str, NDArray[Any]], spec: dict[str, Any]) -> None:
    check_samples(rows, spec)
    for name, column in rows.items():
        if not np.isfinite(column).all() or (column < 0).any():
            raise WrongError(f"has a {name} that is negative or not finite")


def check_detector_place(name: str, record: Detection) -> None:
    spec = record.spec
    attack, setting = spec["attack"], spec["setting"]
    shown = {"oblivious": f"{attack}-k{spec['confidence']:g}", "grey": f"{attack}-grey"}.get(setting, attack)
    folder = f"detections/{spec['dataset']}/{spec['system']}"
    check_place(name, f"{folder}/{shown}-seed{record.seed}-{record.id}.parquet")


def check_flagging(record: Detection) -> None:
    """Check that a successful cell has thresholds and remarks for exactly its detectors."""
    if record.thresholds.keys() != record.spec["detectors"].keys():
        raise WrongError("has thresholds of other detectors than its settings")
    if not record.remarks.keys() <= record.thresholds.keys():
        raise WrongError("has remarks on other detectors than its settings")


def check_judged(record: Detection) -> None:
    """Check the rows of a successful cell."""
    rows, spec = record.rows, record.spec
    _check_columns(rows, record.detectors)
    check_rows({name: rows[name] for name in ("sample", *_CLASSES, *_SIZES)}, spec)
    _check_range(rows, spec["dataset"])
    for name in record.detectors:
        if not np.isfinite(record.scores(name)).all():
            raise WrongError(f"has a score of {name} that is not finite")
        if not np.array_equal(record.flags(name), record.scores(name) >= record.thresholds[name]):
            raise WrongError(f"has flags of {name} that are not its scores at the threshold")
    if spec["setting"] == "natural" and any(rows[name].any() for name in DISTANCES):
        raise WrongError("has natural images that were changed")
    if not spec["reformer"] and not np.array_equal(rows["reformed_prediction"], rows["prediction"]):
        raise WrongError("has images that were reformed, without a reformer")


def _check_columns(rows: Rows, detectors: list[str]) -> None:
    wanted = dict(_COLUMNS)
    for name in detectors:
        wanted |= {SCORE + name: "float64", FLAG + name: "bool"}
    if differing := sorted(rows.keys() ^ wanted.keys()):
        name = differing[0]
        raise WrongError(f"has a column {name} that no such cell has" if name in rows else f"lacks {name}")
    for name, kind in wanted.items():
        if rows[name].dtype != kind:
            raise WrongError(f"has a column {name} of type {rows[name].dtype}, not {kind}")


def _check_range(rows: Rows, dataset: str) -> None:
    """Check samples and classes against a data set that bench knows."""
    if dataset not in DATASETS:
        return
    info = DATASETS[dataset].info
    if (rows["sample"] >= info.test_images).any():
        raise WrongError(f"has a sample beyond the {info.test_images} test images of {dataset}")
    for name in _CLASSES:
        if (rows[name] >= info.classes).any():
            raise WrongError(f"has a {name} beyond the {info.classes} classes of {dataset}")


def check_scores(path: Path, spec: dict[str, Any], threshold: float) -> None:
    """Raise WrongError unless a calibration's scores give its threshold.

    The rule of ``robustness_bench.defenses.detectors.scores``: the int(n · rate)-th largest of n
    scores, reached by no more than that many.
    """
    from safetensors.numpy import load_file

    bound_file(path)
    tensors = load_file(path)
    if tensors.keys() != {"scores"}:
        raise WrongError(f"holds {', '.join(sorted(tensors))[:80]}, not scores")
    scores = tensors["scores"]
    if scores.dtype != np.float64 or scores.ndim != 1 or not np.isfinite(scores).all():
        raise WrongError("has scores that are not one finite float64 for each image")
    n, images = len(scores), spec["images"]
    if images and n > images:
        raise WrongError(f"has scores of {n} images, its settings allow {images}")
    allowed, reached = int(n * spec["rate"]), int((scores >= threshold).sum())
    if not allowed or reached != allowed or threshold not in scores:
        raise WrongError(f"has {reached} of {n} scores at its card's threshold, its rate gives {allowed}")


def check_generated(path: Path, spec: dict[str, Any]) -> None:
    """Check a generator's images: size before unpacking, and the number of its data set's classes."""
    bound_file(path)
    with zipfile.ZipFile(path) as packed:
        if sum(member.file_size for member in packed.infolist()) > MOST_BYTES:
            raise WrongError("claims to be absurdly large")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # warnings about headers that no version of numpy wrote
        examples = read_conditional_examples(path)
    dataset, classes = spec["dataset"], examples.predicted.shape[1]
    if dataset in DATASETS and classes != DATASETS[dataset].info.classes:
        raise WrongError(f"has images of {classes} classes, {dataset} has {DATASETS[dataset].info.classes}")
