"""How thoroughly a model is diagnosed: its probe costs at most a given share of its own attacks."""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from robustness_bench.attacks import registry
from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.files import cache_home, read_json, short_hash, write_json

if TYPE_CHECKING:
    from robustness_bench.benchmark.plan.tasks import Task

SHARE = 0.5
"""The probe's share of the passes of a model's most expensive white-box cell."""
VERSION = 2
"""Version of the probe; increment it when the checks change."""
SURVIVORS = 0.5
"""Assumed share of samples that no step of an attack fools."""
BACKWARD = 2.0
"""Cost of a backward pass in forward passes."""
SIGNS = {"images": 256, "passes": 5, "mixed": 16}
"""What every diagnosis does: this many passes and a gradient on this many images; ``mixed`` of them also in
three batches of other sizes."""
_LEVELS: tuple[tuple[int, dict[str, Any]], ...] = (
    (32, {"steps": 20, "rel_step_size": 0.1, "restarts": 2, "square_queries": 500}),
    (16, {"steps": 10, "rel_step_size": 0.25, "restarts": 1, "square_queries": 100}),
)
"""The smallest number of images worth attacking (fewer only if there are no more), and the settings."""
_BUDGETS = [0.5, 1.0, 2.0, 4.0]
_MOST = 256  # images that are attacked


class Passes(NamedTuple):
    """Passes of single images."""

    forwards: float
    backwards: float

    @property
    def total(self) -> float:
        """Passes in units of a forward pass."""
        return self.forwards + BACKWARD * self.backwards


def probe_for(cells: Iterable["Task"]) -> dict[str, Any]:
    """Return the probe of a model with these cells under one norm; the same cells give the same probe.

    Its attacks are those of the first level that fits the budget on enough images (or on all, if there are
    fewer), on as many images as fit, at most 256. If no level fits, there are no attacks.

    Returns:
        ``version``, ``images``, ``passes`` and ``mixed``; ``attacks``: None or ``images``, ``steps``,
        ``rel_step_size``, ``restarts``, ``square_queries`` and ``budgets``.
    """
    budget, available = 0.0, _MOST
    for cell in cells:
        available = min(_MOST, cell.spec["n_examples"])
        budget = max(budget, SHARE * _cost(cell))
    return {"version": VERSION, **SIGNS, "attacks": _attacks(budget, available)}


def _attacks(budget: float, available: int) -> dict[str, Any] | None:
    for least, level in _LEVELS:
        attacks = {"images": 1, **level, "budgets": _BUDGETS}
        images = min(available, int(budget / attacks_passes(attacks).total))
        if images >= min(least, available):
            return {**attacks, "images": images}
    return None


def _cost(cell: "Task") -> float:
    """Return the cost of a white-box cell's attack in forward passes; 0 for other cells."""
    spec = cell.spec
    if spec["threat"] != "white" or spec["kind_of_attack"] == "natural":
        return 0.0
    return float(spec["n_examples"]) * SURVIVORS * _passes(spec["parameters"], cell.data.info.classes).total


def _passes(parameters: dict[str, Any], classes: int) -> Passes:
    """Return an attack's passes on a sample that is never fooled.

    Only its class knows them, and a class imports torch, which takes longer than all else where everything is
    done. So those of our own attacks are kept in the cache, for as long as their source stays as it is.
    """
    if not parameters["attack"].startswith("attacks."):
        return Passes(*registry.build_attack(parameters).passes(classes))
    file, key = cache_home() / "passes.json", short_hash([parameters, classes])
    known = _known(file)
    if key not in known:
        known[key] = [*registry.build_attack(parameters).passes(classes)]
        with suppress(StoreError):  # a cache that cannot be written costs time alone
            write_json(file, {"source": _source(), "passes": known})
    return Passes(*known[key])


@cache
def _known(file: Path) -> dict[str, list[int]]:
    """Return what the cache has: hash of parameters and number of classes -> forward and backward passes."""
    with suppress(StoreError):
        kept = read_json(file)
        passes = kept.get("passes")
        if kept.get("source") == _source() and isinstance(passes, dict):
            return {key: pair for key, pair in passes.items() if _is_pair(pair)}
    return {}


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(type(each) is int and each >= 0 for each in value)
    )


@cache
def _source() -> str:
    """Return a hash of all our attacks' source."""
    files = sorted(Path(registry.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def attacks_passes(attacks: dict[str, Any], withstanding: float = 1.0) -> Passes:
    """Return the cost of a probe's attacks, for all images and all attacks together.

    Args:
        withstanding: share of the images that no step fools; only the runs at several budgets continue
            with the others.
    """
    steps, images, budgets = attacks["steps"], attacks["images"], len(attacks["budgets"])
    leaving = withstanding * (2 * attacks["restarts"] + 1)  # log-odds, margin, no limit
    queries = withstanding * attacks["square_queries"]
    forwards = (leaving + budgets) * (steps + 3) + queries + budgets
    return Passes(images * forwards, images * (leaving + budgets) * steps)


def probe_passes(probe: dict[str, Any], images: int, withstanding: float = 1.0) -> Passes:
    """Return the cost of a whole probe.

    Args:
        images: number of images of the cells.
        withstanding: as in `attacks_passes`.
    """
    n = min(probe["images"], images)
    attacks = attacks_passes(probe["attacks"], withstanding) if probe["attacks"] else Passes(0.0, 0.0)
    signs = n * probe["passes"] + 3 * min(n, probe["mixed"])
    return Passes(signs + attacks.forwards, n + attacks.backwards)
