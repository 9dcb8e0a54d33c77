"""Signs that a model hides its gradients instead of being robust: measurements, and thresholds for flags.

The idea of such signs is Athalye et al. 2018 (https://arxiv.org/abs/1802.00420, section 3.1) and Carlini et
al. 2019 (https://arxiv.org/abs/1902.06705); the thresholds are ours. A flag is a reason to look closer, not
a verdict, and the absence of flags is no proof.
"""

import math
from typing import NamedTuple

SATURATED = 24 * math.log(2.0)
"""Above this margin z_y - log Σ_{k≠y} exp z_k, 1 - p_y is below float32's step under 1: rounded away."""


class Attacked(NamedTuple):
    """The results of the probe's attacks; accuracies in [0, 1]."""

    images: int
    pgd: float
    """Robust accuracy under PGD on the cross-entropy."""
    gradient: float
    """Robust accuracy under PGD on the cross-entropy and on the margin together."""
    square: float
    """Robust accuracy under Square, which uses only scores."""
    all: float
    """Robust accuracy under those three together."""
    huge: float
    """Accuracy under PGD without a limit but the pixel box."""
    margins: tuple[float, ...]
    """Mean largest margin z_k - z_y that PGD reaches at ε × each of the probe's budgets."""


class Measured(NamedTuple):
    """The measurements of a probe; accuracies and shares in [0, 1]."""

    images: int
    classes: int
    natural: float
    """Accuracy on the natural images."""
    changed_logits: float
    """Largest change of a logit between passes of the same image, relative to the largest logit."""
    changed_by_batch: float
    """The same, between batches with different other images."""
    probability_rows: float
    """Share of outputs that lie in [0, 1] and sum to 1."""
    saturated: float
    """Share of correctly classified images whose margin is above ``SATURATED``."""
    zero_gradients: float
    """Share of correctly classified images where the margin's gradient is zero everywhere."""
    broken_gradients: float
    """Share of images with a gradient that is not finite."""
    attacked: Attacked | None
    """None if no attack was run: signs only."""


class Flag(NamedTuple):
    """One sign, with its threshold in words."""

    meaning: str
    threshold: str


FLAGS = {
    "randomised": Flag(
        "outputs differ between passes of one image; use aa-rand, and average over passes",
        "a logit changes by more than 1e-4 of the largest logit within 5 passes",
    ),
    "batch-dependent": Flag(
        "outputs of an image depend on the images beside it, and so does every figure; never ranked",
        "a logit changes by more than 1e-2 of the largest logit, and more than 4 times as much as between "
        "passes, from one batch of 16 images to halves of it or to one image at a time",
    ),
    "probabilities": Flag(
        "outputs are probabilities, not logits: losses saturate",
        "every output lies in [0, 1] and sums to 1 within 1e-4",
    ),
    "saturated": Flag(
        "the cross-entropy's gradient vanishes in float32 arithmetic: attacks on it stand still",
        "z_y - log Σ exp of the other logits is above 24 log 2 (16.6) for more than 1 % of the images "
        "classified correctly",
    ),
    "zero-gradients": Flag(
        "gradient attacks cannot see where to go",
        "the margin has a gradient of exactly zero for more than 1 % of the images",
    ),
    "broken-gradients": Flag("a gradient is NaN or infinite", "any image"),
    "black-beats-white": Flag(
        "an attack that sees scores only does more than one that sees gradients",
        "Square leaves an accuracy lower than PGD's by more than 2 points and 2 images",
    ),
    "square-improves": Flag(
        "Square breaks what the gradient attacks could not",
        "it lowers their joint accuracy by more than 1 point and 2 images",
    ),
    "survives-any-budget": Flag(
        "accuracy does not fall to chance without a limit",
        "more than 5 points above 1 / classes under PGD inside the pixel box alone",
    ),
    "loss-not-rising": Flag(
        "a larger budget does not help the attack",
        "the margin PGD reaches falls between two budgets of ε/2, ε, 2ε, 4ε by more than 1 % of its range",
    ),
}


def flags(m: Measured) -> list[str]:
    """Return the flags that a measurement raises, in the order of ``FLAGS``; without unchecked ones."""
    raised = {
        "randomised": m.changed_logits > 1e-4,
        "batch-dependent": m.changed_by_batch > max(1e-2, 4.0 * m.changed_logits),
        "probabilities": m.probability_rows == 1.0,
        "saturated": m.saturated > 0.01,
        "zero-gradients": m.zero_gradients > 0.01,
        "broken-gradients": m.broken_gradients > 0.0,
    }
    if m.attacked:
        raised |= _by_attacks(m.attacked, m.classes)
    return [name for name in FLAGS if raised.get(name)]


def _by_attacks(a: Attacked, classes: int) -> dict[str, bool]:
    span = max(a.margins) - min(a.margins)
    falls = max(before - after for before, after in zip(a.margins, a.margins[1:], strict=False))
    return {
        "black-beats-white": black_beats_white(a.pgd, a.square, a.images),
        "square-improves": a.gradient - a.all > max(0.01, 2.5 / a.images),
        "survives-any-budget": a.huge > 1.0 / classes + 0.05,
        "loss-not-rising": span == 0.0 or falls > 0.01 * span,
    }


def black_beats_white(white: float, black: float, images: int) -> bool:
    """Return whether accuracy under a black-box attack is lower than under a white-box one, beyond chance."""
    return white - black > max(0.02, 2.5 / images)
