"""A generator's images for every class as one PNG, and the classifier's predictions for them."""

from typing import NamedTuple

import numpy as np

from robustness_bench.benchmark.report.figures.generated import GeneratedFigure, generated_figure
from robustness_bench.benchmark.site.drawing.images import png_of, sheet_of
from robustness_bench.benchmark.store.generated import ConditionalExamples


class Generated(NamedTuple):
    """The picture: x, x̂ and G(E(x), j) side by side, a row per image."""

    png: bytes
    width: int
    height: int
    conditions: tuple[int, ...]
    rows: tuple[tuple[int, tuple[int, ...]], ...]
    """Class, and the classifier's prediction under each condition."""
    agreeing: float
    """Percent of all images generated for a class, shown or not, that the classifier assigns to it."""
    images: int

    @property
    def alt(self) -> str:
        """The picture in words."""
        return (
            f"{len(self.rows)} test images, one per row: as they are, rebuilt, and generated under "
            f"{len(self.conditions)} classes; the table below says what the classifier sees in each."
        )


def generated(dataset: str, generator: str, examples: ConditionalExamples) -> Generated:
    """Return the picture of a few images of one generator."""
    figure = generated_figure(dataset, generator, examples)
    sheet = sheet_of(np.stack([_tiles(figure, row) for row in figure.rows]))
    predicted = examples.predicted
    rows = [
        (int(examples.label[r]), tuple(int(predicted[r, j]) for j in figure.conditions)) for r in figure.rows
    ]
    return Generated(
        png=png_of(sheet),
        width=sheet.shape[1],
        height=sheet.shape[0],
        conditions=figure.conditions,
        rows=tuple(rows),
        agreeing=100 * figure.agreeing,
        images=len(examples.label),
    )


def _tiles(figure: GeneratedFigure, row: int) -> np.typing.NDArray[np.float64]:
    """Return the tiles of a row, (2 + conditions, C, H, W) in [0, 1]."""
    shown = figure.examples
    conditional = shown.conditional[row][list(figure.conditions)]
    return np.concatenate([shown.x[row][None], shown.reconstruction[row][None], conditional]) / 255.0
