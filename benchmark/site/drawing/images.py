"""Images as one PNG: those kept of a cell, and a generator's for every class, with their predictions."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustness_bench.benchmark.report.figures.generated import GeneratedFigure, generated_figure
from robustness_bench.benchmark.store.cells import Record
from robustness_bench.benchmark.store.gallery import examples_of, read_examples
from robustness_bench.benchmark.store.generated import ConditionalExamples

MOST = 10
_GAP = 1
_GAINS = (1, 2, 5, 10, 20, 50, 100)


class Sprite(NamedTuple):
    """The picture and its description."""

    png: bytes
    width: int
    height: int
    gain: int
    """the third row shows 0.5 + gain × (x_adv - x)"""
    labels: tuple[int, ...]
    natural: tuple[int, ...]
    adversarial: tuple[int, ...]

    @property
    def alt(self) -> str:
        """The picture in words."""
        fooled = sum(a != y for a, y in zip(self.adversarial, self.labels, strict=True))
        return (
            f"{len(self.labels)} test images: natural above, attacked in the middle, their difference "
            f"amplified {self.gain} times below; {fooled} of them misclassified after the attack."
        )


def sprite(record: Record, file: Path) -> Sprite | None:
    """Return the picture of a record's images; None if none were kept.

    Raises:
        StoreError: the images are damaged.
    """
    path = examples_of(file)
    if record.status == "error" or record.spec["kind_of_attack"] == "natural" or not path.is_file():
        return None
    kept = read_examples(path)
    x, x_adv = kept.x[:MOST].astype(np.float64) / 255.0, kept.x_adv[:MOST].astype(np.float64)
    if not len(x):
        return None
    largest = float(np.abs(x_adv - x).max())
    gain = max((gain for gain in _GAINS if gain * largest <= 0.5), default=1)  # inside the picture's range
    tiles = [x, x_adv, 0.5 + gain * (x_adv - x)]
    sheet = sheet_of(np.stack(tiles))
    figures = (kept.label, kept.clean_prediction, kept.adversarial_prediction)
    labels, natural, adversarial = (tuple(int(value) for value in each[:MOST]) for each in figures)
    return Sprite(png_of(sheet), sheet.shape[1], sheet.shape[0], gain, labels, natural, adversarial)


def sheet_of(tiles: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Turn (R, K, C, H, W) in [0, 1] into (rows, columns, 4), transparent between the tiles."""
    rows, k, channels, height, width = tiles.shape
    if channels not in (1, 3):  # shown as one grey image
        tiles = tiles.mean(2, keepdims=True)
    levels = np.rint(tiles.clip(0.0, 1.0) * 255.0).astype(np.uint8)
    colours = np.broadcast_to(levels, (rows, k, 3, height, width)).transpose(0, 1, 3, 4, 2)
    opaque = np.concatenate([colours, np.full_like(colours[..., :1], 255)], -1)
    gap = (0, _GAP)
    spaced = np.pad(opaque, ((0, 0), (0, 0), gap, gap, (0, 0)))  # (rows, k, down, across, 4)
    sheet = spaced.transpose(0, 2, 1, 3, 4).reshape(rows * (height + _GAP), k * (width + _GAP), 4)
    return np.ascontiguousarray(sheet[:-_GAP, :-_GAP])


def png_of(sheet: NDArray[Any]) -> bytes:
    """Return the bytes of a PNG file; equal pictures give equal bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


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
