"""What a store's diagnoses say of the models of its records."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import StoreError


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


def read_diagnosis(path: Path) -> Diagnosis:
    """One diagnosis.

    Raises:
        StoreError: unreadable; the message names the file.
    """
    try:
        story = json.loads(path.read_text())
        spec = story["spec"]
        _subject(spec), float(spec["eps"])
        flags = tuple(str(name) for name in story["flags"])
        return Diagnosis(id=story["id"], seed=story["seed"], spec=spec, flags=flags)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({error}); delete it and run the same command again") from error


def find_diagnoses(out: Path) -> list[Path]:
    """All diagnoses of a store, in a fixed order."""
    return sorted(path for path in out.glob("diagnoses/*/*.json") if not path.name.startswith("."))


class Diagnoses:
    """Of some stores, by what was probed.

    Raises:
        StoreError: one is damaged; the message names the file.
    """

    def __init__(self, stores: Iterable[Path]) -> None:
        self._of: dict[tuple[object, ...], list[Diagnosis]] = {}
        for path in (path for store in stores for path in find_diagnoses(store)):
            found = read_diagnosis(path)
            self._of.setdefault(_subject(found.spec), []).append(found)

    def of(self, spec: dict[str, Any]) -> Diagnosis | None:
        """That of a cell's model on its images under its norm: at its ε, or at the nearest that was probed.

        A curve has cells at other ε than the one at which a model is diagnosed.
        """
        found: Sequence[Diagnosis] = self._of.get(_subject(spec), ())
        return min(found, key=lambda each: (_apart(each.spec["eps"], spec["eps"]), each.id), default=None)


def _subject(spec: dict[str, Any]) -> tuple[object, ...]:
    return (spec["parents"].get("model"), *(spec[key] for key in ("data", "norm", "n_examples")))


def _apart(eps: float, other: float) -> float:
    """How many times one is the other, as a logarithm; endless where one is 0."""
    return abs(math.log(eps / other)) if eps > 0 and other > 0 else math.inf
