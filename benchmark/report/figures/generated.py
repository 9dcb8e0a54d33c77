"""Images of a conditional generator from test images, as values; ``drawing.grids`` draws them."""

from dataclasses import dataclass

import numpy as np

from robustness_bench.benchmark.report.rendering.csv import csv_text
from robustness_bench.benchmark.report.rendering.table import Table, plain_table
from robustness_bench.benchmark.store.generated import ConditionalExamples

ROWS = 6
CONDITIONS = 10
COLUMNS = ("figure", "dataset", "generator", "image", "label", "condition", "predicted", "agrees")


@dataclass(frozen=True, kw_only=True)
class GeneratedFigure:
    """Everything a drawing needs; it decides nothing itself.

    Attributes:
        generator: the name of its checkpoint.
        rows: which images are drawn.
        conditions: which classes are drawn.
    """

    dataset: str
    generator: str
    examples: ConditionalExamples
    rows: tuple[int, ...]
    conditions: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of its files, without extension."""
        return f"generated-{self.dataset}-{self.generator}"

    @property
    def title(self) -> str:
        """The title above the images."""
        return f"Generator on {self.dataset}"

    @property
    def agreeing(self) -> float:
        """Share of all images generated for a class, drawn or not, that the classifier assigns to it."""
        predicted = self.examples.predicted
        return float((predicted == np.arange(predicted.shape[1])).mean())

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not drawn."""
        n, classes = self.examples.predicted.shape
        parts = [f"{len(self.rows)} of {n} images"] if len(self.rows) < n else []
        parts += [f"{len(self.conditions)} of {classes} classes"] if len(self.conditions) < classes else []
        return (f"drawn: {', '.join(parts)}; the CSV has all",) if parts else ()


def generated_figure(dataset: str, generator: str, examples: ConditionalExamples) -> GeneratedFigure:
    """Return the first image of some classes, with all classes or those of the images as conditions."""
    labels = examples.label.tolist()
    first = {label: labels.index(label) for label in sorted(set(labels))}
    rows = tuple(first.values())[:ROWS]
    rest = [index for index in range(len(labels)) if index not in rows]
    rows = tuple(sorted([*rows, *rest[: ROWS - len(rows)]], key=lambda index: (labels[index], index)))
    classes = examples.predicted.shape[1]
    of_rows = sorted({labels[index] for index in rows})
    others = [each for each in range(classes) if each not in of_rows]
    conditions = sorted([*of_rows, *others[: max(0, CONDITIONS - len(of_rows))]])
    return GeneratedFigure(
        dataset=dataset, generator=generator, examples=examples, rows=rows, conditions=tuple(conditions)
    )


def caption(figure: GeneratedFigure) -> str:
    """Return the caption: everything needed to read the images."""
    n, classes = figure.examples.predicted.shape
    return (
        f"Natural images x of {figure.dataset}, x̂ as they are rebuilt, and G(E(x), j): what the generator "
        f"{figure.generator} makes of their code under each class j. Framed, the class in the corner: the "
        f"classifier sees another than j. It sees j in {100 * figure.agreeing:.1f} % of {n} images under "
        f"{classes} classes."
    )


def to_csv(figure: GeneratedFigure) -> str:
    """Return CSV text with a header and a line per image and class, drawn or not."""
    examples = figure.examples
    return csv_text(
        COLUMNS,
        [
            [
                *("generated", figure.dataset, figure.generator, image, label),
                *(condition, predicted, "yes" if condition == predicted else "no"),
            ]
            for image, label in enumerate(examples.label.tolist())
            for condition, predicted in enumerate(examples.predicted[image].tolist())
        ],
    )


def to_table(figure: GeneratedFigure) -> Table:
    """Return the classifier's predictions for the drawn images: a row per image, a column per class."""
    shown = figure.examples
    return plain_table(
        name=figure.name,
        title=figure.title,
        caption=caption(figure),
        measure="mi",
        heads=[("classifier on G(E(x), j)", f"j = {j}") for j in figure.conditions],
        rows=[
            (
                f"image {row}, class {shown.label[row]}",
                [str(shown.predicted[row, j]) for j in figure.conditions],
            )
            for row in figure.rows
        ],
    )
