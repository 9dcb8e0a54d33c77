"""Detection records of a few images, written by hand."""

import csv
import io
from typing import Any

import numpy as np

from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.report.rendering.table import Row, Table
from robustness_bench.benchmark.store.detections import FLAG, SCORE, Detection

N = 10
HALF = [9.0] * 5 + [1.0] * 5


def flagging(*images: int, n: int = N) -> list[float]:
    """Scores that reach the threshold of 5.0 on these images alone."""
    return [5.0 if index in images else 1.0 for index in range(n)]


def detection(
    system: str = "magnet",
    attack: str = "cw",
    confidence: float = 0.0,
    seed: int = 0,
    *,
    setting: str = "oblivious",
    dataset: str = "mnist",
    clean: list[int] | None = None,
    prediction: list[int] | None = None,
    reformed: list[int] | None = None,
    scores: dict[str, list[float]] | None = None,
    thresholds: dict[str, float] | None = None,
    l1: list[float] | None = None,
    forwards: list[float] | None = None,
    error: str = "",
    remarks: dict[str, str] | None = None,
    beta: float | None = 0.1,
    version: str = "",
) -> Detection:
    """A cell of images of class 1.

    By default 10 images, all fooled, none reformed, and one detector "a" that flags the first half at 5.0.
    L2 is a tenth of L1, which is 1 where the bare classifier is fooled.
    """
    prediction = prediction or [0] * N
    n = len(prediction)
    clean = clean or [1] * n
    scores = scores or {"a": [9.0] * (n // 2) + [1.0] * (n - n // 2)}
    thresholds = thresholds or dict.fromkeys(scores, 5.0)
    sizes = np.array(l1 if l1 is not None else [float(each != 1) for each in prediction])
    presets = attack_presets("strict")
    own = presets[attack].parameters if attack in presets else {}
    parameters = {key: value for key, value in own.items() if key != "rule"} | {"confidence": confidence}
    if "beta" in parameters:
        parameters["beta"] = beta
    spec = {
        "dataset": dataset,
        "system": system,
        "setting": setting,
        "attack": attack,
        "confidence": confidence,
        "parameters": {} if setting == "natural" else parameters,
        "reformer": "autoencoder-1",
        "parents": {
            "model": f"model-{seed}{version}",
            "crafted": f"{attack}-{confidence}-{seed}",
            **{f"calibration:{name}": f"{name}-{seed}" for name in scores},
        },
    }
    rows: dict[str, Any] = {
        "sample": np.arange(n),
        "label": np.ones(n, int),
        "clean_prediction": np.array(clean),
        "prediction": np.array(prediction),
        "reformed_prediction": np.array(reformed or prediction),
        "linf": sizes / 100,
        "l2": sizes / 10,
        "l1": sizes,
        "forwards": np.array(forwards or [3.0] * n),
        "backwards": np.zeros(n),
    }
    for name, values in scores.items():
        rows |= {SCORE + name: np.array(values), FLAG + name: np.array(values) >= thresholds[name]}
    cell = f"{dataset}-{system}-{setting}-{attack}-{confidence:g}{version}"
    return Detection(
        id=f"{cell}-{seed}",
        family=cell,
        seed=seed,
        spec=spec,
        status="error" if error else "ok",
        error=error,
        environment={},
        seconds=1.0,
        thresholds={} if error else thresholds,
        remarks=remarks or {},
        rows={name: values[:0] for name, values in rows.items()} if error else rows,
    )


def natural(system: str = "magnet", seed: int = 0, **more: Any) -> Detection:
    """Natural images; all are classified correctly unless said otherwise."""
    given = {"prediction": [1] * N, "l1": [0.0] * len(more.get("prediction", [1] * N)), **more}
    return detection(system, "none", 0.0, seed, setting="natural", **given)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def texts(row: Row) -> list[str]:
    return [cell.text for cell in row.cells]


def notes_of(table: Table, *marks: str) -> list[str]:
    return [note.text for note in table.notes if note.mark in marks]
