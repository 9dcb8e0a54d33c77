"""Captions of the paper's tables: what was measured, how, and how the paper's setting differs."""

from collections.abc import Iterator, Sequence

from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.plan.protocol import Settings, load_protocol
from robustness_bench.benchmark.report.literature.layout import Layout
from robustness_bench.benchmark.report.literature.published import SOURCES, printed_name, published
from robustness_bench.benchmark.report.paper.namid.cells import Block, PaperCell, minimum_norm
from robustness_bench.benchmark.report.rendering.table import Note
from robustness_bench.benchmark.report.rendering.wording import JUDGED, NORM_SYMBOLS, budget, count
from robustness_bench.benchmark.report.tables.given import given
from robustness_bench.benchmark.report.tables.threats import unlooked
from robustness_bench.defenses.registry import defense_presets

_THREATS = {"white": "White box", "black": "Black box"}
_PAPER = SOURCES["namid"]


def title(shape: Layout, blocks: Sequence[Block]) -> str:
    """Return the title of a table."""
    sets = dict.fromkeys(block.settings.attack_set for block in blocks)
    suffix = "".join(f", {each} set" for each in sets if each != "strict")
    names = " and ".join(block.label for block in blocks)
    return f"Table {shape.table}: {_THREATS[shape.threat].lower()}, {names}{suffix}"


def caption(shape: Layout, cells: Sequence[PaperCell], blocks: Sequence[Block]) -> str:
    """Return what the table shows: measure, images, seeds, ε, attacks, models; how it judges and marks."""
    spread = "mean ± sample standard deviation" if shape.spread else "mean"
    parts = [
        f"{_THREATS[shape.threat]}: accuracy in %, {spread} over training seeds, in the layout of Table "
        f"{shape.table} of {_PAPER}."
    ]
    norms = list(dict.fromkeys(column.group for column in shape.columns))
    parts += [_made(block, [c for c in cells if c.block is block], norms, shape.threat) for block in blocks]
    parts += [_counted(shape, blocks), "The best of each group of rows is marked, column by column."]
    if any(cell.published for cell in cells):
        parts.append("Published: the paper's figure.")
    if any(cell.difference is not None for cell in cells):
        parts.append(JUDGED)
    if any(cell.line is None for cell in cells):
        parts.append("Blank: not run.")
    return " ".join(filter(None, [*parts, *_flagged(cells)]))


def _made(block: Block, cells: Sequence[PaperCell], norms: Sequence[str], threat: str) -> str:
    """Return one data set's images, seeds, ε and models."""
    settings = block.settings
    counts = sorted({len(cell.line.per_seed) for cell in cells if cell.line})
    eps = ", ".join(f"{NORM_SYMBOLS[norm]} ε = {budget(settings.eps[norm])}" for norm in norms)
    if not counts:
        return f"{block.label}: no results at {eps}."
    seeds = count(counts[-1], "training seed")
    if len(counts) > 1:
        seeds = f"{counts[0]} to {seeds}"
    text = (
        f"{block.label}: {count(block.images, 'test image')}, {seeds}, {eps}, attacks of the set "
        f"{settings.attack_set}, {recipe(settings)}"
    )
    if threat == "black":
        text += f"; images crafted once on a Standard-AT {settings.surrogate.model}"
    return f"{text}."


def recipe(settings: Settings) -> str:
    """Return what was attacked, in a few words."""
    if text := given(settings):
        return text
    network = f"{settings.model.name} of width {settings.model.width}"
    return f"{network}, {count(settings.training.epochs, 'epoch')} (schedule {settings.schedule})"


def _counted(shape: Layout, blocks: Sequence[Block]) -> str:
    """Return how minimum-norm attacks are judged, if there are any."""
    labels = [attack_presets("paper")[axis.key].label for axis in shape.columns if minimum_norm(axis.key)]
    if not labels:
        return ""
    said = {
        "strict": "only images within ε count (≤ε)",
        "paper": "images at any distance count, as in the published tables",
    }
    sets = list(dict.fromkeys(block.settings.attack_set for block in blocks))
    ways = [f"{said[each]}{f' in the set {each}' if len(sets) > 1 else ''}" for each in sets]
    return f"{' and '.join(labels)}: {'; '.join(ways)}."


def _flagged(cells: Sequence[PaperCell]) -> Iterator[str]:
    """Yield the models that show signs of hidden gradients."""
    raised: dict[tuple[str, str], set[str]] = {}
    for cell in cells:
        if cell.line and cell.line.flags:
            place = (cell.block.label, defense_presets()[cell.row.key].label)
            raised.setdefault(place, set()).update(cell.line.flags)
    if raised:
        notes = [f"{label} × {name}: {', '.join(sorted(flags))}" for (label, name), flags in raised.items()]
        yield f"Flagged: {'; '.join(notes)}."
    yield from unlooked([(_model(cell), cell.line) for cell in cells if cell.line])


def _model(cell: PaperCell) -> str:
    return f"{cell.block.label} × {defense_presets()[cell.row.key].label}"


def remarks(shape: Layout, blocks: Sequence[Block], *, beside: bool) -> Iterator[Note]:
    """Yield notes on a whole data set: what was not read, and how it differs from the paper's setting."""
    for block in blocks:
        if block.unread:
            yield Note(text=f"{block.label}: no results were looked for: {block.unread}.")
        if beside:
            yield from _against(shape, block)


def _against(shape: Layout, block: Block) -> Iterator[Note]:
    dataset = block.settings.dataset
    tables = {figure.table for figure in published("namid") if figure.dataset == dataset}
    if not tables:
        yield Note(text=f"The paper has no figures for {block.label}.")
        return
    if shape.table not in tables:
        yield Note(text=f"The paper has {printed_name(dataset)} in other tables, not in this one.")
        return
    if block.label != dataset:
        yield Note(
            text=f"{block.label} was read in the place of {dataset}; the published figures are for "
            f"{printed_name(dataset)} itself."
        )
    others = list(_departures(block)) if block.lines else []
    if others:
        yield Note(text=f"{block.label} departs from the paper's setting: {', '.join(others)}.")


def _departures(block: Block) -> Iterator[str]:
    """Yield how the settings differ from those that represent the paper's."""
    settings = block.settings
    asked = {"datasets": [settings.dataset], "attack_set": "paper"}
    (paper,) = load_protocol(None, asked).settings
    if settings.attack_set != paper.attack_set:
        yield f"attacks of the set {settings.attack_set}"
    if settings.weights:
        yield recipe(settings)
    elif settings.model != paper.model:
        yield f"{settings.model.name} of width {settings.model.width}"
    if settings.training != paper.training or settings.estimators != paper.estimators:
        same = settings.schedule == paper.schedule
        yield f"schedule {settings.schedule}{' with changes' if same else ''}"
    if block.images < block.available:
        yield f"{block.images} of {block.available} test images"
    if settings.surrogate != paper.surrogate:
        yield f"surrogate {settings.surrogate.model} of width {settings.surrogate.width}"
    for norm, eps in paper.eps.items():
        if settings.eps[norm] != eps:
            yield f"{NORM_SYMBOLS[norm]} ε = {budget(settings.eps[norm])} for {budget(eps)}"
