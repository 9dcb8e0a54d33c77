"""Captions of the tables of Hsu et al. 2018: what was measured, how, and what is not claimed."""

from collections.abc import Iterator, Sequence

from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.report.detectors.captions import seeds, span
from robustness_bench.benchmark.report.detectors.lines import NATURAL, OBLIVIOUS, DetectionLine
from robustness_bench.benchmark.report.detectors.names import attack_label, system_label
from robustness_bench.benchmark.report.literature.layout import Layout
from robustness_bench.benchmark.report.literature.published import (
    LU,
    SOURCES,
    curves,
    printed_name,
    published,
)
from robustness_bench.benchmark.report.paper.magnet.cells import MagnetBlock, MagnetCell
from robustness_bench.benchmark.report.rendering.table import Note
from robustness_bench.benchmark.report.rendering.wording import JUDGED

_PAPER = SOURCES["magnet"]
_IMAGES = 1000
_NATURAL = {"mnist": (99.42, 99.13, 98.63), "cifar10": (86.91, 83.33, 83.18)}  # printed: alone, and guarded
_JSD_NATURAL = 97.75  # accuracy of the JSD variant on MNIST, printed by Lu et al.


def number(table: str) -> str:
    """Return the paper's table number: magnet-1 is their Table 1."""
    return table.removeprefix("magnet-")


def title(shape: Layout, blocks: Sequence[MagnetBlock]) -> str:
    """Return the title of a table."""
    names = " and ".join(block.label for block in blocks)
    return f"Table {number(shape.table)} of {_PAPER}: oblivious attacks, {names}"


def caption(shape: Layout, cells: Sequence[MagnetCell], blocks: Sequence[MagnetBlock]) -> str:
    """Return what the table shows (measure, images, seeds) and how it is judged."""
    several = any(cell.line and len(cell.line.per_seed) > 1 for cell in cells)
    spread = ", mean ± sample standard deviation over training seeds" if several else ""
    parts = [
        "Share in % of the attacked images that are flagged or, reformed, classified correctly, by the "
        f"attack's confidence κ{spread}, in the layout of Table {number(shape.table)} of {_PAPER}."
    ]
    parts += [_made(block, [cell for cell in cells if cell.block is block]) for block in blocks]
    if any(cell.published for cell in cells):
        parts.append("Published: the paper's figure.")
    if any(cell.difference is not None for cell in cells):
        parts.append(JUDGED)
    if any(cell.line is None for cell in cells):
        parts.append("Blank: not run.")
    return " ".join(parts)


def _made(block: MagnetBlock, cells: Sequence[MagnetCell]) -> str:
    lines = [cell.line for cell in cells if cell.line]
    if not lines:
        return f"{block.label}: no results."
    betas = sorted({line.beta for line in lines if line.beta is not None})
    ead = f", EAD with β = {', '.join(f'{beta:g}' for beta in betas)}" if betas else ""
    images = span({line.n for line in lines if line.n})
    return f"{block.label}: {images} test images that the classifier gets right, {seeds(lines)}{ead}."


def remarks(shape: Layout, blocks: Sequence[MagnetBlock], *, beside: bool) -> Iterator[Note]:
    """Yield notes on the whole table."""
    labels = " and ".join(f"detectors-{block.label}" for block in blocks)
    yield Note(
        text="Oblivious only: not a security claim. The attacks see the classifier alone; attacks that know "
        f"of the detectors are in the table {labels}."
    )
    yield Note(
        text=f"{system_label('mi-magnet')}: the paper leaves open how its score is computed. The column has "
        "the reading declared for reproduction before anything was run; other readings, and controls that "
        f"compute no mutual information at the same rate of false alarms, are in the table {labels}."
    )
    for block in blocks:
        if block.unread:
            yield Note(text=f"{block.label}: no results were looked for: {block.unread}.")
        yield from _natural(block, beside)
        if beside:
            yield from _against(shape, block)


def _natural(block: MagnetBlock, beside: bool) -> Iterator[Note]:
    """Yield accuracy on natural images, which the paper prints outside its tables."""
    at = {line.system: line for line in block.lines if line.setting == NATURAL}
    shown = {
        "classifier alone": _accuracy(at.get("magnet"), "none"),
        system_label("magnet"): _accuracy(at.get("magnet"), "both"),
        system_label("mi-magnet"): _accuracy(at.get("mi-magnet"), "both"),
    }
    printed = _NATURAL.get(block.dataset) if beside else None
    if printed or any(shown.values()):
        theirs = [f" ({figure})" for figure in printed] if printed else [""] * len(shown)
        told = [f"{name} {ours or '–'}{p}" for (name, ours), p in zip(shown.items(), theirs, strict=True)]
        what = "accuracy in % (published)" if printed else "accuracy in %"
        yield Note(text=f"{block.label}, natural images, {what}: {', '.join(told)}.")


def _accuracy(line: DetectionLine | None, name: str) -> str:
    figure = line.figure(name) if line else None
    return f"{figure.mean:.2f}" if figure else ""


def _against(shape: Layout, block: MagnetBlock) -> Iterator[Note]:
    figures = published("magnet")
    own = {figure.dataset for figure in figures if figure.table == shape.table}
    if block.dataset not in own:
        known = block.dataset in {figure.dataset for figure in figures}
        where = f"has {block.label} in another table" if known else f"has no figures for {block.label}"
        yield Note(text=f"The paper {where}.")
        return
    if block.label != block.dataset:
        yield Note(
            text=f"{block.label} was read in the place of {block.dataset}; the published figures are for "
            f"{printed_name(block.dataset)} itself."
        )
    if others := list(_departures(block)):
        yield Note(text=f"{block.label} departs from the paper's setting: {', '.join(others)}.")
    yield from _two_lines(block.dataset)


def _departures(block: MagnetBlock) -> Iterator[str]:
    """Yield how our lines differ from the paper's setting."""
    lines = [line for line in block.lines if line.setting == OBLIVIOUS]
    counts = {line.n for line in lines if line.n}
    if counts and counts != {_IMAGES}:
        yield f"{span(counts)} attacked images for {_IMAGES}"
    found = set()
    for line in lines:
        for key, value in attack_presets("strict")[line.attack].parameters.items():
            if key not in ("confidence", "rule") and line.parameters.get(key) != value:
                found.add(f"{attack_label(line.attack)} with {key} {line.parameters.get(key)} for {value}")
    yield from sorted(found)


def _two_lines(dataset: str) -> Iterator[Note]:
    """Yield the numbers of an older detector that the paper does not compare with."""
    points = [each for each in curves() if (each.dataset, each.variant) == (dataset, "jsd")]
    attacks = dict.fromkeys(each.attack for each in points if each.attack.startswith("ead"))
    rows = [
        f"{attack.upper()} {', '.join(f'{each.both:.1f}' for each in points if each.attack == attack)}"
        for attack in attacks
    ]
    if rows:
        yield Note(
            text=f"{LU}, without mutual information: MagNet with two JSD detectors, at the same κ: "
            f"{'; '.join(rows)}; natural images {_JSD_NATURAL}."
        )
