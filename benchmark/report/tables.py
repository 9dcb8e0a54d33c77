"""The white-box and the black-box table of one data set, from the lines of its records."""

from collections.abc import Callable
from dataclasses import dataclass

from attacks.registry import attack_presets
from benchmark.protocol import NORMS, Settings
from benchmark.report.results import Line
from benchmark.report.table import Cell, Column, Row, Table
from benchmark.statistics import MeanStd
from defenses.registry import defense_presets

_NORM_SYMBOLS = {"linf": "L∞", "l2": "L2"}
_THREAT_NAMES = {"white": "White box", "black": "Black box"}
_MISSING = "–"
Pick = Callable[[Line], MeanStd | None]


@dataclass(frozen=True, kw_only=True)
class _Measure:
    """One column: which attack's lines, and which figure of them."""

    norm: str
    attack: str
    label: str
    pick: Pick


def threat_table(threat: str, lines: list[Line], settings: Settings, label: str) -> Table | None:
    """The table of one threat model, or None where there are no lines.

    Args:
        lines: all of one data set and one setting; other threats are passed over.
        label: what the data set is called.
    """
    lines = [line for line in lines if line.threat == threat]
    if not lines:
        return None
    cells = {(line.norm, line.attack, line.defense): line for line in lines}
    measures = _measures(lines)
    presets = defense_presets()
    defenses = [name for name in presets if any(line.defense == name for line in lines)]
    figures = {
        (defense, measure): _figure(cells.get((measure.norm, measure.attack, defense)), measure.pick)
        for defense in defenses
        for measure in measures
    }
    decimals = 2 if min(line.images for line in lines) >= 1000 else 1
    best = {m: _best([figures[defense, m] for defense in defenses], decimals) for m in measures}
    rows = []
    for defense in defenses:
        row = []
        for measure in measures:
            line = cells.get((measure.norm, measure.attack, defense))
            row.append(_cell(line, figures[defense, measure], best[measure], decimals))
        rows.append(Row(group=presets[defense].group, label=presets[defense].label, cells=tuple(row)))
    budgets = {line.norm: line.eps for line in lines}
    return Table(
        name=f"{label}-{threat}",
        title=f"{_THREAT_NAMES[threat]}, {label}",
        caption=_caption(threat, lines, settings, label),
        columns=tuple(
            Column(group=f"{_NORM_SYMBOLS[m.norm]} (ε = {_budget(budgets[m.norm])})", label=m.label)
            for m in measures
        ),
        rows=tuple(rows),
    )


def _measures(lines: list[Line]) -> list[_Measure]:
    presets, present = attack_presets(), {(line.norm, line.attack) for line in lines}
    measures = []
    for norm in NORMS:
        for name, preset in presets.items():
            if (norm, name) not in present:
                continue
            if preset.kind == "minimum-norm":
                measures.append(_Measure(norm=norm, attack=name, label=f"{preset.label} ≤ε", pick=_bounded))
                measures.append(
                    _Measure(norm=norm, attack=name, label=f"{preset.label} any", pick=_unbounded)
                )
            else:
                measures.append(_Measure(norm=norm, attack=name, label=preset.label, pick=_bounded))
    return measures


def _bounded(line: Line) -> MeanStd | None:
    return line.bounded


def _unbounded(line: Line) -> MeanStd | None:
    return line.unbounded


def _figure(line: Line | None, pick: Pick) -> MeanStd | None:
    return pick(line) if line is not None else None


def _best(column: list[MeanStd | None], decimals: int) -> float | None:
    """The highest mean as shown; None where all are equal, which distinguishes nobody."""
    shown = {round(figure.mean, decimals) for figure in column if figure is not None}
    return max(shown) if len(shown) > 1 else None


def _cell(line: Line | None, figure: MeanStd | None, best: float | None, decimals: int) -> Cell:
    if line is None:
        return Cell(text=_MISSING)
    if figure is None:
        return Cell(text="ERROR", error=line.error)
    text = f"{figure.mean:.{decimals}f}"
    if figure.std is not None:
        text += f" ± {figure.std:.{decimals}f}"
    return Cell(text=text, best=round(figure.mean, decimals) == best)


def _budget(eps: float) -> str:
    """8/255 where that is what it is, else the decimal number."""
    levels = round(eps * 255)
    return f"{levels}/255" if levels < 64 and abs(eps * 255 - levels) < 1e-9 else f"{eps:.4g}"


def _caption(threat: str, lines: list[Line], settings: Settings, label: str) -> str:
    seeds = sorted({len(line.per_seed) for line in lines})
    runs = _count(seeds[-1], "training seed")
    if len(seeds) > 1:
        runs = f"{seeds[0]} to {runs}"
    if seeds[-1] > 1:
        runs += ", mean ± sample standard deviation over seeds"
    text = (
        f"Accuracy in % on {lines[0].images} test images of {label}, {runs}. {settings.model.name} of "
        f"width {settings.model.width}, {_count(settings.training.epochs, 'epoch')}."
    )
    if threat == "black":
        text += f" Adversarial images are crafted once on a Standard-AT {settings.surrogate.model}."
    if any(line.kind == "minimum-norm" for line in lines):
        text += " Minimum-norm attacks: ≤ε counts only images within ε, any counts all."
    return text + " The best of each column is marked."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
