"""Probes of a loaded model, and their verdicts. Images are in [0, 1]."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.plan.cost import pass_seconds
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.run.watching.progress import duration
from robustness_bench.benchmark.statistics import Interval, wilson
from robustness_bench.benchmark.store.flags import FLAGS, flags
from robustness_bench.benchmark.submit.checks.subject import BATCH, Subject, listed_model
from robustness_bench.benchmark.submit.intake.static import Status

Verdict = tuple[Status, str]
_FAR = 0.2
_PASSES, _CHANGED = 5, 1e-4  # as for the flag "randomised"
_MASKING = ("black-beats-white", "square-improves", "survives-any-budget", "loss-not-rising")
_LEVEL, _RUNS = 0.99, 2
_FIX = "fix the claim or the weights"


def _shape(s: Subject) -> Verdict:
    """Check for finite logits of the right shape on one image, several, and the corners of the pixel box."""
    for images in (s.x[:4], s.x[:1], torch.zeros_like(s.x[:2]), torch.ones_like(s.x[:2])):
        with torch.no_grad():
            z = s.model(images)
        wanted = (len(images), s.info.classes)
        if not isinstance(z, Tensor) or tuple(z.shape) != wanted:
            got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            return (
                "FAILED",
                f"{len(images)} images give {got} instead of {wanted}: return logits (N, classes)",
            )
        if not torch.isfinite(z).all():
            return "FAILED", "logits are NaN or infinite for images in [0, 1]: fix the forward pass"
    return "ok", f"logits (N, {s.info.classes}), finite"


def _logits(s: Subject) -> Verdict:
    with torch.no_grad():
        z = s.model(s.x[:BATCH])
    if (z == z[:1]).all():
        return "FAILED", "every image gets the same logits: these weights do not classify"
    if (z >= 0).all() and (z <= 1).all() and ((z.sum(1) - 1).abs() < 1e-4).all():
        return "FAILED", "outputs are probabilities, which hides gradients: leave the softmax out"
    return "ok", "not probabilities"


def _range(s: Subject) -> Verdict:
    """Check whether another pixel range than [0, 1] explains the claimed accuracy better."""
    claim = s.submission.claimed["natural"] / 100
    if claim <= interval(s.natural, len(s.y)).high:
        return "ok", "works on images in [0, 1]"
    said = f"{100 * s.natural:.1f} % right on images in [0, 1], {100 * claim:g} % claimed"
    for remedy, accuracy in _explanations(s).items():
        at = interval(_tried(accuracy), len(s.y))
        if at.low <= claim <= at.high:
            return "FAILED", f"{said}: {remedy}"
    if claim - s.natural > _FAR:
        return "FAILED", f"{said}, and no other range helps: other weights, or another order of the classes?"
    return "ok", "works on images in [0, 1], though not as well as claimed"


def _explanations(s: Subject) -> dict[str, Callable[[], float]]:
    """Return remedy -> a function that computes the accuracy with it."""
    mean, std = (torch.tensor(v, device=s.x.device).reshape(1, -1, 1, 1) for v in (s.info.mean, s.info.std))
    needs = "it needs {}; put that into the model's first layer".format
    plain = "false" if s.submission.weights_plain else "true"
    return {
        f"its network saw other pixels in training; write weights_plain = {plain}": lambda: s.accuracy(
            _otherwise_plain(s), s.x
        ),
        needs("images from 0 to 255"): lambda: s.accuracy(s.model, s.x * 255),
        needs("normalised images"): lambda: s.accuracy(s.model, (s.x - mean) / std),
        needs("images from -1 to 1"): lambda: s.accuracy(s.model, s.x * 2 - 1),
    }


def _tried(accuracy: Callable[[], float]) -> float:
    """Return the accuracy, 0 if the model rejects such images."""
    try:
        return accuracy()
    except (BenchError, RuntimeError, ValueError):
        return 0.0


def _otherwise_plain(s: Subject) -> nn.Module:
    if s.submission.own:
        raise BenchError("code normalises as it does")
    model = listed_model(s.submission, s.weights, plain=not s.submission.weights_plain)
    return model.to(s.x.device)


def _determinism(s: Subject) -> Verdict:
    x, declared = s.x[:64], s.submission.randomised
    with torch.no_grad():
        first, *others = (s.model(x) for _ in range(_PASSES))
    change = max(_change(first, other) for other in others)
    if change <= _CHANGED:
        note = "; declared randomised, which it is not: write randomised = false" if declared else ""
        return ("flagged" if declared else "ok"), f"the same logits in {_PASSES} passes{note}"
    if declared:
        return "ok", f"randomised as declared: logits change by {change:.2g} of the largest"
    return "FAILED", (
        f"logits change by {change:.2g} of the largest within {_PASSES} passes: write randomised = true, or "
        "switch dropout and noise off in evaluation"
    )


def _batches(s: Subject) -> Verdict:
    if s.submission.randomised:
        return "ok", "not compared for a randomised defense"
    x = s.x[:16]
    with torch.no_grad():
        together = s.model(x)
        alone = torch.cat([s.model(image) for image in x.split(1)])
    change = _change(together, alone)
    if change > 10 * _CHANGED:
        return "FAILED", (
            f"an image's logits change by {change:.2g} of the largest with the other images in the batch: "
            "they must not depend on these (batch norm in training mode?)"
        )
    return "ok", "an image's logits do not depend on the other images in the batch"


def _change(first: Tensor, other: Tensor) -> float:
    """Return the largest change of a logit, relative to the largest logit."""
    return float((first - other).abs().max() / first.abs().max().clamp_min(1e-12))


def _gradients(s: Subject) -> Verdict:
    m = s.measured
    if m.broken_gradients:
        return (
            "FAILED",
            f"{100 * m.broken_gradients:.0f} % of the gradients are NaN or infinite: fix the layer",
        )
    if m.zero_gradients > 0.01:
        return "FAILED", (
            f"{100 * m.zero_gradients:.0f} % of the gradients are exactly zero: do not cut them; for a layer "
            "without a gradient, pass on the next layer's (straight through)"
        )
    if not s.submission.randomised and _constant_gradient(s):
        return "FAILED", (
            "every image has the same gradient although the logits are not a linear function: it is not the "
            "model's own gradient; pass that on"
        )
    return "ok", "finite, nowhere zero, and not the same everywhere"


def _constant_gradient(s: Subject) -> bool:
    """Return whether a fixed mixture of logits has one gradient for all images but does not follow it."""
    x = s.x[:32].clone().requires_grad_()
    z = s.model(x)
    mixture = z @ torch.linspace(1, 2, z.shape[1], device=z.device, dtype=z.dtype)
    (gradient,) = torch.autograd.grad(mixture.sum(), x)
    flat, value = gradient.flatten(1), mixture.detach()
    if (flat - flat[0]).abs().max() > 1e-4 * flat.abs().max():
        return False
    rise = ((x.detach() - x.detach()[0]).flatten(1) * flat[0]).sum(1)
    off = (value - value[0] - rise).abs().max()
    return bool(off > 1e-2 * (value - value[0]).abs().max())


def _masking(s: Subject) -> Verdict:
    signs = [name for name in flags(s.measured) if name in _MASKING]
    if signs:
        meant = "; ".join(f"{name} ({FLAGS[name].meaning})" for name in signs)
        return "flagged", f"{meant}: look at the gradients before others do"
    return "ok", "a quick check finds no sign of hidden gradients"


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
    submission = s.submission
    overrides = {"datasets": [submission.dataset], "norms": [submission.norm]}
    names = load_protocol(None, overrides).settings[0].attacks[submission.norm]
    attacks = [attack_presets("strict")[name].build(submission.norm, submission.eps) for name in names]
    passes = [attack.passes(s.info.classes) for attack in attacks]
    forwards = sum(2 + each / 2 for each, _ in passes)
    return list(names), forwards, sum(each / 2 for _, each in passes)


PROBES: dict[str, Callable[[Subject], Verdict]] = {
    "shape": _shape,
    "logits": _logits,
    "range": _range,
    "determinism": _determinism,
    "batches": _batches,
    "gradients": _gradients,
    "masking": _masking,
    "natural accuracy": natural,
    "robust accuracy": robust,
    "speed": speed,
}
"""The probes in order: each relies on the ones before it."""
