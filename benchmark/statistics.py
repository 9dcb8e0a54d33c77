"""Statistics; each docstring says which claims the number supports."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv, stdtr  # type: ignore[import-untyped]

Outcomes = NDArray[np.bool_]
Floats = NDArray[np.float64]
_AT_ONCE = 4_000_000  # numbers held by one chunk of resamples
_SIMULTANEOUS = 0.95  # level of all rank intervals together


class MeanStd(NamedTuple):
    """Mean and sample standard deviation (n - 1); std is None for a single value.

    The spread is over training seeds on the same images: it says how much a number changes when the
    training is repeated, not how much it would change on other images.
    """

    mean: float
    std: float | None
    n: int


class Interval(NamedTuple):
    """Shares in [0, 1]."""

    low: float
    high: float


class Difference(NamedTuple):
    """First minus second, with an interval; shares in [-1, 1]."""

    mean: float
    low: float
    high: float


class Resampled(NamedTuple):
    """One side of comparisons, and what it withstands in each of many draws of images and seeds.

    Attributes:
        stood: images that withstand, summed over the seeds, as measured.
        in_step, apart: the same in each draw: (resamples,). In step, seeds are drawn as those of every side
            that has as many; apart, on their own.
    """

    stood: int
    in_step: NDArray[np.int64]
    apart: NDArray[np.int64]
    seeds: int
    images: int


class Rank(NamedTuple):
    """The ranks a row may have, counted from 1; both are equal if its rank is certain."""

    first: int
    last: int


class Audit(NamedTuple):
    """Counts of the samples that an attack with cheap members ran on; they add up over records."""

    survivors: int
    """That the cheap members left and nothing marked, those in the audit included."""
    audited: int
    """How many of these, drawn at random, went through the whole attack."""
    fallen: int
    """How many of these it broke."""
    escalated: int
    """Others that went through the whole attack, because they were marked."""


class Missed(NamedTuple):
    """What the cheap members may have missed among the samples that were not audited."""

    expected: float
    """Samples, if the audit's share of falls holds for the others."""
    at_most: float
    """Samples, with the confidence asked for."""


def mean_std(values: Sequence[float]) -> MeanStd:
    """Return mean and sample standard deviation; raises ValueError without values."""
    if not values:
        raise ValueError("mean_std needs at least one value")
    std = statistics.stdev(values) if len(values) > 1 else None
    return MeanStd(statistics.fmean(values), std, len(values))


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """The score interval of Wilson 1927 (JASA 22:209-212) around successes / n.

    It supports claims about other images of the same kind with the same trained models, not about another
    training. ``successes`` may be fractional, the mean over seeds times n. The interval is then too wide
    rather than too narrow, because the mean of several models varies less over images than one model.

    Raises:
        ValueError: no images, or successes outside [0, n].
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"wilson needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    # Not scipy's binomtest: it wants whole successes, and scipy.stats takes a second to import.
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    p = successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + (z / (2 * n)) ** 2) ** 0.5
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    return Interval(low, 1.0 if successes == n else min(1.0, middle + half))


def widened(figure: MeanStd, images: int) -> Interval:
    """Return our interval to compare a published number with (``inside``). In percent, unlike others here.

    It is the 95 % Wilson interval of the mean over our ``images``, widened on both sides by the sample
    standard deviation over our training seeds. With several seeds, ``images`` is the number of one seed (the
    smallest, if they differ), not the sum: the seeds are judged on the same images.

    With several seeds it covers other images and, roughly, one more training: one standard deviation
    contains about two of three. With one seed it covers only other images. It does not cover how the
    published number would vary with other images or another training.
    """
    interval = wilson(min(figure.mean / 100 * images, images), images)
    spread = figure.std or 0.0
    return Interval(max(0.0, 100 * interval.low - spread), min(100.0, 100 * interval.high + spread))


def missed_bound(survivors: int, audited: int, fallen: int, confidence: float = 0.95) -> Missed:
    """How many samples that now stand AutoAttack would break: Clopper and Pearson 1934, one-sided.

    Args:
        survivors: samples that nothing marked and that the cheap members left, those in the audit included.
        audited: how many of these went through AutoAttack.
        fallen: how many of these it broke.

    Raises:
        ValueError: the three are not counts that fit.
    """
    if not 0 <= fallen <= audited <= survivors:
        raise ValueError(
            f"expected 0 <= fallen <= audited <= survivors, got {fallen}, {audited} and {survivors}"
        )
    others = survivors - audited
    if not audited:
        return Missed(math.nan, float(others))
    share = 1.0 if fallen == audited else float(betaincinv(fallen + 1, audited - fallen, confidence))
    return Missed(others * fallen / audited, min(max(survivors * share - fallen, 0.0), float(others)))


def audit_words(audits: Sequence[Audit], images: int) -> str:
    """What an accuracy is worth in the light of its audits: how far below it the whole attack may end.

    Args:
        audits: of records of the same cell, a training seed each.
        images: of each record, those classified wrongly included.
    """
    survivors, audited, fallen, escalated = map(sum, zip(*audits, strict=True))
    if not survivors:
        return "nothing is left to the cheap members alone"
    if not audited:
        return "not audited"
    points = 100.0 * missed_bound(survivors, audited, fallen).at_most / (images * len(audits))
    told = f"at most {points:.1f} below with 95 % confidence ({fallen} of {audited} audited fell"
    return f"{told}, {escalated} more went through the whole attack)"


def inside(published: float, ours: Interval) -> bool:
    """Return whether a published mean is in our interval (``widened``), ends included; both in percent.

    True means that our images and seeds cannot distinguish the two numbers, not that these are equal; with
    fewer images it means less. False means that our images and seeds alone do not explain the difference; the
    published number's own error, from images and trainings, may. A published standard deviation is not used:
    papers rarely say over how many trainings it is, and with it a noisier number would be easier to
    reproduce.
    """
    return ours.low <= published <= ours.high


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the two-sided p of McNemar's exact test (1947) of equal chances for the discordant images.

    It supports claims about two trained models on other images of the same kind, not about two training
    methods.

    Args:
        only_first, only_second: number of images that only the first, or only the second, gets right.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"mcnemar_exact counts images, got {only_first} and {only_second}")
    n = only_first + only_second
    # scipy's binomtest gives the same p a thousand times slower, and a site has thousands of pairs.
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), n, 0.5)))


def withstand_all(attacks: Iterable[tuple[NDArray[Any], Outcomes]]) -> Outcomes:
    """Which images withstand every attack: (n,). The worst case; one attack that fools is enough.

    Args:
        attacks: of each, the images' numbers and which of them withstand it: (n,), (n,).

    Raises:
        ValueError: not the same images in the same order under every attack, or no attack.
    """
    (images, *others), outcomes = zip(*attacks, strict=True)
    if not all(np.array_equal(images, other) for other in others):
        raise ValueError("a worst case needs the same images in the same order under every attack")
    return np.asarray(np.logical_and.reduce(outcomes))


def resample(sides: Sequence[Outcomes], *, resamples: int = 10_000, seed: int = 0) -> list[Resampled]:
    """Draw images, and each side's seeds, with replacement (Efron 1979); the same draws for every side.

    So two sides give the same difference whichever others are resampled with them.

    Args:
        sides: of each (seeds, images), the same images in the same order.
    """
    if len({side.shape[1] for side in sides}) > 1 or not all(side.size for side in sides):
        raise ValueError(f"not the same images, or none: {[side.shape for side in sides]}")
    stood = _on_drawn_images(np.concatenate(sides), resamples, seed)
    starts = np.cumsum([len(side) for side in sides])[:-1]
    made = []
    for side, own in zip(sides, np.split(stood, starts, axis=1), strict=True):
        seeds, images = side.shape
        in_step, apart = (
            (own * rng.multinomial(seeds, [1 / seeds] * seeds, resamples)).sum(1)
            for rng in (np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2]))
        )
        made.append(Resampled(int(side.sum()), in_step, apart, seeds, images))
    return made


def differences(
    first: Resampled, others: Sequence[Resampled], *, matched: Sequence[bool], level: float = 0.95
) -> list[Difference]:
    """Return the difference of mean accuracies to each other side, with its percentile bootstrap interval.

    Images are drawn together for both sides, so that the comparison stays paired; seeds are drawn within
    each side, or also together. It supports claims about other images and other trainings of the same
    kind; a side with one seed adds no spread of training, and few seeds add too little.

    Args:
        matched: per other side, whether row i of both is the same seed (the same initial weights and draws),
            so that it is drawn for both or neither. The caller must say whether both were trained for as
            many epochs.
    """
    if any(own and other.seeds != first.seeds for own, other in zip(matched, others, strict=True)):
        raise ValueError("matched seeds need as many on either side")
    if not others:
        return []
    # Whole numbers: equal differences stay equal, and sort in half the time.
    drawn = np.stack(
        [
            first.in_step * other.seeds - (other.in_step if own else other.apart) * first.seeds
            for own, other in zip(matched, others, strict=True)
        ]
    ).astype(np.int32)
    drawn.sort(axis=1)
    places = (drawn.shape[1] - 1) * np.array([(1 - level) / 2, (1 + level) / 2])
    below, above = np.floor(places).astype(int), np.ceil(places).astype(int)
    ends = drawn[:, below] + (places - below) * (drawn[:, above] - drawn[:, below])
    found = []
    for other, (low, high) in zip(others, ends, strict=True):
        of = first.images * first.seeds * other.seeds
        mean = first.stood * other.seeds - other.stood * first.seeds
        found.append(Difference(mean / of, float(low) / of, float(high) / of))
    return found


def _on_drawn_images(outcomes: Outcomes, resamples: int, seed: int) -> NDArray[np.int64]:
    """Return how many of the drawn images each row withstands: (rows, images) -> (resamples, rows)."""
    rng, images = np.random.default_rng(seed), outcomes.shape[1]
    columns = outcomes.T.astype(np.float32)  # exact: whole numbers below 2**24
    chunk = max(1, _AT_ONCE // images)
    stood = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = rng.integers(images, size=(size, images)) + images * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * images).reshape(size, images)
        stood.append(counts.astype(np.float32) @ columns)
    return np.concatenate(stood).astype(np.int64)


def ranks(outcomes: Sequence[Outcomes]) -> list[Rank]:
    """Return each row's possible ranks: from 1 + the rows surely better, to all but the rows surely worse.

    With 95 % confidence the true ranks of all rows are in their intervals at once, on other images of the
    same kind and, for rows with several seeds, with another training. A row with one seed has no spread of
    training: its interval applies only to those weights.

    Each pair is tested by a t test on the adjusted paired difference of Bonett and Price 2012 (JEBS
    37:479-488; it adds an image for either side, so that unanimity is no proof), plus the variance between
    the seeds of either row, with Bonferroni over all pairs. Two or three seeds estimate their variance
    poorly, so a row's variance never counts for less than the mean over all rows. Equal rows share an
    interval. A noisy row's interval widens its neighbours', so that no row gets a better interval than one
    with higher accuracy.

    Args:
        outcomes: per row (seeds, images), the same images in the same order.
    """
    if len({row.shape[1] for row in outcomes}) > 1 or not all(row.size for row in outcomes):
        raise ValueError(f"not the same images, or none: {[row.shape for row in outcomes]}")
    if len(outcomes) < 2:
        return [Rank(1, 1)] * len(outcomes)
    accuracy = np.array([_mean(row) for row in outcomes])
    better = _surely_different(outcomes, accuracy) & (accuracy[:, None] > accuracy)
    above, below = better.sum(0), better.sum(1)  # rows surely better, rows surely worse
    lower = accuracy[:, None] >= accuracy  # [i, j]: j is no better than i
    first = np.where(lower, above, len(outcomes)).min(1) + 1
    last = len(outcomes) - np.where(lower.T, below, len(outcomes)).min(1)
    return [Rank(int(one), int(other)) for one, other in zip(first, last, strict=True)]


def _surely_different(outcomes: Sequence[Outcomes], accuracy: Floats) -> NDArray[np.bool_]:
    """Return which pairs of rows differ in accuracy, with all claims jointly at the level: (rows, rows)."""
    images = outcomes[0].shape[1]
    means = np.stack([row.mean(0) for row in outcomes])
    gram = means @ means.T
    squares = np.diag(gram)[:, None] + np.diag(gram) - 2 * gram
    difference = (accuracy[:, None] - accuracy) * images / (images + 2)
    over_images = ((squares.clip(0) + 2) / (images + 2) - difference**2) / (images + 2)
    own, freedom = _training_variance(outcomes)
    variance = over_images + own[:, None] + own
    spread = over_images**2 / images + (own[:, None] ** 2 + own**2) / freedom  # Welch-Satterthwaite
    p = 2 * stdtr(variance**2 / spread, -np.abs(difference) / np.sqrt(variance))
    pairs = len(outcomes) * (len(outcomes) - 1) / 2
    return np.asarray(p < (1 - _SIMULTANEOUS) / pairs)


def _training_variance(outcomes: Sequence[Outcomes]) -> tuple[Floats, int]:
    """Return each row's variance between seeds (rows,), 0 for one seed, and the total degrees of freedom."""
    extra = np.array([len(row) - 1 for row in outcomes])
    freedom = max(1, int(extra.sum()))
    own = np.array([row.mean(1).var(ddof=1) if len(row) > 1 else 0.0 for row in outcomes])
    common = (own * extra).sum() / freedom
    return np.where(extra > 0, np.maximum(own, common), 0.0) / (extra + 1), freedom


def _mean(outcomes: Outcomes) -> float:
    """Return the share of true values; equal ratios of counts give the same float."""
    return int(outcomes.sum()) / outcomes.size
