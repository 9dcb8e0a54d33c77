"""Groups of detector cells: one data set, and one set of networks per seed."""

from collections.abc import Sequence

from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.report.detectors.lines import NATURAL, OBLIVIOUS, by_family
from robustness_bench.benchmark.store.detections import Detection

Cells = list[Detection]


def by_setting(detections: Sequence[Detection]) -> list[Cells]:
    """Return groups of cells that do not contradict each other, data set by data set.

    A cell that fits several settings, as natural images fit any attacked ones, is in each of them.
    """
    families = sorted(by_family(detections), key=_order)
    settings: list[_Setting] = []
    for family in families:
        if not any(setting.takes(family) for setting in settings):
            settings.append(_Setting(family))
    for setting in settings:
        for family in families:
            setting.takes(family)
    return [setting.cells for setting in settings]


def _order(family: Cells) -> tuple[str, ...]:
    """Return a sort key that puts cells of the same sort together, whatever their settings."""
    spec = family[0].spec
    shown = [str(spec[key]) for key in ("dataset", "data", "system", "setting", "attack", "confidence")]
    return (*shown, str(spec["n_examples"]), family[0].family)


class _Setting:
    """Families of cells that agree."""

    def __init__(self, family: Cells) -> None:
        self._facts: dict[object, object] = {}
        self._families: set[str] = set()
        self.cells: Cells = []
        self._add(family, _facts_of(family))

    def takes(self, family: Cells) -> bool:
        """Add a family unless it contradicts known facts. Return whether the family was added."""
        facts = _facts_of(family)
        if any(self._facts.get(key, value) != value for key, value in facts.items()):
            return False
        self._add(family, facts)
        return True

    def _add(self, family: Cells, facts: dict[object, object]) -> None:
        if family[0].family not in self._families:
            self._families.add(family[0].family)
            self._facts |= facts
            self.cells += family


def _facts_of(family: Cells) -> dict[object, object]:
    """Return the facts that cells of one setting share: data, sizes, a cell's family, a seed's networks."""
    spec = family[0].spec
    cell = tuple(spec[key] for key in ("system", "setting", "attack", "confidence"))
    facts: dict[object, object] = {
        "data": (spec["dataset"], spec["data"]),
        ("images", spec["setting"] if spec["setting"] in (NATURAL, OBLIVIOUS) else "adaptive"): spec[
            "n_examples"
        ],
        ("cell", cell): family[0].family,
    }
    for record in family:
        for role, parent in record.spec["parents"].items():
            if role != "crafted":
                facts["network", record.seed, role] = parent
    return facts


def name_of(cells: Cells) -> str:
    """Return a name that distinguishes this setting from others of its data set."""
    return short_hash(sorted({record.family for record in cells}))[:6]
