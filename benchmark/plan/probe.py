"""How thoroughly a model is diagnosed: its probe costs at most a share of what its own attacks cost."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from robustness_bench.benchmark.plan.tasks import Task

SHARE = 0.5
"""Of the passes of a model's most expensive white-box cell."""
VERSION = 2
"""Of what the probe looks for; raise it when that changes."""
SURVIVORS = 0.5
"""Assumed share of samples that no step of an attack breaks."""
BACKWARD = 2.0
"""Cost of a backward pass in forward passes."""
SIGNS = {"images": 256, "passes": 5, "mixed": 16}
"""What every diagnosis has: on so many images so many passes and a gradient; ``mixed`` of them in three
batches of other sizes."""
_LEVELS: tuple[tuple[int, dict[str, Any]], ...] = (
    (32, {"steps": 20, "rel_step_size": 0.1, "restarts": 2, "square_queries": 500}),
    (16, {"steps": 10, "rel_step_size": 0.25, "restarts": 1, "square_queries": 100}),
)
"""The least images for which it is worth running, unless there are fewer, and the attacks' settings."""
_BUDGETS = [0.5, 1.0, 2.0, 4.0]
_MOST = 256  # images that are attacked


class Passes(NamedTuple):
    """Of single images."""

    forwards: float
    backwards: float

    @property
    def total(self) -> float:
        """In forward passes."""
        return self.forwards + BACKWARD * self.backwards


def probe_for(cells: Iterable["Task"]) -> dict[str, Any]:
    """The probe of a model whose cells under one norm are these; the same cells give the same probe.

    Its attacks are of the first level that can be afforded on enough images (or all, if there are fewer),
    on as many as can be, at most 256; where there is none, there are no attacks.

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
    """Of a white-box cell's attack, in forward passes; of any other, nothing."""
    from robustness_bench.attacks.registry import build_attack

    spec = cell.spec
    if spec["threat"] != "white" or spec["kind_of_attack"] == "natural":
        return 0.0
    passes = Passes(*build_attack(spec["parameters"]).passes(cell.data.info.classes))
    return float(spec["n_examples"]) * SURVIVORS * passes.total


def attacks_passes(attacks: dict[str, Any], withstanding: float = 1.0) -> Passes:
    """What the attacks of a probe cost, all images and all attacks together.

    Args:
        withstanding: share of the images that no step breaks; only the budgets' runs go on with the others.
    """
    steps, images, budgets = attacks["steps"], attacks["images"], len(attacks["budgets"])
    leaving = withstanding * (2 * attacks["restarts"] + 1)  # log-odds and margin, and no limit
    queries = withstanding * attacks["square_queries"]
    forwards = (leaving + budgets) * (steps + 3) + queries + budgets
    return Passes(images * forwards, images * (leaving + budgets) * steps)


def probe_passes(probe: dict[str, Any], images: int, withstanding: float = 1.0) -> Passes:
    """What a whole probe costs.

    Args:
        images: of the cells.
        withstanding: as of `attacks_passes`.
    """
    n = min(probe["images"], images)
    attacks = attacks_passes(probe["attacks"], withstanding) if probe["attacks"] else Passes(0.0, 0.0)
    signs = n * probe["passes"] + 3 * min(n, probe["mixed"])
    return Passes(signs + attacks.forwards, n + attacks.backwards)
