"""What MagNet's detectors and its reformer each withstand, next to the curves of Lu et al. 2018."""

from collections.abc import Iterator, Sequence

from robustness_bench.benchmark.report.detectors.lines import OBLIVIOUS, DetectionLine
from robustness_bench.benchmark.report.detectors.names import attack_label, confidence, published_name
from robustness_bench.benchmark.report.detectors.tables import NOT_A_CLAIM, Found, plain
from robustness_bench.benchmark.report.literature.published import LU, Curve, curves
from robustness_bench.benchmark.report.rendering.table import Cell, Column, Notes, Row, Table
from robustness_bench.benchmark.report.rendering.wording import span, training_seeds

_SYSTEM = "magnet"
_PARTS = {"none": "None", "det_only": "Detectors", "ref_only": "Reformer", "both": "Both"}
_THEIRS = ("none", "det", "ref", "both")


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
