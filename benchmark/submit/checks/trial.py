"""A trial of a submitted attack in the confined process, on a linear model and a few images."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import Counted
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.benchmark.data import DATASETS, locate
from robustness_bench.benchmark.data.base import DatasetInfo
from robustness_bench.benchmark.measure.verification import allowed
from robustness_bench.benchmark.sandbox.attack_process import AttackProcess
from robustness_bench.benchmark.sandbox.confinement import Limits
from robustness_bench.benchmark.submit.intake.static import Status
from robustness_bench.benchmark.submit.manifest.attack import AttackSubmission

_IMAGES, _SEED = 32, 7
_RIDGE = 100.0
_HOME = "digits"
LIMITS = Limits(seconds_per_call=300.0)
Verdict = tuple[Status, str]


class Subject(NamedTuple):
    """A model, and images that it classifies correctly."""

    model: nn.Module
    x: Tensor
    y: Tensor
    info: DatasetInfo


class Run(NamedTuple):
    """The result of one run of the attack; passes are per image."""

    found: Tensor
    forwards: float
    backwards: float
    seconds: float


@dataclass(frozen=True)
class Trial:
    """The trial of an attack; each run is a separate process."""

    attack: AttackSubmission
    code: Path

    @cached_property
    def subject(self) -> Subject:
        return subject_for(self.attack)

    @cached_property
    def runs(self) -> dict[Norm, Run]:
        """Run it with one seed in each of its norms: norm -> run; SubmittedAttackError if one is invalid."""
        return {norm: self.run(norm, _SEED) for norm in cast(tuple[Norm, ...], self.attack.norms)}

    def run(self, norm: Norm, seed: int) -> Run:
        model, x, y, info = self.subject
        counted = Counted(model)
        with AttackProcess.start(self.code, LIMITS) as process:
            started = time.monotonic()
            found = process.perturb(
                counted, x, y, norm=norm, eps=info.eps(norm), seed=seed, allowance=self.attack.allowance
            )
            seconds = time.monotonic() - started
        return Run(found, counted.forwards / len(x), counted.backwards / len(x), seconds)


def subject_for(attack: AttackSubmission) -> Subject:
    """Return a subject on digits if the attack supports them, else on noise of its data set's size."""
    name = _HOME if attack.is_for(_HOME) else attack.datasets[0]
    info = DATASETS[name].info
    if name == _HOME:
        data = locate(_HOME, Path()).load()
        train, y_train, x, y = (torch.from_numpy(np.array(each)) for each in data)
        model = _fitted(train.float() / 255, y_train, info.classes)
        x = x.float() / 255
    else:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(_IMAGES, info.channels, info.size, info.size, generator=generator)
        model = _linear(torch.randn(info.classes, x[0].numel(), generator=generator))
        y = model(x).argmax(1)
    right = torch.nonzero(model(x).argmax(1) == y)[:_IMAGES, 0]
    return Subject(model, x[right], y[right], info)


def _fitted(x: Tensor, y: Tensor, classes: int) -> nn.Module:
    """Fit ridge regression on the labels, in closed form so that it is the same on every machine."""
    flat = x.flatten(1).double()
    gram = flat.T @ flat + _RIDGE * torch.eye(flat.shape[1], dtype=torch.float64)
    targets = nn.functional.one_hot(y, classes).double()
    return _linear(10 * torch.linalg.solve(gram, flat.T @ targets).T.float())


def _linear(weight: Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.contiguous())
    return nn.Sequential(nn.Flatten(), layer).eval().requires_grad_(False)


def _finite(t: Trial) -> Verdict:
    if not all(torch.isfinite(run.found).all() for run in t.runs.values()):
        return "FAILED", "images have NaN or infinite pixels: fix perturb()"
    return "ok", "every pixel"


def _box(t: Trial) -> Verdict:
    for norm, run in t.runs.items():
        low, high = run.found.min().item(), run.found.max().item()
        if low < 0 or high > 1:
            return "FAILED", f"{norm}: pixels are in [{low:.4g}, {high:.4g}]: end with clamp(0, 1)"
    return "ok", "pixels are in [0, 1]"


def _budget(t: Trial) -> Verdict:
    told = []
    for norm, run in t.runs.items():
        eps = t.subject.info.eps(norm)
        worst = geometry.size(run.found - t.subject.x, norm).max().item()
        if not worst <= allowed(eps):
            return "FAILED", f"{norm}: distance {worst:.6g}, eps = {eps:g}: project onto the ball of {norm}"
        told.append(f"{norm} {worst:.4g} of {eps:g}")
    return "ok", ", ".join(told)


def _passes(t: Trial) -> Verdict:
    declared = f"{t.attack.forward_passes} and {t.attack.backward_passes} are allowed"
    taken = [
        f"{norm} {run.forwards:.4g} forward and {run.backwards:.4g} backward" for norm, run in t.runs.items()
    ]
    return "ok", f"{', '.join(taken)} for an image; {declared}"


def _determinism(t: Trial) -> Verdict:
    norm, run = next(iter(t.runs.items()))
    if not torch.equal(t.run(norm, _SEED).found, run.found):
        return "FAILED", "the same seed gives different images: take all randomness from seed"
    same = torch.equal(t.run(norm, _SEED + 1).found, run.found)
    if same and t.attack.randomised:
        return "flagged", "another seed gives the same images: write randomised = false, or use seed"
    if not same and not t.attack.randomised:
        return "FAILED", "another seed gives different images: write randomised = true"
    return "ok", "the same seed gives the same images" + ("" if same else ", another gives others")


def _effect(t: Trial) -> Verdict:
    status: Status = "ok"
    told = []
    for norm, run in t.runs.items():
        fooled = int((t.subject.model(run.found).argmax(1) != t.subject.y).sum())
        told.append(f"{norm} {fooled} of {len(t.subject.y)}")
        status = status if fooled else "flagged"
    end = "" if status == "ok" else ": it may be too weak to be worth a run"
    return status, f"images that fool a linear model: {', '.join(told)}{end}"


def _speed(t: Trial) -> Verdict:
    images = len(t.subject.y) * len(t.runs)
    return "ok", f"{images / sum(run.seconds for run in t.runs.values()):.3g} images/s on a linear model"


PROBES: dict[str, Callable[[Trial], Verdict]] = {
    "finite": _finite,
    "box": _box,
    "budget": _budget,
    "passes": _passes,
    "determinism": _determinism,
    "effect": _effect,
    "speed": _speed,
}


def probed(trial: Trial) -> Iterator[tuple[str, Verdict]]:
    """Run the probes in turn, until one fails that the others rely on.

    Raises:
        SubmittedAttackError: the attack gives an invalid answer.
    """
    shape = ", ".join(map(str, trial.subject.x.shape))
    assert trial.runs
    yield "shape", ("ok", f"float32 ({shape})")
    for name, probe in PROBES.items():
        verdict = probe(trial)
        yield name, verdict
        if name == "finite" and verdict[0] == "FAILED":
            return
