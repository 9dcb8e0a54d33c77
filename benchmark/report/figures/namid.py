"""Contents of Figures 2, 4, 5 and 7 of Zhou et al. 2022 (arXiv:2207.12203), from the results of a store.

Only data: every number to draw, what is missing, and the words around it. ``drawing.namid`` draws it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from robustness_bench.attacks.registry import SETS, attack_presets
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.plan.protocol import Settings
from robustness_bench.benchmark.report.lines.information import mi_lines
from robustness_bench.benchmark.report.lines.results import Line, summarize
from robustness_bench.benchmark.report.rendering.csv import csv_text, number, numbers
from robustness_bench.benchmark.report.rendering.table import Cell, Column, Row, Table, spread
from robustness_bench.benchmark.report.rendering.wording import NORM_SYMBOLS, budget, span
from robustness_bench.benchmark.report.tables.threats import suffix_of
from robustness_bench.benchmark.statistics import MeanStd, mean_std
from robustness_bench.benchmark.store.cells import Record
from robustness_bench.benchmark.store.information import MIRecord
from robustness_bench.defenses.registry import defense_presets

Number = Literal["2", "4", "5", "7"]
NUMBERS: tuple[Number, ...] = ("2", "4", "5", "7")
ESTIMATED = ("2", "4")
"""The figures of mutual-information estimates; the others show accuracies."""
COLUMNS = (
    *("figure", "dataset", "norm", "eps", "set", "panel", "group", "series", "defense", "attack"),
    *("objective", "estimate", "unit", "mean", "std", "seeds", "images", "per_seed", "offset"),
    *("status", "remedy"),
)
_ATTACKS: dict[Number, tuple[str, ...]] = {
    "2": ("pgd-10", "pgd-40", "fwa-10", "fwa-40", "aa"),
    "4": ("pgd-40",),
    "5": ("pgd-40", "aa"),
    "7": ("none", "pgd-40", "aa", "ti-dim"),
}
_CURVES = {"standard_of_x": "I(x; h(x))", "standard_of_x_adv": "I(x̃; h(x̃))", "standard_across": "I(x; h(x̃))"}
_SHADED = (_CURVES["standard_of_x_adv"], _CURVES["standard_across"])
_HALVES = {"natural": "Natural MI", "adversarial": "Adversarial MI"}
_TRAINED_BY = {"eq-4": "MIM (eq. 4)", "eq-5": "Our (eq. 5)"}
_SAMPLES = {"of_x": "natural samples", "of_x_adv": "adversarial samples"}
_ABLATION = {
    "namid": "Ori",
    "standard": "Standard",
    "namid-no-adversarial-mi": "no adversarial MI",
    "namid-no-natural-mi": "no natural MI",
    "namid-no-lambda": "λ = 0",
}
_ESTIMATORS = {"namid-eq-4": "MIM", "namid": "Our"}


class NothingToDrawError(BenchError):
    """The store has no number for a figure."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One requested figure.

    Attributes:
        label: the data set's label.
        seeds: how many were requested; further seeds in the store are used too.
        defense, attacks: replace the figure's own, if given.
    """

    number: Number
    settings: Settings
    label: str
    norm: str
    seeds: int = 1
    defense: str = ""
    attacks: tuple[str, ...] = ()

    @property
    def budget(self) -> str:
        """The budget ε as text."""
        return budget(self.settings.eps[self.norm])


@dataclass(frozen=True, kw_only=True)
class Gap:
    """What must run to complete a figure: every combination of these."""

    verb: Literal["run", "estimate-mi"]
    dataset: str
    norm: str
    defenses: tuple[str, ...]
    attacks: tuple[str, ...]
    objectives: tuple[str, ...]
    seeds: int


Remedy = Callable[[Gap], str]
"""The command line that fills a gap."""


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A place in a figure, and what it shows."""

    panel: str = ""
    group: str
    series: str
    defense: str
    attack: str
    objective: str = ""
    estimate: str = ""

    @property
    def cell(self) -> str:
        """The cell's name in messages."""
        presets, attacks = defense_presets(), attack_labels()
        name = f"{presets[self.defense].label} × {attacks[self.attack]}"
        return f"{name} ({self.objective})" if self.objective else name


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number to draw, or why it is missing.

    Attributes:
        figure: mean ± sample standard deviation over seeds; None if it is missing or failed.
        per_seed: seed -> number, None for a seed that failed.
        offset: the value subtracted, in nats; None for accuracies.
        status: "missing" if it never ran.
        error: the error of a failed value.
        lacking: the seeds that still have to run.
    """

    spot: Spot
    figure: MeanStd | None = None
    per_seed: dict[int, float | None] = field(default_factory=dict)
    images: int = 0
    offset: float | None = None
    status: Literal["ok", "missing", "ERROR"] = "ok"
    error: str = ""
    lacking: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Everything a drawing needs, and nothing it has to decide.

    Attributes:
        shape: a radar has one axis per group and one closed curve per series.
        unit: label of the value axis.
        values: panel by panel, group by group, series by series.
        shaded: the two series with shading between them.
        notes: what is missing, ending with the command that produces it.
        remedy: that command, "" if nothing is missing.
    """

    number: Number
    dataset: str
    norm: str
    eps: float
    attack_set: str
    shape: Literal["radar", "bars"]
    title: str
    caption: str
    unit: str
    values: tuple[Value, ...]
    shaded: tuple[str, str] | None
    notes: tuple[str, ...]
    remedy: str

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"figure-{self.number}-{self.dataset}-{self.norm}{suffix_of(self.attack_set)}"

    @property
    def drawn(self) -> "Figure":
        """Return the figure without groups and series that never ran; failed ones keep their place."""
        ran = [value for value in self.values if value.status != "missing"]
        there = {(value.spot.panel, value.spot.group) for value in ran}
        series = {value.spot.series for value in ran}
        kept = [v for v in self.values if (v.spot.panel, v.spot.group) in there and v.spot.series in series]
        return replace(self, values=tuple(kept))

    @property
    def panels(self) -> list[str]:
        return list(dict.fromkeys(value.spot.panel for value in self.values))

    @property
    def series(self) -> list[str]:
        """The entries of the legend, in order."""
        return list(dict.fromkeys(value.spot.series for value in self.values))

    def groups(self, panel: str) -> list[str]:
        return list(dict.fromkeys(v.spot.group for v in self.values if v.spot.panel == panel))

    def at(self, panel: str, group: str, series: str) -> Value | None:
        """Return the value at one place."""
        wanted = (panel, group, series)
        return next((v for v in self.values if (v.spot.panel, v.spot.group, v.spot.series) == wanted), None)


def attack_labels() -> dict[str, str]:
    """Return attack -> label, over all parameter sets."""
    return {name: preset.label for each in SETS for name, preset in attack_presets(each).items()}


def accuracy_figure(question: Question, records: Sequence[Record], remedy: Remedy) -> Figure:
    """Return Figure 5 or 7: white-box accuracies of some defenses under some attacks, in percent.

    Args:
        records: those that fit the question's settings (``publish.fitting``); other threat models,
            norms, budgets and defenses among them are ignored.

    Raises:
        NothingToDrawError: there is no number; the message has the command.
        BenchError: an attack that counts at any distance, or is not available for the question.
    """
    eps = question.settings.eps[question.norm]
    place = {"threat": "white", "norm": question.norm, "eps": eps}
    near = [record for record in records if place.items() <= record.spec.items()]
    attacks, notes = _attacks(question)
    _check_bounded(question, attacks)
    by_cell = {(line.defense, line.attack): line for line in summarize(near)}
    values = [_accuracy(spot, by_cell.get((spot.defense, spot.attack))) for spot in _bars(question, attacks)]
    return _finished(question, values, notes, remedy)


def mi_figure(question: Question, records: Sequence[MIRecord], remedy: Remedy) -> Figure:
    """Return Figure 2 or 4: estimates of mutual information in nats, offset so that the worst case is 0.

    The paper offsets "the estimated MI" and then averages over samples (section 4.2, appendix B). So the
    worst case is the smallest estimate of any single image. In Figure 2 it is taken over all three curves,
    attacks and seeds together, because otherwise the shaded area would mean nothing; in Figure 4 per half.

    Args:
        records: those that fit the question's settings (``lines.information.fitting``); other norms,
            defenses and objectives among them are ignored.

    Raises:
        NothingToDrawError: there is no number; the message has the command.
        BenchError: an attack that is not available for the question.
    """
    near = [record for record in records if record.spec["norm"] == question.norm and record.estimates]
    if question.number == "2":
        attacks, notes = _attacks(question)
        spots = _radar(question, attacks)
    else:
        question = replace(question, attacks=(_one_attack(question, near),))
        (attack,), notes = _attacks(question)
        spots = _halves(question, attack)
    return _finished(question, _estimates(spots, near), notes, remedy)


def _attacks(question: Question) -> tuple[list[str], list[str]]:
    """Return the figure's attacks that exist under this norm and set, and a note on each other one."""
    presets = attack_presets(question.settings.attack_set)
    labels, kept, notes = attack_labels(), [], []
    for name in question.attacks or _ATTACKS[question.number]:
        if name not in presets:
            notes.append(f"{labels[name]} has no parameters in the set {question.settings.attack_set}")
        elif question.norm not in presets[name].norms:
            notes.append(f"{labels[name]} does not work in {NORM_SYMBOLS[question.norm]}")
        else:
            kept.append(name)
    if not kept:
        raise BenchError(f"figure {question.number} has no attack in {question.norm}: {'; '.join(notes)}")
    return kept, notes


def _check_bounded(question: Question, attacks: Sequence[str]) -> None:
    """Reject attacks whose number in the tables is not an accuracy at ε."""
    presets = attack_presets(question.settings.attack_set)
    for name in attacks:
        if question.settings.attack_set == "paper" and presets[name].kind == "minimum-norm":
            raise BenchError(
                f"figure {question.number} shows accuracies within ε, and {name} of the set paper counts at "
                "any distance: leave it out, or use --set strict"
            )


def _one_attack(question: Question, records: Sequence[MIRecord]) -> str:
    """Return Figure 4's attack: the one named, else PGD-40, else the first with estimates."""
    if len(question.attacks) > 1:
        raise BenchError(f"figure 4 shows one attack, got --attacks {','.join(question.attacks)}")
    if question.attacks:
        return question.attacks[0]
    defense = question.defense or "standard"
    there = {
        r.spec["attack"]
        for r in records
        if r.spec["defense"] == defense and r.spec["objective"] in _TRAINED_BY
    }
    return next((name for name in (*_ATTACKS["4"], *attack_labels()) if name in there), _ATTACKS["4"][0])


def _bars(question: Question, attacks: Sequence[str]) -> list[Spot]:
    """Return the spots of Figures 5 and 7: a group per attack, a bar per defense."""
    labels, defenses = attack_labels(), _ABLATION if question.number == "5" else _ESTIMATORS
    return [
        Spot(group=labels[attack], series=series, defense=defense, attack=attack)
        for attack in attacks
        for defense, series in defenses.items()
    ]


def _radar(question: Question, attacks: Sequence[str]) -> list[Spot]:
    """Return the spots of Figure 2: an axis per attack, a curve per estimate of one estimator."""
    labels = attack_labels()
    shared = {"defense": question.defense or "undefended", "objective": "standard"}
    return [
        Spot(group=labels[attack], series=series, attack=attack, estimate=estimate, **shared)
        for attack in attacks
        for estimate, series in _CURVES.items()
    ]


def _halves(question: Question, attack: str) -> list[Spot]:
    """Return the spots of Figure 4: a half per MI kind, a group per objective, bars per kind of sample."""
    shared = {"defense": question.defense or "standard", "attack": attack}
    return [
        Spot(
            panel=panel,
            group=group,
            series=series,
            objective=objective,
            estimate=f"{kind}_{samples}",
            **shared,
        )
        for kind, panel in _HALVES.items()
        for objective, group in _TRAINED_BY.items()
        for samples, series in _SAMPLES.items()
    ]


def _accuracy(spot: Spot, line: Line | None) -> Value:
    if line is None:
        return Value(spot=spot, status="missing")
    return Value(
        spot=spot,
        figure=line.bounded,
        per_seed=line.per_seed,
        images=line.images,
        status="ok" if line.bounded else "ERROR",
        error=line.error,
    )


def _estimates(spots: Sequence[Spot], records: Sequence[MIRecord]) -> list[Value]:
    """Return the values of all spots, offset per panel."""
    lines = {(line.defense, line.attack, line.objective, line.estimate): line for line in mi_lines(records)}
    values = []
    worst = dict.fromkeys((spot.panel for spot in spots), math.inf)
    for spot in spots:
        line = lines.get((spot.defense, spot.attack, spot.objective, spot.estimate))
        if line is None:
            values.append(Value(spot=spot, status="missing"))
        elif not math.isfinite(line.all.mean):
            per_seed = {seed: v if math.isfinite(v) else None for seed, v in line.per_seed.items()}
            failed = Value(spot=spot, per_seed=per_seed, images=line.images, status="ERROR")
            values.append(replace(failed, error="an estimate is not finite"))
        else:
            own = [r.rows[spot.estimate].min() for r in records if r.family == line.setting]
            worst[spot.panel] = min(worst[spot.panel], *map(float, own))
            values.append(Value(spot=spot, figure=line.all, per_seed=dict(line.per_seed), images=line.images))
    return [_offset(value, worst[value.spot.panel]) for value in values]


def _offset(value: Value, worst: float) -> Value:
    """Return the value above the worst case; a missing value stays unchanged."""
    if value.figure is None:
        return replace(value, per_seed=dict.fromkeys(value.per_seed))
    per_seed = {seed: v - worst for seed, v in value.per_seed.items() if v is not None}
    return replace(value, figure=mean_std(list(per_seed.values())), per_seed=dict(per_seed), offset=worst)


def _finished(question: Question, values: Sequence[Value], notes: Sequence[str], remedy: Remedy) -> Figure:
    seeds = max([question.seeds, *(1 + seed for value in values for seed in value.per_seed)])
    values = [
        replace(value, lacking=tuple(seed for seed in range(seeds) if value.per_seed.get(seed) is None))
        for value in values
    ]
    gap = _gap(question, values, seeds)
    command = remedy(gap) if gap else ""
    said = [*notes, *dict.fromkeys(note for value in values if (note := _note(value)))]
    if not any(value.figure for value in values):
        failed = dict.fromkeys(_note(value) for value in values if value.error)
        why = f" ({'; '.join(failed)})" if failed else ""
        raise NothingToDrawError(
            f"nothing to draw in figure {question.number} of {question.label} {question.norm}{why}: "
            f"run {command}"
        )
    attacks = {value.spot.attack for value in values if value.figure}
    return Figure(
        number=question.number,
        dataset=question.label,
        norm=question.norm,
        eps=question.settings.eps[question.norm],
        attack_set=question.settings.attack_set,
        shape="radar" if question.number == "2" and len(attacks) >= 3 else "bars",
        title=_title(question, values),
        caption=_caption(question, values),
        unit="MI above the worst case (nats)" if question.number in ESTIMATED else "accuracy (%)",
        values=tuple(values),
        shaded=_SHADED if question.number == "2" else None,
        notes=tuple([*said, f"to fill this: {command}"] if command else said),
        remedy=command,
    )


def _gap(question: Question, values: Sequence[Value], seeds: int) -> Gap | None:
    spots = [value.spot for value in values if value.lacking]
    if not spots:
        return None
    return Gap(
        verb="estimate-mi" if question.number in ESTIMATED else "run",
        dataset=question.settings.dataset,
        norm=question.norm,
        defenses=tuple(dict.fromkeys(spot.defense for spot in spots)),
        attacks=tuple(dict.fromkeys(spot.attack for spot in spots)),
        objectives=tuple(dict.fromkeys(spot.objective for spot in spots if spot.objective)),
        seeds=seeds,
    )


def _note(value: Value) -> str:
    """Return what a value lacks, in words; "" for a complete one."""
    failed = [seed for seed in value.lacking if seed in value.per_seed]
    never = [seed for seed in value.lacking if seed not in value.per_seed]
    parts = []
    if value.status == "ERROR":
        seeds = f", {_seeds(failed)}" if failed else ""
        parts.append(f"{value.spot.cell} failed{seeds}: {value.error}")
    if never:
        parts.append(f"{value.spot.cell} is missing for {_seeds(never)}")
    return "; ".join(parts)


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _title(question: Question, values: Sequence[Value]) -> str:
    setting = f"{question.label}, {NORM_SYMBOLS[question.norm]}, ε = {question.budget}"
    spot = values[0].spot
    if question.number == "2":
        return f"MI of {defense_presets()[spot.defense].label}, {setting}"
    if question.number == "4":
        defense, attack = defense_presets()[spot.defense].label, attack_labels()[spot.attack]
        return f"{defense} under {attack}, {setting}"
    return f"White box, {setting}"


def _caption(question: Question, values: Sequence[Value]) -> str:
    settings = question.settings
    there = [value for value in values if value.figure]
    counts = [value.figure.n for value in there if value.figure]
    seeds = span(counts)
    several = f"Means over {seeds} training seeds; error bars: sample std over {seeds} seeds."
    return (
        f"{_says(question.number, there)} {there[0].images} test images of {question.label}, "
        f"{NORM_SYMBOLS[question.norm]}, ε = {question.budget}, attacks of the set {settings.attack_set}, "
        f"{_trained(settings)}. "
        f"{several if max(counts) > 1 else 'One training seed.'}"
    )


def _trained(settings: Settings) -> str:
    if settings.weights:
        return f"weights {settings.weights.rpartition('/')[2]}"
    epochs = settings.training.epochs
    return f"{settings.model.name} of width {settings.model.width}, epochs: {epochs}"


def _says(number: Number, values: Sequence[Value]) -> str:
    """Return what a figure shows."""
    defense = defense_presets()[values[0].spot.defense].label
    if number == "2":
        return (
            f"Mutual information in nats by the standard estimator on {defense}: I(x; h(x)) of natural "
            "images, I(x̃; h(x̃)) of adversarial images, I(x; h(x̃)) of natural images and the outputs for the "
            f"adversarial ones. Offset so that the smallest estimate ({_worst('', values)}) of any image, "
            "curve, attack and seed is 0. Shaded: between I(x̃; h(x̃)) and I(x; h(x̃))."
        )
    if number == "4":
        attack = attack_labels()[values[0].spot.attack]
        offsets = ", ".join(f"{panel}: {_worst(panel, values)}" for panel in _HALVES.values())
        return (
            f"Natural and adversarial MI in nats of natural samples and of samples under {attack}, by "
            f"estimators trained on {defense} with equation 4 (MIM) and equation 5 (Our). In each half the "
            f"smallest estimate of any image, estimator and seed is 0 (offset of {offsets}). Estimators "
            "differ in scale: compare natural with adversarial samples, not MIM with Our."
        )
    if number == "5":
        shown = ", ".join(dict.fromkeys(value.spot.group for value in values))
        return (
            "White-box accuracy in % of NAMID (Ori), of Standard AT and of NAMID without one of its parts: "
            "no adversarial MI, no natural MI, λ = 0. In Zhou et al. (2022) the text names PGD and FWA, "
            f"Figure 5 itself PGD and AA; here: {shown}."
        )
    return (
        "White-box accuracy in % of NAMID with MI estimators trained by equation 4 (MIM) and by equation 5 "
        "(Our)."
    )


def _worst(panel: str, values: Sequence[Value]) -> str:
    offsets = {value.offset for value in values if value.spot.panel == panel and value.offset is not None}
    return f"{offsets.pop():.3f}" if offsets else "not there"


def to_csv(figure: Figure) -> str:
    """Return CSV text with a header and a line per number, drawn or missing."""
    return csv_text(COLUMNS, (_row(figure, value) for value in figure.values))


def _row(figure: Figure, value: Value) -> list[object]:
    spot, shown = value.spot, value.figure
    mean, std = numbers(shown, 5)
    return [
        *(figure.number, figure.dataset, figure.norm, f"{figure.eps:.6g}", figure.attack_set),
        *(spot.panel, spot.group, spot.series, spot.defense, spot.attack, spot.objective, spot.estimate),
        "nats" if figure.number in ESTIMATED else "%",
        *(mean or value.status, std),
        shown.n if shown else 0,
        value.images or "",
        " ".join(f"{s}:{number(v, 5) or 'ERROR'}" for s, v in value.per_seed.items()),
        number(value.offset, 5),
        _note(value) or "ok",
        figure.remedy if value.lacking else "",
    ]


def to_table(figure: Figure) -> Table:
    """Return the numbers as a table: a row per series, a column per group."""
    columns = [(panel, group) for panel in figure.panels for group in figure.groups(panel)]
    decimals = 3 if figure.number in ESTIMATED else 1
    return Table(
        name=figure.name,
        title=f"Figure {figure.number}. {figure.title}",
        caption=figure.caption,
        measure="mi" if figure.number in ESTIMATED else "accuracy",
        columns=tuple(Column(group=panel, label=group) for panel, group in columns),
        rows=tuple(
            Row(
                group="",
                label=series,
                cells=tuple(_cell(figure.at(*column, series), decimals) for column in columns),
            )
            for series in figure.series
        ),
    )


def _cell(value: Value | None, decimals: int) -> Cell:
    if value is None or value.status == "missing":
        return Cell(text="–")
    if value.figure is None:
        return Cell(text="ERROR", error=value.error)
    return Cell(text=spread(*value.figure[:2], decimals))
