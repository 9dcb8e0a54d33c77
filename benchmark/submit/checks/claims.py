"""Compare the claims with a few hundred images, and estimate the time of the whole protocol."""

from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.plan.cost import pass_seconds
from robustness_bench.benchmark.run.progress import duration
from robustness_bench.benchmark.statistics import Interval, wilson
from robustness_bench.benchmark.submit.checks.subject import Subject
from robustness_bench.benchmark.submit.intake.static import Status

_LEVEL, _RUNS = 0.99, 2
_FIX = "fix the claim or the weights"


def natural(s: Subject) -> tuple[Status, str]:
    """Compare the claimed natural accuracy with that on the test images tried, within its interval."""
    claim, at = s.submission.claimed["natural"], interval(s.natural, len(s.y))
    how = f"{_share(s.natural, len(s.y), at)}; {claim:g} % claimed for natural"
    return ("ok", how) if at.low <= claim / 100 <= at.high else ("flagged", f"{how}: {_FIX}")


def robust(s: Subject) -> tuple[Status, str]:
    """Compare the claim under AutoAttack with a few attack steps, which can only overestimate robustness."""
    claim, m = s.submission.claimed["aa"], s.measured
    assert m.attacked  # the quick probe always includes attacks
    left, images = m.attacked.all, m.attacked.images
    at = interval(left, images)
    how = f"a quick attack leaves {_share(left, images, at)}; {claim:g} % claimed for aa"
    return ("ok", how) if claim / 100 <= at.high else ("flagged", f"{how}: {_FIX}")


def interval(share: float, images: int) -> Interval:
    return wilson(round(share * images), images, _LEVEL)


def _share(share: float, images: int, at: Interval) -> str:
    return f"{100 * share:.1f} % of {images} images (99 % interval {100 * at.low:.1f} to {100 * at.high:.1f})"


def speed(s: Subject) -> tuple[Status, str]:
    """Report images per second, and how long the protocol's attacks would take on all test images."""
    x = s.x[:64]
    forward, both = (pass_seconds(s.model, x, _RUNS, gradient=each).low for each in (False, True))
    both = max(both, forward)
    names, forwards, backwards = _protocol_passes(s)
    n = s.data.test_images
    seconds = n * (forwards * forward + backwards * (both - forward))
    return "ok", (
        f"{1 / forward:.0f} images/s, {1 / both:.0f} with gradients on {s.x.device}; the protocol "
        f"({', '.join(names)}) on {n} images takes about {duration(seconds)}"
    )


def _protocol_passes(s: Subject) -> tuple[list[str], float, float]:
    """Return the strict set's attacks for the claimed norm, and their forward and backward passes per image.

    Half of the images are assumed to be fooled at once.
    """
    from robustness_bench.benchmark.plan.protocol import load_protocol

    submission = s.submission
    overrides = {"datasets": [submission.dataset], "norms": [submission.norm]}
    names = load_protocol(None, overrides).settings[0].attacks[submission.norm]
    attacks = [attack_presets("strict")[name].build(submission.norm, submission.eps) for name in names]
    passes = [attack.passes(s.info.classes) for attack in attacks]
    forwards = sum(2 + each / 2 for each, _ in passes)
    return list(names), forwards, sum(each / 2 for _, each in passes)
