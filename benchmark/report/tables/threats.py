"""The white-box and black-box tables of one data set, from the lines of its records."""

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Literal, NamedTuple

from robustness_bench.attacks.registry import EIGHT_BIT, NORMS, SETS, attack_preset, in_order, parsed
from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.networks.hub import HUB
from robustness_bench.benchmark.plan.protocol import ZOOS, Settings, surrogate_words
from robustness_bench.benchmark.plan.tasks import weights_hash
from robustness_bench.benchmark.report.lines.results import Line
from robustness_bench.benchmark.report.lines.worst_case import NAME as WORST_CASE
from robustness_bench.benchmark.report.lines.worst_case import SUBMITTED
from robustness_bench.benchmark.report.rendering.table import Cell, Column, Row, Table, best_of, spread
from robustness_bench.benchmark.report.rendering.wording import NORM_SYMBOLS, budget, count, training_seeds
from robustness_bench.benchmark.statistics import MeanStd
from robustness_bench.benchmark.store.diagnoses import EARLIER, SIGNS_ONLY
from robustness_bench.defenses.registry import defense_presets

THREAT_NAMES = {"white": "White box", "black": "Black box"}
_MISSING = "–"
_OWN_BALL = ("wasserstein", "unbounded")


class _Measure(NamedTuple):
    """One column: which attack's lines, and which of their numbers."""

    norm: str
    attack: str
    label: str
    counted: Literal["bounded", "unbounded"] = "bounded"

    def figure(self, line: Line | None) -> MeanStd | None:
        """Return a line's number in this column."""
        found: MeanStd | None = getattr(line, self.counted, None)
        return found


def threat_tables(threat: str, lines: list[Line], settings: Settings, label: str) -> list[Table]:
    """Return the tables of accuracies and of costs under one threat model; empty if there are no lines.

    Args:
        lines: all of one data set and one setting; other threats are ignored.
        label: the data set's label.
    """
    lines = [line for line in lines if line.threat == threat]
    return (
        [_accuracies(threat, lines, settings, label), _costs(threat, lines, settings, label)] if lines else []
    )


def _accuracies(threat: str, lines: list[Line], settings: Settings, label: str) -> Table:
    cells = _by_cell(lines)
    measures = _measures(lines, settings.attack_set)
    defenses = _defenses(lines)
    decimals = 2 if min(line.images for line in lines) >= 1000 else 1
    figures = {m: [m.figure(cells.get((m.norm, m.attack, each))) for each in defenses] for m in measures}
    best = {m: best_of((each.mean for each in own if each), decimals) for m, own in figures.items()}

    def cell(defense: str, measure: _Measure) -> Cell:
        line = cells.get((measure.norm, measure.attack, defense))
        return _cell(line, measure.figure(line), best[measure], decimals)

    return Table(
        name=_name(label, threat, settings),
        title=_title(label, threat, settings),
        caption=_caption(threat, lines, settings, label),
        measure="accuracy",
        columns=_columns(lines, measures),
        rows=_rows(defenses, measures, cell),
    )


def _costs(threat: str, lines: list[Line], settings: Settings, label: str) -> Table:
    """Return the passes per image of every attack that ran."""
    cells = _by_cell(lines)
    measures = [
        _Measure(norm, name, text)
        for norm in NORMS
        for name, text in _labels(lines).items()
        if any((line.norm, line.attack) == (norm, name) and line.kind != WORST_CASE for line in lines)
    ]

    def cell(defense: str, measure: _Measure) -> Cell:
        line = cells.get((measure.norm, measure.attack, defense))
        if line is None:
            return Cell(text=_MISSING)
        if line.forwards is None or line.backwards is None:
            return Cell(text="ERROR", error=line.error)
        return Cell(text=f"{line.forwards:.0f} / {line.backwards:.0f}")

    caption = "Forward / backward passes per test image, mean over images and seeds."
    if threat == "black":
        caption += " Crafting on the surrogate, done once for all, is not in them."
    return Table(
        name=f"{_name(label, threat, settings)}-cost",
        title=f"{_title(label, threat, settings)}: cost",
        caption=caption,
        measure="cost",
        columns=_columns(lines, measures),
        rows=_rows(_defenses(lines), measures, cell),
    )


def _name(label: str, threat: str, settings: Settings) -> str:
    return f"{label}-{threat}{suffix_of(settings.attack_set)}"


def suffix_of(attack_set: str) -> str:
    """Return the end of a table's file name; the default set has none."""
    return "" if attack_set == "strict" else f"-{attack_set}"


def _title(label: str, threat: str, settings: Settings) -> str:
    suffix = "" if settings.attack_set == "strict" else f", {settings.attack_set} set"
    return f"{THREAT_NAMES[threat]}, {label}{suffix}"


def _by_cell(lines: list[Line]) -> dict[tuple[str, str, str], Line]:
    return {(line.norm, line.attack, line.defense): line for line in lines}


def _defenses(lines: list[Line]) -> list[str]:
    return [name for name in defense_presets() if any(line.defense == name for line in lines)]


def _labels(lines: list[Line]) -> dict[str, str]:
    """Return attack -> its column's label, in the order of the registry."""
    names = in_order(line.attack for line in lines)
    presets = {name: p for name in names for each in SETS if (p := attack_preset(name, each))}
    return {name: preset.label for name, preset in presets.items()}


def _rows(
    defenses: list[str], measures: list[_Measure], cell: Callable[[str, _Measure], Cell]
) -> tuple[Row, ...]:
    presets = defense_presets()
    return tuple(
        Row(
            group=presets[defense].group,
            label=presets[defense].label,
            cells=tuple(cell(defense, measure) for measure in measures),
        )
        for defense in defenses
    )


def _columns(lines: list[Line], measures: list[_Measure]) -> tuple[Column, ...]:
    budgets = {line.norm: line.eps for line in lines}
    return tuple(
        Column(group=f"{NORM_SYMBOLS[m.norm]} (ε = {budget(budgets[m.norm])})", label=m.label)
        for m in measures
    )


def _measures(lines: list[Line], attack_set: str) -> list[_Measure]:
    """Return natural accuracy, the attacks, and then the worst case of the norm."""
    labels, kinds = _labels(lines), {line.attack: line.kind for line in lines}
    measures = []
    for norm in NORMS:
        present = {line.attack for line in lines if line.norm == norm}
        for name, label in labels.items():
            if name not in present:
                continue
            if kinds[name] != "minimum-norm":
                measures.append(_Measure(norm, name, label))
            elif attack_set == "strict":
                measures.append(_Measure(norm, name, f"{label} ≤ε"))
            else:
                measures.append(_Measure(norm, name, f"{label} any", "unbounded"))
        if WORST_CASE in present:
            measures.append(_Measure(norm, WORST_CASE, "Worst"))
    return measures


def _cell(line: Line | None, figure: MeanStd | None, best: float | None, decimals: int) -> Cell:
    if line is None:
        return Cell(text=_MISSING)
    if figure is None:
        return Cell(text=_MISSING) if line.missing else Cell(text="ERROR", error=line.error)
    return Cell(text=spread(*figure[:2], decimals), best=round(figure.mean, decimals) == best)


def _caption(threat: str, lines: list[Line], settings: Settings, label: str) -> str:
    runs = training_seeds(len(line.per_seed) for line in lines)
    if any(len(line.per_seed) > 1 for line in lines):
        runs += ", mean ± sample standard deviation over seeds"
    text = f"Accuracy in % on {lines[0].images} test images of {label}, {runs}. {_models(settings, lines)}."
    if threat == "black":
        text += f" Adversarial images are crafted once on {surrogate_words(settings)}."
    text += f" Attacks of the set {settings.attack_set}."
    text += _judging(lines, settings.attack_set) + " The best of each column is marked."
    return text + _lowered(lines) + _audited(lines) + _flagged(lines)


def _lowered(lines: list[Line]) -> str:
    """Return which attacks took their gradients in lower precision."""
    labels = _labels(lines)
    lowered = [line for line in lines if line.precision and line.attack != WORST_CASE]
    return "".join(
        f" Gradients in {precision}, successes judged in float32: "
        f"{', '.join(dict.fromkeys(labels[line.attack] for line in own))}."
        for precision, own in grouped(lowered, lambda line: line.precision).items()
    )


def _audited(lines: list[Line]) -> str:
    """Return what audits say of accuracies, once for all defenses of which they say the same."""
    presets, labels = defense_presets(), _labels(lines)
    audited = [line for line in lines if line.audit]
    told = grouped(audited, lambda x: (labels[x.attack], NORM_SYMBOLS[x.norm], x.audit))
    return "".join(
        f" {attack} in {norm} on {', '.join(presets[x.defense].label for x in own)}: {audit}."
        for (attack, norm, audit), own in told.items()
    )


def _models(settings: Settings, lines: list[Line]) -> str:
    """Return what was attacked, in a few words."""
    network = f"{settings.model.name} of width {settings.model.width}"
    if not (text := given(settings)):
        return f"{network}, {count(settings.training.epochs, 'epoch')}"
    text = text if text.startswith(network) else text[:1].upper() + text[1:]
    readings = sorted({line.reading for line in lines if line.reading})
    return "; input: ".join([text, *readings])


def given(settings: Settings) -> str:
    """Return the weights and their network in a few words; empty if none were given."""
    if not settings.weights or settings.weights.startswith(ZOOS):
        return settings.weights and f"weights: {settings.weights}"
    network = f"{settings.model.name} of width {settings.model.width}"
    if settings.network:
        network = f"the network of {_named(settings.network)}"
    return f"{network}, weights: {_named(settings.weights)}"


def _named(source: str) -> str:
    # Of a file its name: where it lies is no part of a result, and a submission lies in a temporary folder.
    name = source if source.startswith(HUB) else PurePath(source).name
    return f"{name} (SHA-256 {weights_hash(source)[:12]}…)"


def _judging(lines: list[Line], attack_set: str) -> str:
    """Return how minimum-norm attacks and the worst case are counted, if there are any."""
    kinds, text = {line.kind for line in lines}, ""
    if "minimum-norm" in kinds and attack_set == "paper":
        text += " Minimum-norm attacks: images at any distance count, as in the published tables."
    elif "minimum-norm" in kinds:
        text += " Minimum-norm attacks: only images within ε count (≤ε)."
    if WORST_CASE in kinds:
        text += " Worst: survived every attack within ε of the norm, sample by sample"
        names = [x.attack for x in lines if x.kind in _OWN_BALL and not parsed(x.attack)[1]]
        apart = [label for name, label in _labels(lines).items() if name in names]
        text += f"; {', '.join(apart)} (a ball of its own) not counted." if apart else "."
        ours = [line for line in lines if line.kind == SUBMITTED and set(line.per_seed.values()) != {None}]
        if sent := sorted({(line.attack, line.defense) for line in ours}):
            told = ", ".join(f"{attack} against {defense}" for attack, defense in sent)
            text += f" Worst includes submitted images: {told}."
    return text + _stored(lines)


def _stored(lines: list[Line]) -> str:
    """Return what the columns of stored images are, if there are any."""
    storages, text = {parsed(line.attack)[1] for line in lines} - {""}, ""
    if EIGHT_BIT in storages:
        text += " 8-bit: the same images, judged after rounding to 256 levels; not in Worst."
    if storages - {EIGHT_BIT}:
        text += " JPEG q: the same images, judged as a JPEG of quality q; not in Worst."
    return text


def unlooked(lines: Sequence[tuple[str, Line]]) -> list[str]:
    """Return, in sentences, which models were checked less or not at all; lines come with their name."""
    said: dict[str, dict[str, set[str]]] = {}
    norms: dict[str, set[str]] = {}
    for label, line in lines:
        norms.setdefault(label, set()).add(line.norm)
        for words in filter(None, line.unlooked.split("; ")):
            said.setdefault(words, {}).setdefault(label, set()).add(line.norm)
    notes = []
    for words, of in sorted(said.items()):
        names = [
            label if own == norms[label] else f"{label} in {', '.join(NORM_SYMBOLS[n] for n in sorted(own))}"
            for label, own in of.items()
        ]
        told = words.replace(SIGNS_ONLY, "signs only, no attack looked for hidden gradients")
        told = told.replace(EARLIER, "diagnosed by an earlier probe")
        notes.append(f"{told[0].upper()}{told[1:]}: {', '.join(names)}.")
    return notes


def _flagged(lines: list[Line]) -> str:
    presets = defense_presets()
    flags = {
        name: sorted({f for line in lines if line.defense == name for f in line.flags}) for name in presets
    }
    notes = [f"{presets[name].label}: {', '.join(raised)}" for name, raised in flags.items() if raised]
    text = f" Flagged: {'; '.join(notes)}." if notes else ""
    return text + "".join(f" {note}" for note in unlooked([(presets[x.defense].label, x) for x in lines]))
