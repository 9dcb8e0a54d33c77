"""Tables 1 and 2 of Hsu et al. 2018: MagNet with and without a detector of mutual information."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.data import Located
from robustness_bench.benchmark.plan.protocol import Protocol, Settings
from robustness_bench.benchmark.report.detectors.lines import (
    NATURAL,
    OBLIVIOUS,
    DetectionLine,
    detection_lines,
)
from robustness_bench.benchmark.report.detectors.names import (
    attack_label,
    confidence,
    our_name,
    published_name,
    system_label,
)
from robustness_bench.benchmark.report.detectors.store import check_unions, detections, fitting
from robustness_bench.benchmark.report.literature.published import (
    LU,
    Axis,
    Layout,
    Published,
    curves,
    published,
)
from robustness_bench.benchmark.report.paper.cells import Block, Blocks, Cells, PaperCell, blocks_of
from robustness_bench.benchmark.report.paper.tables import Paper
from robustness_bench.benchmark.report.rendering.csv import number
from robustness_bench.benchmark.report.rendering.table import Column, Note
from robustness_bench.benchmark.report.rendering.wording import span, training_seeds
from robustness_bench.benchmark.statistics import Interval, MeanStd
from robustness_bench.benchmark.store.detections import Detection

_IMAGES = 1000
_EAD = ("ead-l1", "ead-en")
_NATURAL = {"mnist": (99.42, 99.13, 98.63), "cifar10": (86.91, 83.33, 83.18)}  # printed: alone, and guarded
_JSD_NATURAL = 97.75  # accuracy of the JSD variant on MNIST, printed by Lu et al.
_ALONE, _UNION = "magnet", "mi-magnet"
_LARGEST = 31.2  # the largest gain ("up to") in the paper's abstract and text


class Magnet(Paper[DetectionLine]):
    """A row per κ and a column per system and attack; a table per data set."""

    source = "magnet"
    heading = "κ"
    marks_best = False
    printed_decimals = 1
    columns = (
        *("table", "dataset", "kappa", "system", "attack", "beta"),
        *("mean", "std", "seeds", "n", "low", "high"),
        *("per_seed", "attack_success", "published_mean", "difference", "inside", "note", "family"),
    )

    def layout(self, table: str) -> Layout:
        """Return the layout, with spreads, which the paper does not print."""
        return replace(super().layout(table), spread=True)

    def records(self, out: Path) -> list[Detection]:
        return detections(out)

    def lines(
        self, protocol: Protocol, settings: Settings, located: Located, records: Sequence[Any]
    ) -> list[DetectionLine]:
        check_unions(records)
        return detection_lines(fitting(protocol, settings, {settings.dataset: located}, records))

    def place(self, line: DetectionLine, threat: str) -> tuple[str, str, str] | None:
        if line.setting != OBLIVIOUS:
            return None
        return confidence(line.confidence), line.system, published_name(line.attack)

    def measured(
        self, line: DetectionLine, column: Axis, block: Block[DetectionLine]
    ) -> tuple[MeanStd | None, Interval | None]:
        return line.figure("both"), line.interval()

    def doubts(self) -> dict[Published, str]:
        """Return the numbers that contradict others or the text."""
        return oddities(published("magnet"))

    def obstacle(self, line: DetectionLine | None, column: Axis, block: Block[DetectionLine]) -> str:
        """Return whether β is that of the published numbers, which is the strict set's."""
        printed = attack_presets("strict")[line.attack].parameters.get("beta") if line else None
        if line is None or line.beta == printed:
            return ""
        return f"not comparable: β = {printed:g} in the paper, {line.beta or 0:g} here"

    def decimals(self, block: Block[DetectionLine]) -> int:
        return self.printed_decimals

    def row_label(self, row: Axis) -> str:
        return row.key

    def column(self, axis: Axis, blocks: Blocks[DetectionLine]) -> Column:
        return Column(group=system_label(axis.group), label=axis.key.upper())

    def remarks(self, line: DetectionLine) -> tuple[str, ...]:
        return line.remarks

    def title(self, shape: Layout, blocks: Blocks[DetectionLine]) -> str:
        names = " and ".join(block.label for block in blocks)
        return f"Table {_number(shape)} of {self.name}: oblivious attacks, {names}"

    def says(self, shape: Layout, cells: Cells[DetectionLine]) -> Iterator[str]:
        """Yield measure; images, seeds and β of each data set."""
        several = any(cell.line and len(cell.line.per_seed) > 1 for cell in cells)
        spread = ", mean ± sample standard deviation over training seeds" if several else ""
        yield (
            "Share in % of the attacked images that are flagged or, reformed, classified correctly, by the "
            f"attack's confidence κ{spread}, in the layout of Table {_number(shape)} of {self.name}."
        )
        for block in blocks_of(cells):
            yield _made(block, [cell.line for cell in cells if cell.block is block and cell.line])

    def notes(self, blocks: Blocks[DetectionLine]) -> Iterator[Note]:
        """Yield what is not claimed."""
        labels = " and ".join(f"detectors-{block.label}" for block in blocks)
        yield Note(
            text="Oblivious only: not a security claim. The attacks see the classifier alone; attacks that "
            f"know of the detectors are in the table {labels}."
        )
        yield Note(
            text=f"{system_label('mi-magnet')}: the paper leaves open how its score is computed. The column "
            "has the reading declared for reproduction before anything was run; other readings, and controls "
            f"that compute no mutual information at the same rate of false alarms, are in the table {labels}."
        )

    def notes_on(self, block: Block[DetectionLine], beside: bool) -> Iterator[Note]:
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

    def departures(self, block: Block[DetectionLine]) -> Iterator[str]:
        """Yield how our lines differ from the paper's setting."""
        lines = [line for line in block.lines if line.setting == OBLIVIOUS]
        images = {line.n for line in lines if line.n}
        if images and images != {_IMAGES}:
            yield f"{span(images)} attacked images for {_IMAGES}"
        found = set()
        for line in lines:
            for key, value in attack_presets("strict")[line.attack].parameters.items():
                if key not in ("confidence", "rule") and line.parameters.get(key) != value:
                    found.add(
                        f"{attack_label(line.attack)} with {key} {line.parameters.get(key)} for {value}"
                    )
        yield from sorted(found)

    def literature(self, dataset: str) -> Iterator[Note]:
        """Yield the numbers of an older detector that the paper does not compare with."""
        points = [each for each in curves() if (each.dataset, each.variant) == (dataset, "jsd")]
        attacks = dict.fromkeys(each.attack for each in points if each.attack in _EAD)
        rows = [
            f"{attack.upper()} {', '.join(f'{each.both:.1f}' for each in points if each.attack == attack)}"
            for attack in attacks
        ]
        if rows:
            yield Note(
                text=f"{LU}, without mutual information: MagNet with two JSD detectors, at the same κ: "
                f"{'; '.join(rows)}; natural images {_JSD_NATURAL}."
            )

    def gap(self, cell: PaperCell[DetectionLine]) -> str:
        return cell.block.label

    def options(self, cells: Cells[DetectionLine]) -> dict[str, str]:
        return {
            "--defense": ",".join(dict.fromkeys(cell.column.group for cell in cells)),
            "--dataset": cells[0].block.dataset,
            "--kappa": ",".join(dict.fromkeys(cell.row.key for cell in cells)),
        }

    def fields(self, cell: PaperCell[DetectionLine]) -> dict[str, str]:
        """Return κ, system, attack and β; the seeds' numbers; how often the attack alone succeeds."""
        line = cell.line
        success = line.figure("attack_success") if line else None
        per_seed = line.per_seed if line else {}
        return {
            "kappa": cell.row.key,
            "system": cell.column.group,
            "attack": our_name(cell.column.key),
            "beta": f"{line.beta:g}" if line and line.beta is not None else "",
            "n": str(line.n) if line and line.n else "",
            "per_seed": " ".join(
                f"{seed}:{number(outcome.both) if outcome else 'ERROR'}" for seed, outcome in per_seed.items()
            ),
            "attack_success": number(success.mean if success else None),
            "family": line.family if line else "",
        }


def _number(shape: Layout) -> str:
    """Return the paper's table number: magnet-1 is its Table 1."""
    return shape.table.removeprefix("magnet-")


def _made(block: Block[DetectionLine], lines: Sequence[DetectionLine]) -> str:
    if not lines:
        return f"{block.label}: no results."
    betas = sorted({line.beta for line in lines if line.beta is not None})
    ead = f", EAD with β = {', '.join(f'{beta:g}' for beta in betas)}" if betas else ""
    images = span(line.n for line in lines if line.n)
    seeds = training_seeds(len(line.per_seed) for line in lines)
    return f"{block.label}: {images} test images that the classifier gets right, {seeds}{ead}."


def _accuracy(line: DetectionLine | None, name: str) -> str:
    figure = line.figure(name) if line else None
    return f"{figure.mean:.2f}" if figure else ""


MAGNET = Magnet()


def oddities(figures: Sequence[Published]) -> dict[Published, str]:
    """Return number of the union -> why it is impossible or contradicts the paper's text."""
    gains = {each: gain for each in figures if (gain := _gain(each, figures)) is not None}
    said = {}
    for figure, gain in gains.items():
        if gain < 0:
            said[figure] = (
                f"{-gain:.1f} below MagNet: more detectors cannot withstand less on the same images"
            )
        elif gain > _LARGEST:
            said[figure] = f"{gain:.1f} above MagNet; the paper's text says up to {_LARGEST}"
        elif not any(other for each, other in gains.items() if _place_of(each) == _place_of(figure)):
            said[figure] = (
                f"exactly MagNet's figure under every attack at κ = {figure.row}, though the detector flags "
                "0.5 % even of natural images"
            )
    return said


def _place_of(figure: Published) -> tuple[str, str]:
    return figure.table, figure.row


def _gain(figure: Published, figures: Sequence[Published]) -> float | None:
    """Return the union's gain over MagNet in points; None for MagNet itself."""
    if figure.group != _UNION:
        return None
    place = (figure.table, figure.dataset, _ALONE, figure.column, figure.row)
    (alone,) = [each for each in figures if (each.table, *each.place) == place]
    return round(figure.mean - alone.mean, 1)
