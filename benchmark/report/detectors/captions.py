"""Captions of the detectors' tables: numbers of images, seeds and κ, and what is not claimed."""

from collections.abc import Iterable, Sequence

from robustness_bench.benchmark.report.detectors.lines import NATURAL, OBLIVIOUS, DetectionLine
from robustness_bench.benchmark.report.detectors.names import confidence
from robustness_bench.benchmark.report.rendering.wording import counts, span

_INTERVAL = "the 95 % Wilson interval of the mean over images, widened by the standard deviation over seeds"


def worst_caption(label: str, lines: Sequence[DetectionLine]) -> str:
    kappas = sorted({line.confidence for line in lines if line.setting == OBLIVIOUS})
    ran = f" ({', '.join(map(confidence, kappas))})" if kappas else ""
    return (
        f"{_withstood(label, lines)} In brackets {_INTERVAL}. Oblivious attacks see the classifier alone; "
        f"the worst κ is that of those run{ran} at which least is withstood, for the defender does not "
        "choose it. Natural images: accuracy counts a flagged image as wrong; flagged is the share of false "
        "alarms, nominal the sum of the shares that the detectors' thresholds flag of held-out images. "
        "Success: share of the images on which an attack that knows the system (white box; grey box: how it "
        "is made, but not its weights) is neither flagged nor classified correctly. A row without one was "
        "attacked obliviously only: it is not a security claim."
    )


def every_caption(label: str, lines: Sequence[DetectionLine]) -> str:
    own = [line for line in lines if line.setting == OBLIVIOUS]
    intervals = [interval for line in own if (interval := line.interval())]
    widest = max(((high - low) / 2 for low, high in intervals), default=0.0)
    several = any(len(line.per_seed) > 1 for line in own)
    spread = " ± sample standard deviation over seeds" if several else ""
    return (
        f"{_withstood(label, own)} Mean{spread}; every interval ({_INTERVAL}) is in detections.csv."
        f" The widest is ± {widest:.1f} points. Oblivious only: not a security claim."
    )


def _withstood(label: str, lines: Sequence[DetectionLine]) -> str:
    """Return the measure, and the numbers of images and seeds."""
    kinds = {
        "under oblivious attacks": [line for line in lines if line.setting == OBLIVIOUS],
        "under adaptive ones": [line for line in lines if line.setting not in (OBLIVIOUS, NATURAL)],
    }
    counted = [f"{_images(found)} {what}" for what, found in kinds.items() if found]
    natural = [line for line in lines if line.setting == NATURAL]
    everything = [f"{_images(natural)} natural ones"] if natural else []
    attacked = f"of the test images that the classifier gets right {', '.join(counted)}" if counted else ""
    seeds = counts((len(line.per_seed) for line in lines), "training seed")
    return (
        "Withstood: share in % of the attacked images that are flagged or, reformed, classified correctly. "
        f"{label}: {'; '.join(filter(None, [attacked, *everything]))}; {seeds}."
    )


def _images(lines: Iterable[DetectionLine]) -> str:
    return span(line.n for line in lines if line.n)
