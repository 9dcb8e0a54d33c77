"""Pairs of natural and adversarial scores per detector, from the cells of one data set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustness_bench.attacks.registry import attack_names
from robustness_bench.benchmark.errors import BenchError, last_line
from robustness_bench.benchmark.files import canonical_json
from robustness_bench.benchmark.report.detectors.lines import (
    NATURAL,
    OBLIVIOUS,
    SETTINGS,
    name_of,
    natural_cells,
    scores_of,
    successful,
)
from robustness_bench.benchmark.report.detectors.names import (
    attack_label,
    detector_names,
    system_label,
    system_names,
)
from robustness_bench.benchmark.report.lines.results import position
from robustness_bench.benchmark.store.detections import Detection


class Panel(NamedTuple):
    """The adversarial images that a panel shows.

    Attributes:
        system: the attacked system; "" for an oblivious attack, whose images are the same for all systems.
    """

    setting: str
    attack: str
    system: str

    @property
    def label(self) -> str:
        """The panel's heading."""
        attack = attack_label(self.attack)
        if not self.system:
            return attack
        return f"{attack}, {self.setting} box, {system_label(self.system)}"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The scores of one detector, one seed.

    Attributes:
        alias: the first detector that computes the same score, possibly itself.
        natural: (n,), scores of all natural images.
        adversarial: (m,), scores of the images that beat the bare classifier.
        fpr, tpr: the share of each that it flags; tpr is NaN without adversarial images.
        remark: a remark on it, or "".
    """

    panel: Panel
    detector: str
    alias: str
    kappa: float
    seed: int
    natural: NDArray[np.float64]
    adversarial: NDArray[np.float64]
    threshold: float
    fpr: float
    tpr: float
    remark: str


def pair_up(detections: Sequence[Detection], kappas: Sequence[float] = ()) -> tuple[list[Pair], list[str]]:
    """Return each detector on each panel, once even if several systems have it, and notes on the rest.

    Args:
        detections: cells of one data set.
        kappas: only these; default: all.

    Raises:
        BenchError: two cells contradict each other; no cell has one of ``kappas``.
        StoreError: a score is NaN.
    """
    notes = [
        f"{name_of(cell)} failed: {last_line(cell.error)}"
        for cell in sorted(detections, key=_order)
        if cell.status == "error"
    ]
    cells = sorted((cell for cell in detections if cell.status == "ok"), key=_order)
    natural = natural_cells(cells, _calibrated)
    attacked = _at([cell for cell in cells if cell.spec["setting"] != NATURAL], kappas)
    _check_distinct(attacked)
    aliases = _aliases(cells)
    pairs: dict[tuple[Panel, str, float, int], Pair] = {}
    for cell in attacked:
        clean = natural.get(_calibrated(cell))
        if clean is None:
            notes.append(f"{name_of(cell)}: its natural images are missing")
            continue
        for detector in cell.detectors:
            key = (_panel(cell), detector, float(cell.spec["confidence"]), cell.seed)
            if key not in pairs:
                pairs[key] = _pair(key, clean, cell, aliases[detector])
    found = sorted(pairs.values(), key=lambda pair: (position(pair.detector, detector_names()), pair.seed))
    return found, list(dict.fromkeys(notes))


def panels_of(pairs: Iterable[Pair]) -> list[Panel]:
    """Return the panels in order: oblivious attacks first; attacks and systems as in the tables."""
    return sorted({pair.panel for pair in pairs}, key=_panel_order)


def _pair(key: tuple[Panel, str, float, int], clean: Detection, cell: Detection, alias: str) -> Pair:
    panel, detector, kappa, seed = key
    fooled = successful(cell)
    flags = cell.flags(detector)[fooled]
    return Pair(
        panel=panel,
        detector=detector,
        alias=alias,
        kappa=kappa,
        seed=seed,
        natural=scores_of(clean, detector),
        adversarial=scores_of(cell, detector)[fooled],
        threshold=cell.thresholds[detector],
        fpr=float(clean.flags(detector).mean()),
        tpr=float(flags.mean()) if len(flags) else float("nan"),
        remark=cell.remarks.get(detector, ""),
    )


def _panel(cell: Detection) -> Panel:
    setting = str(cell.spec["setting"])
    return Panel(setting, cell.spec["attack"], "" if setting == OBLIVIOUS else cell.spec["system"])


def _calibrated(cell: Detection) -> tuple[object, ...]:
    return cell.spec["system"], cell.seed, tuple(sorted(cell.thresholds.items()))


def _aliases(cells: Sequence[Detection]) -> dict[str, str]:
    """Return detector -> the first of those that differ from it only in the threshold."""
    identities = {
        name: canonical_json(cell.spec["detectors"][name]) for cell in cells for name in cell.detectors
    }
    first: dict[str, str] = {}
    for name in sorted(identities, key=lambda each: position(each, detector_names())):
        first.setdefault(identities[name], name)
    return {name: first[identity] for name, identity in identities.items()}


def _at(cells: list[Detection], kappas: Sequence[float]) -> list[Detection]:
    there = sorted({float(cell.spec["confidence"]) for cell in cells})
    if cells and (absent := sorted(set(kappas) - set(there))):
        met = ", ".join(f"{kappa:g}" for kappa in there)
        raise BenchError(f"no results at κ = {', '.join(f'{kappa:g}' for kappa in absent)}: there are {met}")
    return [cell for cell in cells if not kappas or cell.spec["confidence"] in kappas]


def _check_distinct(detections: Sequence[Detection]) -> None:
    """Reject two runs of the same cell under different settings."""
    seen: dict[object, Detection] = {}
    for cell in detections:
        key = (_panel(cell), cell.spec["system"], cell.spec["confidence"], cell.seed)
        other = seen.setdefault(key, cell)
        if other.id != cell.id:
            raise BenchError(
                f"{name_of(cell)} was run under different settings ({other.id} and {cell.id}): pick one by "
                "--n-examples, or move the files of the other out of the store"
            )


def _order(cell: Detection) -> tuple[object, ...]:
    system = position(cell.spec["system"], system_names())
    return *_panel_order(_panel(cell)), system, cell.spec["confidence"], cell.seed


def _panel_order(panel: Panel) -> tuple[object, ...]:
    return (
        position(panel.setting, SETTINGS),
        position(panel.attack, attack_names()),
        position(panel.system, system_names()),
    )
