"""A store's diagnoses of the models of its records."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from robustness_bench.benchmark.files import read_sealed, reading
from robustness_bench.benchmark.plan.probe import VERSION
from robustness_bench.benchmark.plan.tasks import Task

NOT_DIAGNOSED, SIGNS_ONLY, EARLIER = "not diagnosed", "signs only", "earlier probe"
"""What is said of a model that was not diagnosed, that no attack was run on, or that an earlier version
diagnosed."""
BATCH_DEPENDENT = "outputs depend on the batch"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """One model that was probed under one threat model.

    Attributes:
        spec: all that decides the result: ``norm``, ``eps``, ``probe``, the sample, the model as parent.
        flags: signs that the model hides its gradients, in the order of ``diagnostics.FLAGS``.
    """

    id: str
    seed: int
    spec: dict[str, Any]
    flags: tuple[str, ...]

    @property
    def signs_only(self) -> bool:
        """Whether no attack was run, so that most flags were not looked for."""
        probe = self.spec["probe"]
        return not probe.get("attacks") and not self.is_earlier

    @property
    def is_earlier(self) -> bool:
        """Whether it was made before some flags were looked for; attacks it had."""
        return int(self.spec["probe"].get("version", 0)) < VERSION

    @property
    def thoroughness(self) -> tuple[int, ...]:
        """A sort key, larger for more thorough diagnoses."""
        return probe_rank(self.spec["probe"])

    def covers(self, spec: dict[str, Any]) -> bool:
        """Return whether a diagnosis with this ``spec`` would say no more."""
        same = _subject(self.spec) == _subject(spec) and self.spec["eps"] == spec["eps"]
        return same and self.thoroughness >= probe_rank(spec["probe"])


def probe_rank(probe: dict[str, Any]) -> tuple[int, ...]:
    """Return a sort key, larger for more thorough probes; probes without a version come first."""
    attacks = probe.get("attacks") or {}
    how = (int(attacks.get(key, 0)) for key in ("steps", "square_queries", "images"))
    return (int(probe.get("version", 0)), *how, int(probe["images"]))


def read_diagnosis(path: Path) -> Diagnosis:
    """Read one diagnosis; StoreError, which names the file, if unreadable."""
    story = read_sealed(path)
    with reading(path):
        spec = story["spec"]
        hash(_subject(spec)), float(spec["eps"]), probe_rank(spec["probe"])  # or it cannot be looked up
        flags = tuple(str(name) for name in story["flags"])
        return Diagnosis(id=story["id"], seed=story["seed"], spec=spec, flags=flags)


def is_covered(path: Path, task: Task) -> bool:
    """Return whether the model has a diagnosis that is as thorough; another plan's counts too."""
    stem = path.stem.rpartition("-")[0]
    others = sorted(path.parent.glob(f"{escape(stem)}-*.json"))
    return any(read_diagnosis(other).covers(task.spec) for other in others)


def find_diagnoses(out: Path) -> list[Path]:
    """Return all diagnoses of a store, in a fixed order."""
    return sorted(path for path in out.glob("diagnoses/*/*.json") if not path.name.startswith("."))


class Diagnoses:
    """The diagnoses of some stores, by what was probed; StoreError, naming the file, if one is damaged."""

    def __init__(self, stores: Iterable[Path]) -> None:
        self._of: dict[tuple[object, ...], list[Diagnosis]] = {}
        for path in (path for store in stores for path in find_diagnoses(store)):
            found = read_diagnosis(path)
            self._of.setdefault(_subject(found.spec), []).append(found)

    def of(self, spec: dict[str, Any]) -> Diagnosis | None:
        """Return the diagnosis of a cell's model for its images and norm, at its ε or the nearest one probed.

        A curve has cells at other ε than the one at which a model is diagnosed. If there are several, the
        most thorough one is returned.
        """
        found: Sequence[Diagnosis] = self._of.get(_subject(spec), ())
        nearest = min((_apart(each.spec["eps"], spec["eps"]) for each in found), default=math.inf)
        near = [each for each in found if _apart(each.spec["eps"], spec["eps"]) == nearest]
        return max(near, key=lambda each: (each.thoroughness, each.id), default=None)


def _subject(spec: dict[str, Any]) -> tuple[object, ...]:
    return (spec["parents"].get("model"), *(spec[key] for key in ("data", "norm", "n_examples")))


def _apart(eps: float, other: float) -> float:
    """Return the ratio of two ε as a logarithm; infinite if one is 0."""
    return abs(math.log(eps / other)) if eps > 0 and other > 0 else math.inf
