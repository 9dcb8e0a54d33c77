"""The detectors' tables of one data set: every system at its worst κ, at every κ, and by its parts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from robustness_bench.benchmark.report.detectors.lines import GREY, NATURAL, OBLIVIOUS, WHITE, DetectionLine
from robustness_bench.benchmark.report.detectors.names import (
    attack_label,
    confidence,
    known_attacks,
    published_name,
    system_group,
    system_label,
    system_names,
)
from robustness_bench.benchmark.report.detectors.rates import UNION, DetectorLine
from robustness_bench.benchmark.report.lines.results import position
from robustness_bench.benchmark.report.literature.published import LU, Curve, curves
from robustness_bench.benchmark.report.rendering.table import Cell, Column, Notes, Row, Table, spread
from robustness_bench.benchmark.report.rendering.wording import span, training_seeds

NOT_A_CLAIM = "oblivious only: not a security claim"
MISSING = Cell(text="–")
_ADAPTIVE = {WHITE: "White box", GREY: "Grey box"}
_INTERVAL = "the 95 % Wilson interval of the mean over images, widened by the standard deviation over seeds"
_SYSTEM = "magnet"
_PARTS = {"none": "None", "det_only": "Detectors", "ref_only": "Reformer", "both": "Both"}
_THEIRS = ("none", "det", "ref", "both")


@dataclass(frozen=True, kw_only=True)
class Found:
    """The lines of one data set.

    Attributes:
        unions: lines of the union of each system's detectors.
    """

    label: str
    lines: Sequence[DetectionLine]
    unions: Sequence[DetectorLine]

    @property
    def systems(self) -> list[str]:
        """The systems in the order of the rows."""
        return sorted({line.system for line in self.lines}, key=lambda name: position(name, system_names()))

    @property
    def attacks(self) -> list[str]:
        """The oblivious attacks in the order of the columns."""
        met = {line.attack for line in self.lines if line.setting == OBLIVIOUS}
        return sorted(met, key=lambda name: position(name, known_attacks()))

    def at(self, system: str, setting: str = "", attack: str = "") -> list[DetectionLine]:
        """Return a system's lines by κ, of every setting and attack by default."""
        return [
            line
            for line in self.lines
            if line.system == system and setting in ("", line.setting) and attack in ("", line.attack)
        ]

    def kappas(self, attack: str = "") -> list[float]:
        """Return the κ that an oblivious attack ran with on any system."""
        met = (line for line in self.lines if line.setting == OBLIVIOUS and attack in ("", line.attack))
        return sorted({line.confidence for line in met})


def found(label: str, lines: Iterable[DetectionLine], detectors: Iterable[DetectorLine]) -> Found:
    """Return the lines of the data set with this label."""
    return Found(
        label=label,
        lines=[line for line in lines if line.dataset == label],
        unions=[each for each in detectors if each.cell.dataset == label and each.detector == UNION],
    )


def worst_table(there: Found) -> Table:
    """Return a row per system: natural images, each oblivious attack at its worst κ, adaptive attacks."""
    notes = Notes()
    rows = [_alone(there, notes), *(_row(there, system, notes) for system in there.systems)]
    return Table(
        name=f"detectors-{there.label}",
        title=f"Detectors, {there.label}",
        caption=worst_caption(there.label, there.lines),
        measure="accuracy",
        heading="System",
        columns=(
            *(Column(group="Natural images", label=name) for name in ("Accuracy", "Flagged", "Nominal")),
            *(
                Column(group="Withstood at the worst κ, oblivious", label=attack_label(name))
                for name in there.attacks
            ),
            *(Column(group="Success of an adaptive attack", label=name) for name in _ADAPTIVE.values()),
        ),
        rows=tuple(rows),
        notes=tuple(notes.lettered()),
        template="paper",
    )


def _alone(there: Found, notes: Notes) -> Row:
    """Return the row of the classifier without a system; every system's cells hold its answers."""
    first = there.systems[0]
    worst = [_worst(there, first, attack, notes, "none") for attack in there.attacks]
    natural = _share(there.at(first, NATURAL), "none", notes)
    return Row(
        group="alone",
        label="Classifier alone",
        cells=(natural, MISSING, MISSING, *worst, *[MISSING] * len(_ADAPTIVE)),
    )


def _row(there: Found, system: str, notes: Notes) -> Row:
    adaptive = {setting: there.at(system, setting) for setting in _ADAPTIVE}
    claim = "" if any(map(worst_of, adaptive.values())) else NOT_A_CLAIM
    accuracy = _share(there.at(system, NATURAL), "both", notes)
    remarks = dict.fromkeys(text for line in there.at(system) for text in line.remarks)
    return Row(
        group=system_group(system),
        label=system_label(system),
        cells=(
            replace(accuracy, marks=notes.marks(*remarks) + accuracy.marks),
            *_false_positives(there, system),
            *(_worst(there, system, attack, notes, "both") for attack in there.attacks),
            *(_success(lines, notes, claim) for lines in adaptive.values()),
        ),
    )


def _share(lines: Sequence[DetectionLine], name: str, notes: Notes) -> Cell:
    if not lines:
        return MISSING
    (line,) = lines
    figure, interval = line.figure(name), line.interval(name)
    return Cell(text=bracketed(figure.mean, interval)) if figure and interval else failed(line, notes)


def _false_positives(there: Found, system: str) -> Iterator[Cell]:
    """Yield the measured rate on test images, and the nominal rate."""
    at = [each for each in there.unions if (each.cell.system, each.cell.setting) == (system, NATURAL)]
    fpr, nominal = (at[0].figure(name) for name in ("fpr", "nominal")) if at else (None, None)
    interval = at[0].false_positives() if at else None
    yield Cell(text=bracketed(fpr.mean, interval)) if fpr and interval else MISSING
    yield Cell(text=f"{nominal.mean:.2f}") if nominal else MISSING


def _worst(there: Found, system: str, attack: str, notes: Notes, name: str) -> Cell:
    lines = there.at(system, OBLIVIOUS, attack)
    line = worst_of(lines, name)
    figure, interval = (line.figure(name), line.interval(name)) if line else (None, None)
    if line is None or figure is None or interval is None:
        return failed(lines[0], notes) if lines else MISSING
    text = f"{bracketed(figure.mean, interval)} κ {confidence(line.confidence)}"
    return Cell(text=text, marks=notes.marks(_gaps(lines, there.kappas(attack), name)))


def worst_of(lines: Sequence[DetectionLine], name: str = "both") -> DetectionLine | None:
    """Return the line that withstands least, the first of equals; None if no line has a number."""
    figures = [(figure.mean, line) for line in lines if (figure := line.figure(name))]
    return min(figures, key=lambda each: each[0])[1] if figures else None


def _gaps(lines: Sequence[DetectionLine], kappas: Sequence[float], name: str) -> str:
    """Say which κ could not be considered for the worst one."""
    have = [line.confidence for line in lines if line.figure(name)]
    lack = [confidence(kappa) for kappa in kappas if kappa not in have]
    return f"without κ {', '.join(lack)}, which failed or did not run" if lack else ""


def _success(lines: Sequence[DetectionLine], notes: Notes, claim: str) -> Cell:
    """Return the best adaptive attack's share of images neither flagged nor corrected by the reformer."""
    line = worst_of(lines)
    figure, interval = (line.figure("both"), line.interval()) if line else (None, None)
    if line is None or figure is None or interval is None:
        cell = failed(lines[0], notes) if lines else MISSING
        return replace(cell, marks=cell.marks + notes.marks(claim))
    return Cell(text=bracketed(100 - figure.mean, (100 - interval[1], 100 - interval[0])))


def every_table(there: Found) -> Table:
    """Return a table with a block per oblivious attack, a row per system, a column per κ."""
    notes = Notes()
    kappas = there.kappas()
    return Table(
        name=f"detectors-{there.label}-kappa",
        title=f"Detectors at every κ, {there.label}",
        caption=every_caption(there.label, there.lines),
        measure="detection",
        heading="System",
        columns=tuple(Column(group="Confidence κ of the attack", label=confidence(each)) for each in kappas),
        rows=tuple(row for attack in there.attacks for row in _rows_of(there, attack, kappas, notes)),
        notes=tuple(notes.lettered()),
        template="paper",
    )


def _rows_of(there: Found, attack: str, kappas: Sequence[float], notes: Notes) -> Iterator[Row]:
    alone = [("alone", "Classifier alone", there.systems[0], "none")]
    guarded = [(system_group(name), system_label(name), name, "both") for name in there.systems]
    for group, label, system, figure in [*alone, *guarded]:
        at = {line.confidence: line for line in there.at(system, OBLIVIOUS, attack)}
        cells = tuple(plain(at.get(kappa), figure, notes) for kappa in kappas)
        yield Row(group=group, label=label, cells=cells, block=attack_label(attack))


def bracketed(mean: float, interval: tuple[float, float]) -> str:
    """Return a share in percent and its interval."""
    low, high = interval
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def failed(line: DetectionLine, notes: Notes) -> Cell:
    """Return the cell of a line without a number: its seeds failed, or no image counts."""
    if not line.error:
        return MISSING
    return Cell(text="ERROR", error=line.error, marks=notes.marks(f"failed: {line.error}"))


def plain(line: DetectionLine | None, name: str, notes: Notes) -> Cell:
    """Return mean and standard deviation over seeds."""
    if line is None:
        return MISSING
    figure = line.figure(name)
    if figure is None:
        return failed(line, notes)
    return Cell(text=spread(figure.mean, figure.std, 1), marks=notes.marks(*line.remarks))


def worst_caption(label: str, lines: Sequence[DetectionLine]) -> str:
    kappas = sorted({line.confidence for line in lines if line.setting == OBLIVIOUS})
    ran = f" ({', '.join(map(confidence, kappas))})" if kappas else ""
    return (
        f"{_withstood(label, lines)} In brackets {_INTERVAL}. Oblivious attacks see the classifier alone; "
        f"the worst κ is that of those run{ran} at which least is withstood, for the defender does not "
        "choose it. Natural images: accuracy counts a flagged image as wrong; flagged is the share of false "
        "alarms, nominal the sum of the shares that the detectors' thresholds flag of held-out images. "
        "Success: share of the images on which an attack that knows the system (white box; grey box: how it "
        "is made, but not its weights) is neither flagged nor classified correctly. A row without one was "
        "attacked obliviously only: it is not a security claim."
    )


def every_caption(label: str, lines: Sequence[DetectionLine]) -> str:
    own = [line for line in lines if line.setting == OBLIVIOUS]
    intervals = [interval for line in own if (interval := line.interval())]
    widest = max(((high - low) / 2 for low, high in intervals), default=0.0)
    several = any(len(line.per_seed) > 1 for line in own)
    spread = " ± sample standard deviation over seeds" if several else ""
    return (
        f"{_withstood(label, own)} Mean{spread}; every interval ({_INTERVAL}) is in detections.csv."
        f" The widest is ± {widest:.1f} points. Oblivious only: not a security claim."
    )


def _withstood(label: str, lines: Sequence[DetectionLine]) -> str:
    """Return the measure, and the numbers of images and seeds."""
    kinds = {
        "under oblivious attacks": [line for line in lines if line.setting == OBLIVIOUS],
        "under adaptive ones": [line for line in lines if line.setting not in (OBLIVIOUS, NATURAL)],
    }
    counted = [f"{_counted_images(found)} {what}" for what, found in kinds.items() if found]
    natural = [line for line in lines if line.setting == NATURAL]
    everything = [f"{_counted_images(natural)} natural ones"] if natural else []
    attacked = f"of the test images that the classifier gets right {', '.join(counted)}" if counted else ""
    seeds = training_seeds(len(line.per_seed) for line in lines)
    return (
        "Withstood: share in % of the attacked images that are flagged or, reformed, classified correctly. "
        f"{label}: {'; '.join(filter(None, [attacked, *everything]))}; {seeds}."
    )


def _counted_images(lines: Iterable[DetectionLine]) -> str:
    return span(line.n for line in lines if line.n)


def decomposition(there: Found, dataset: str) -> Table | None:
    """Return a table with a block per attack and a row per κ that ran; None without results of MagNet.

    Args:
        dataset: whose published curves are shown next to ours, if there are any.
    """
    lines = there.at(_SYSTEM, OBLIVIOUS)
    if not lines:
        return None
    drawn = {
        (each.attack, each.kappa): each
        for each in curves()
        if (each.dataset, each.variant) == (dataset, "default")
    }
    notes = Notes()
    groups = ["Ours", LU] if drawn else ["Ours"]
    return Table(
        name=f"decomposition-{there.label}",
        title=f"What each part of MagNet withstands, {there.label}",
        caption=_caption(there.label, lines, bool(drawn)),
        measure="detection",
        heading="κ",
        columns=tuple(Column(group=group, label=part) for group in groups for part in _PARTS.values()),
        rows=tuple(_rows(there, drawn, notes)),
        notes=tuple(notes.lettered()),
        template="paper",
    )


def _caption(label: str, lines: Sequence[DetectionLine], beside: bool) -> str:
    text = (
        f"Share in % of {span(line.n for line in lines)} attacked test images of {label} that are "
        "withstood with none of MagNet's parts, its detectors alone (flagged or classified correctly), its "
        f"reformer alone (classified correctly once reformed), and both; "
        f"{training_seeds(len(line.per_seed) for line in lines)}"
    )
    text += ", mean ± sample standard deviation." if any(len(line.per_seed) > 1 for line in lines) else "."
    if beside:
        text += f" {LU}: read off the figures of arXiv:1805.00310, EAD with β = 0.1; good to 0.1."
    return f"{text} {NOT_A_CLAIM.capitalize()}."


def _rows(there: Found, drawn: dict[tuple[str, float], Curve], notes: Notes) -> Iterator[Row]:
    for attack in there.attacks:
        for line in there.at(_SYSTEM, OBLIVIOUS, attack):
            ours = [plain(line, part, notes) for part in _PARTS]
            point = drawn.get((published_name(attack), line.confidence))
            theirs = (
                [Cell(text=f"{getattr(point, name):.1f}" if point else "") for name in _THEIRS]
                if drawn
                else []
            )
            yield Row(
                group=attack,
                label=confidence(line.confidence),
                cells=(*ours, *theirs),
                block=attack_label(attack),
            )
