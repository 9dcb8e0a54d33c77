"""The detectors of one data set: the lines, tables and curves of a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.plan.detectors import PART
from robustness_bench.benchmark.report.detectors.csv import detections_csv, detectors_csv
from robustness_bench.benchmark.report.detectors.lines import (
    NATURAL,
    OBLIVIOUS,
    SETTINGS,
    by_family,
    detection_lines,
)
from robustness_bench.benchmark.report.detectors.names import system_label
from robustness_bench.benchmark.report.detectors.rates import DetectorLine, Validation, detector_lines
from robustness_bench.benchmark.report.detectors.store import check_unions
from robustness_bench.benchmark.report.detectors.tables import Found as Lines
from robustness_bench.benchmark.report.detectors.tables import (
    decomposition,
    every_table,
    found,
    worst_of,
    worst_table,
)
from robustness_bench.benchmark.report.figures.namid import NothingToDrawError
from robustness_bench.benchmark.report.figures.roc import RocFigure, roc_figure
from robustness_bench.benchmark.report.rendering.table import Table
from robustness_bench.benchmark.site.contents import names
from robustness_bench.benchmark.site.contents.reading import Found
from robustness_bench.benchmark.site.contents.reproduce import base
from robustness_bench.benchmark.statistics import MeanStd
from robustness_bench.benchmark.store.detections import Detection
from robustness_bench.benchmark.store.generated import ConditionalExamples

Cells = list[Detection]


def by_setting(detections: Sequence[Detection]) -> list[Cells]:
    """Return groups of cells that do not contradict each other, data set by data set.

    A cell that fits several settings, as natural images fit any attacked ones, is in each of them.
    """
    families = sorted(by_family(detections), key=_family_order)
    settings: list[_Setting] = []
    for family in families:
        if not any(setting.takes(family) for setting in settings):
            settings.append(_Setting(family))
    for setting in settings:
        for family in families:
            setting.takes(family)
    return [setting.cells for setting in settings]


def _family_order(family: Cells) -> tuple[str, ...]:
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


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A system's summary; accuracies and shares in percent, None for what never ran or failed.

    Attributes:
        withstood: under the oblivious attack and κ with the lowest share.
        beaten: success of the best adaptive attack.
    """

    label: str
    natural: MeanStd | None
    withstood: MeanStd | None
    beaten: MeanStd | None


@dataclass(frozen=True, kw_only=True)
class DetectorBoard:
    """The cells of one data set under one setting.

    Attributes:
        setting: what distinguishes it from others of its data set; empty if there are none.
        generated: seed, generator's checkpoint id, its images; only the defenders' generators.
    """

    slug: str
    dataset: str
    setting: str
    cells: Sequence[Detection]
    held_out: Validation
    generated: Sequence[tuple[int, str, ConditionalExamples]]

    @cached_property
    def lines(self) -> Lines:
        return found(self.dataset, detection_lines(self.cells), self._detectors)

    @cached_property
    def _detectors(self) -> list[DetectorLine]:
        return detector_lines(self.cells, self.held_out)

    @cached_property
    def tables(self) -> dict[str, Table]:
        """Place on the page -> table: the worst κ, every κ, what each part withstands."""
        tables = {"worst": worst_table(self.lines)}
        if self.lines.attacks:
            tables["kappa"] = every_table(self.lines)
            parts = decomposition(self.lines, base(self.dataset))
            tables |= {"parts": parts} if parts else {}
        return tables

    @cached_property
    def roc(self) -> RocFigure | None:
        """The ROC figure; None if no attack has both natural and adversarial scores."""
        try:
            return roc_figure(self.dataset, self.cells)
        except NothingToDrawError:
            return None

    def downloads(self) -> dict[str, str]:
        """Return file name -> CSV text, as ``bench run`` writes it."""
        return {
            f"detections{self.slug.removeprefix('detectors')}.csv": detections_csv(self.lines.lines),
            f"{self.slug}.csv": detectors_csv(self._detectors),
        }

    def standings(self) -> list[Standing]:
        """Return every system, in the order of the tables."""
        return [self._standing(system) for system in self.lines.systems]

    def _standing(self, system: str) -> Standing:
        adaptive = [setting for setting in SETTINGS if setting not in (NATURAL, OBLIVIOUS)]
        held = self._least(system, *adaptive)
        return Standing(
            label=system_label(system),
            natural=self._least(system, NATURAL),
            withstood=self._least(system, OBLIVIOUS),
            beaten=held and held._replace(mean=100 - held.mean),
        )

    def _least(self, system: str, *settings: str) -> MeanStd | None:
        line = worst_of([line for setting in settings for line in self.lines.at(system, setting)])
        return line.figure("both") if line else None


def make_detector_boards(everything: Found) -> list[DetectorBoard]:
    """Return a board per data set and setting.

    Raises:
        StoreError: cells that contradict each other.
    """
    settings = by_setting(everything.detections)
    shown, met = everything.generated, [cells[0].spec["dataset"] for cells in settings]
    boards = []
    for cells in settings:
        check_unions(cells)
        dataset, name = cells[0].spec["dataset"], name_of(cells)
        several = met.count(dataset) > 1
        board = DetectorBoard(
            slug=names.slug("detectors", dataset, *([name] if several else [])),
            dataset=dataset,
            setting=f"{_images(cells)}, setting {name}" if several else "",
            cells=cells,
            held_out=everything.held_out,
            generated=[(seed, each, shown[each]) for each, seed in _parts(cells).items() if each in shown],
        )
        boards.append(board)
    return boards


def _parts(cells: Sequence[Detection]) -> dict[str, int]:
    """Return checkpoint id -> seed of every defending network, seed by seed."""
    met = [(cell.seed, role, part) for cell in cells for role, part in cell.spec["parents"].items()]
    return {part: seed for seed, role, part in sorted(met) if role.startswith(PART)}


def _images(cells: Sequence[Detection]) -> str:
    attacked = sorted({cell.spec["n_examples"] for cell in cells if cell.spec["setting"] != NATURAL})
    return f"{names.listed([str(count) for count in attacked])} attacked images" if attacked else "natural"
