"""Tables 1 to 6 of Zhou et al. 2022, https://arxiv.org/abs/2207.12203: defenses under attacks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from robustness_bench.attacks.registry import attack_names, attack_presets
from robustness_bench.benchmark.data import Located, dataset_named
from robustness_bench.benchmark.plan.protocol import Protocol, Settings, load_protocol, surrogate_words
from robustness_bench.benchmark.report.lines.results import Line, summarize
from robustness_bench.benchmark.report.lines.selection import fitting
from robustness_bench.benchmark.report.literature.published import (
    Axis,
    Layout,
    Published,
    contradictions,
    layout,
    published,
)
from robustness_bench.benchmark.report.paper.cells import Block, Blocks, Cells, PaperCell, blocks_of
from robustness_bench.benchmark.report.paper.tables import Paper
from robustness_bench.benchmark.report.rendering.csv import number
from robustness_bench.benchmark.report.rendering.table import Column
from robustness_bench.benchmark.report.rendering.wording import NORM_SYMBOLS, budget, count, training_seeds
from robustness_bench.benchmark.report.tables.threats import THREAT_NAMES, given, suffix_of, unlooked
from robustness_bench.benchmark.statistics import Interval, MeanStd, widened
from robustness_bench.benchmark.store.cells import Record, read_records
from robustness_bench.defenses.registry import defense_presets

_FAR, _NEAR = "any distance", "within ε"  # which adversarial images count
_COUNTED = {
    "strict": "only images within ε count (≤ε)",
    "paper": "images at any distance count, as in the published tables",
}


class Namid(Paper[Line]):
    """A row per defense and a column per attack; a table per threat model, with or without spreads."""

    source = "namid"
    heading = "Defense"
    marks_best = True
    printed_decimals = 2
    columns = (
        *("table", "dataset", "threat", "norm", "eps", "set", "defense", "attack", "counted"),
        *("mean", "std", "seeds", "images", "low", "high", "per_seed"),
        *("published_mean", "published_std", "difference", "inside", "note", "setting"),
    )

    def layout(self, table: str) -> Layout:
        """Return the layout, whose groups of rows are the registry's."""
        groups = {name: preset.group for name, preset in defense_presets().items()}
        return layout(table, published("namid"), groups)

    def records(self, out: Path) -> list[Record]:
        return read_records(out)

    def lines(
        self, protocol: Protocol, settings: Settings, located: Located, records: Sequence[Any]
    ) -> list[Line]:
        """Return the lines of the records with these settings, at their ε."""
        own = fitting(settings, {settings.dataset: located}, {record.id: record for record in records})
        return summarize([each for each in own if each.spec["eps"] == settings.eps[each.spec["norm"]]])

    def place(self, line: Line, threat: str) -> tuple[str, str, str] | None:
        return (line.defense, line.norm, line.attack) if line.threat == threat else None

    def measured(
        self, line: Line, column: Axis, block: Block[Line]
    ) -> tuple[MeanStd | None, Interval | None]:
        """Return the accuracy, counting the images that the attack set counts."""
        ours = line.unbounded if _reading(block.settings, column.key) == _FAR else line.bounded
        return ours, widened(ours, line.images) if ours else None

    def doubts(self) -> dict[Published, str]:
        """Return the numbers that two tables print differently."""
        return contradictions(published("namid"))

    def obstacle(self, line: Line | None, column: Axis, block: Block[Line]) -> str:
        """Return whether the images that count, or ε, differ from the paper's."""
        eps = block.settings.eps[column.group]
        printed = dataset_named(block.dataset).info.eps(column.group)
        if _minimum_norm(column.key) and _reading(block.settings, column.key) == _NEAR:
            return (
                "not comparable: the published figure counts images at any distance, ours only those within ε"
            )
        if eps != printed:
            return f"not comparable: ε = {budget(printed)} in the paper, {budget(eps)} here"
        return ""

    def decimals(self, block: Block[Line]) -> int:
        """Return as many as the number of images supports."""
        return 2 if block.images >= 1000 else 1

    def row_label(self, row: Axis) -> str:
        return defense_presets()[row.key].label

    def column(self, axis: Axis, blocks: Blocks[Line]) -> Column:
        """Return norm and attack; ε if all data sets share it (the caption has it anyway)."""
        group, label = NORM_SYMBOLS[axis.group], attack_presets("paper")[axis.key].label
        budgets = {budget(block.settings.eps[axis.group]) for block in blocks}
        if len(budgets) == 1:
            group += f" (ε = {budgets.pop()})"
        sets = {block.settings.attack_set for block in blocks}
        if _minimum_norm(axis.key) and len(sets) == 1:
            label += " any" if sets == {"paper"} else " ≤ε"
        return Column(group=group, label=label)

    def suffix(self, blocks: Blocks[Line]) -> str:
        """Return the attack sets but the default."""
        return "".join(map(suffix_of, dict.fromkeys(block.settings.attack_set for block in blocks)))

    def title(self, shape: Layout, blocks: Blocks[Line]) -> str:
        sets = dict.fromkeys(block.settings.attack_set for block in blocks)
        named = "".join(f", {each} set" for each in sets if each != "strict")
        names = " and ".join(block.label for block in blocks)
        return f"Table {shape.table}: {THREAT_NAMES[shape.threat].lower()}, {names}{named}"

    def says(self, shape: Layout, cells: Cells[Line]) -> Iterator[str]:
        """Yield measure; images, seeds, ε, attacks and models of each data set; what counts and is marked."""
        spread = "mean ± sample standard deviation" if shape.spread else "mean"
        yield (
            f"{THREAT_NAMES[shape.threat]}: accuracy in %, {spread} over training seeds, in the layout of "
            f"Table {shape.table} of {self.name}."
        )
        blocks = blocks_of(cells)
        for block in blocks:
            yield _made(shape, block, [cell.line for cell in cells if cell.block is block and cell.line])
        labels = [attack_presets("paper")[a.key].label for a in shape.columns if _minimum_norm(a.key)]
        if labels:
            sets = list(dict.fromkeys(block.settings.attack_set for block in blocks))
            ways = [f"{_COUNTED[each]}{f' in the set {each}' if len(sets) > 1 else ''}" for each in sets]
            yield f"{' and '.join(labels)}: {'; '.join(ways)}."
        yield "The best of each group of rows is marked, column by column."

    def flagged(self, cells: Cells[Line]) -> Iterator[str]:
        """Yield the models that show signs of hidden gradients, and those that were not checked for them."""
        seen = [(f"{c.block.label} × {self.row_label(c.row)}", c.line) for c in cells if c.line]
        raised: dict[str, set[str]] = {}
        for model, line in seen:
            if line.flags:
                raised.setdefault(model, set()).update(line.flags)
        if raised:
            notes = [f"{model}: {', '.join(sorted(flags))}" for model, flags in raised.items()]
            yield f"Flagged: {'; '.join(notes)}."
        yield from unlooked(seen)

    def departures(self, block: Block[Line]) -> Iterator[str]:
        """Yield how the settings differ from those that represent the paper's."""
        settings = block.settings
        (paper,) = load_protocol(None, {"datasets": [settings.dataset], "attack_set": "paper"}).settings
        if settings.attack_set != paper.attack_set:
            yield f"attacks of the set {settings.attack_set}"
        if settings.weights:
            yield _recipe(settings)
        elif settings.model != paper.model:
            yield f"{settings.model.name} of width {settings.model.width}"
        if settings.training != paper.training or settings.estimators != paper.estimators:
            same = settings.schedule == paper.schedule
            yield f"schedule {settings.schedule}{' with changes' if same else ''}"
        if block.images < block.available:
            yield f"{block.images} of {block.available} test images"
        if settings.surrogate != paper.surrogate:
            one = f"surrogate {settings.surrogate.model} of width {settings.surrogate.width}"
            named = ", ".join(settings.surrogate.models)
            yield f"surrogates {named}" if named else one
        for norm, eps in paper.eps.items():
            if settings.eps[norm] != eps:
                yield f"{NORM_SYMBOLS[norm]} ε = {budget(settings.eps[norm])} for {budget(eps)}"

    def gap(self, cell: PaperCell[Line]) -> str:
        return f"{cell.block.label}, {NORM_SYMBOLS[cell.column.group]}"

    def options(self, cells: Cells[Line]) -> dict[str, str]:
        first, attacks = cells[0], {cell.column.key for cell in cells}
        return {
            "--defense": ",".join(dict.fromkeys(cell.row.key for cell in cells)),
            "--dataset": first.block.dataset,
            "--norm": first.column.group,
            "--attacks": ",".join(name for name in attack_names() if name in attacks),
            "--threat": first.threat,
        }

    def fields(self, cell: PaperCell[Line]) -> dict[str, str]:
        """Return threat model, norm, ε, defense and attack; seeds' numbers, which are those within ε."""
        line, settings = cell.line, cell.block.settings
        counted = _reading(settings, cell.column.key)
        per_seed = line.per_seed if line and counted == _NEAR else {}
        return {
            "threat": cell.threat,
            "norm": cell.column.group,
            "eps": f"{settings.eps[cell.column.group]:.6g}",
            "set": settings.attack_set,
            "defense": cell.row.key,
            "attack": cell.column.key,
            "counted": counted,
            "images": str(line.images) if line else "",
            "per_seed": " ".join(f"{seed}:{number(v) or 'ERROR'}" for seed, v in per_seed.items()),
            "setting": line.setting if line else "",
        }


def _minimum_norm(attack: str) -> bool:
    return attack_presets("paper")[attack].kind == "minimum-norm"


def _reading(settings: Settings, attack: str) -> str:
    """Return which adversarial images count, as in every table of these settings' attack set."""
    return _FAR if _minimum_norm(attack) and settings.attack_set == "paper" else _NEAR


def _made(shape: Layout, block: Block[Line], lines: Sequence[Line]) -> str:
    settings = block.settings
    norms = dict.fromkeys(column.group for column in shape.columns)
    eps = ", ".join(f"{NORM_SYMBOLS[norm]} ε = {budget(settings.eps[norm])}" for norm in norms)
    if not lines:
        return f"{block.label}: no results at {eps}."
    seeds = training_seeds(len(line.per_seed) for line in lines)
    crafted = f"; images crafted once on {surrogate_words(settings)}"
    return (
        f"{block.label}: {count(block.images, 'test image')}, {seeds}, {eps}, attacks of the set "
        f"{settings.attack_set}, {_recipe(settings)}{crafted if shape.threat == 'black' else ''}."
    )


def _recipe(settings: Settings) -> str:
    """Return what was attacked, in a few words."""
    if text := given(settings):
        return text
    network = f"{settings.model.name} of width {settings.model.width}"
    return f"{network}, {count(settings.training.epochs, 'epoch')} (schedule {settings.schedule})"


NAMID = Namid()
