"""Our attacks and training step beside those of other libraries, on the same model and images, in turns.

A peer takes part if its package is installed. Every attack has the numbers of ours that it stands beside.
"""

import copy
import importlib
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustness_bench.attacks.base import predict
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.networks.fold import folded
from robustness_bench.benchmark.sandbox.watcher import status_of
from robustness_bench.benchmark.train.defenses import climbed
from robustness_bench.benchmark.train.images import Batch
from robustness_bench.defenses import base as contract
from robustness_bench.defenses.base import InnerAttack
from robustness_bench.defenses.standard import Standard

OURS = "robustness-bench"
LOOP = "a loop by hand"
_SHARE = 0.25  # PGD's step size, of ε
_SLACK = 1e-4  # by which a library's rounding may leave the ball


class Problem(NamedTuple):
    """What everything runs on."""

    model: nn.Module
    """As trained and evaluating, which is what others are given (``turn``)."""
    ours: nn.Module
    """As ``bench run`` has it: batch norm folded, channels last."""
    x: Tensor
    """(N, C, H, W)."""
    y: Tensor
    """(N,)."""
    norm: Norm
    eps: float


Run = Callable[[nn.Module, Problem, int], Any]
"""(model, problem, seed) -> adversarial images, or nothing from a step of training.

torch's global generator is seeded before.
"""
Numbers = Callable[[Problem], dict[str, Any]]
"""The parameters of a library's attack."""


class Entry(NamedTuple):
    """One way to do a family's work; a family's first one is what the others are compared with."""

    name: str
    package: str
    """That has to be installed; empty for a loop."""
    run: Run


class Turn(NamedTuple):
    """One run of an entry."""

    seconds: float
    """Of processor time; on a GPU, where that is idle, of time."""
    forwards: float
    """Passes per image."""
    backwards: float
    memory: float | None
    """Peak in MB beyond what was in use before; None where the system does not tell."""
    accuracy: float | None
    """Share of the images, in %, that withstood; None for a step of training."""
    distance: float | None
    """Median over images classified correctly, of a minimum-norm attack; infinite where half withstood."""


class Figures(NamedTuple):
    """The turns of an entry, compared with the first one of its family in the same round."""

    family: str
    name: str
    version: str
    seconds: float
    """Median, as all that follow."""
    ratio: float
    ratio_min: float
    ratio_max: float
    accuracy: float | None
    distance: float | None
    forwards: float
    backwards: float
    memory: float | None


def _ours(name: str, attack_set: str = "strict") -> Entry:
    def run(model: nn.Module, on: Problem, seed: int) -> Any:
        attack = attack_presets(attack_set)[name].build(on.norm, on.eps)
        return attack(model, on.x, on.y, seed=seed).x_adv

    return Entry(name, OURS, run)


def _pgd_by_hand(model: nn.Module, on: Problem, seed: int, steps: int = 40) -> Tensor:
    """The cross-entropy climbed by all images to the end, as a first version is written."""
    x, y, generator = on.x, on.y, torch.Generator(on.x.device).manual_seed(seed)
    start = torch.rand(x.shape, generator=generator, device=x.device) * 2 - 1
    x_adv = (x + geometry.project(on.eps * start, on.norm, on.eps)).clamp(0, 1)
    for _ in range(steps):
        x_adv.requires_grad_()
        functional.cross_entropy(model(x_adv), y).backward()
        assert x_adv.grad is not None
        step = _SHARE * on.eps * geometry.ascent(x_adv.grad, on.norm)
        x_adv = (x + geometry.project(x_adv.detach() + step - x, on.norm, on.eps)).clamp(0, 1)
    return x_adv


def _foolbox(make: Callable[[Any, Problem], Any], *, eps: bool = False) -> Entry:
    def run(model: nn.Module, on: Problem, seed: int) -> Any:
        import foolbox

        seen = foolbox.PyTorchModel(model.eval(), bounds=(0.0, 1.0), device=on.x.device)
        budget = {"epsilon": on.eps} if eps else {}
        criterion = foolbox.criteria.Misclassification(on.y)
        return make(foolbox.attacks, on).run(seen, on.x, criterion, **budget)

    return Entry("foolbox", "foolbox", run)


def _foolbox_pgd(attacks: Any, on: Problem) -> Any:
    kind = attacks.LinfPGD if on.norm == "linf" else attacks.L2PGD
    return kind(rel_stepsize=_SHARE, steps=40)


def _torchattacks(name: Mapping[Norm, str], numbers: Numbers) -> Entry:
    def run(model: nn.Module, on: Problem, seed: int) -> Any:
        import torchattacks  # type: ignore[import-not-found]

        return getattr(torchattacks, name[on.norm])(model, **numbers(on))(on.x, on.y)

    return Entry("torchattacks", "torchattacks", run)


def _adv_lib(name: str, numbers: Numbers) -> Entry:
    def run(model: nn.Module, on: Problem, seed: int) -> Any:
        from adv_lib import attacks  # type: ignore[import-not-found]

        return getattr(attacks, name)(model, on.x, on.y, **numbers(on))

    return Entry("adv-lib", "adv-lib", run)


def _pyautoattack(model: nn.Module, on: Problem, seed: int) -> Any:
    import logging

    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.CRITICAL)
    library = AutoAttack(model, norm={"linf": "Linf", "l2": "L2"}[on.norm], eps=on.eps, seed=seed)
    return library.run_standard_evaluation(on.x, on.y, batch_size=len(on.x))[0]


_PGD = {"steps": 40, "random_init": True, "relative_step_size": _SHARE}
_CW = {"binary_search_steps": 9, "steps": 1000, "confidence": 0.0, "initial_const": 1e-3}


def _step_by_us(model: nn.Module, on: Problem, seed: int) -> None:
    """The trainer's step of adversarial training with PGD-10: inner attack, loss, gradients, SGD."""
    attack = InnerAttack(norm=on.norm, eps=on.eps, steps=10, rel_step_size=_SHARE, start="uniform")
    batch = Batch(on.x, on.y, Noise.for_samples(torch.arange(len(on.y)), seed))
    defense, optimizer = Standard(), torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    x_adv = climbed(attack, defense, model, batch)[0]
    terms = defense.terms(contract.Batch(model, batch.x, batch.y, x_adv, None))
    _learned(model, optimizer, torch.stack([term.mean() for term in terms.values()]).sum())


def _step_by_hand(model: nn.Module, on: Problem, seed: int) -> None:
    """The same as it is mostly written: on the training model itself, gradients of weights and all."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    model.eval()
    x_adv = _pgd_by_hand(model, on, seed, steps=10)
    model.train()
    _learned(model, optimizer, functional.cross_entropy(model(x_adv), on.y))


def _learned(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()


FAMILIES: dict[str, dict[Norm, list[Entry]]] = {
    "pgd": {
        norm: [
            Entry(LOOP, "", _pgd_by_hand),
            _ours("pgd-40", "paper"),
            _foolbox(_foolbox_pgd, eps=True),
            _torchattacks(
                {"linf": "PGD", "l2": "PGDL2"},
                lambda on: {"eps": on.eps, "alpha": _SHARE * on.eps, "steps": 40},
            ),
            *([_adv_lib("pgd_linf", lambda on: {"ε": on.eps, **_PGD})] if norm == "linf" else []),
        ]
        for norm in ("linf", "l2")
    },
    "aa": {
        norm: [Entry("pyautoattack", "pyautoattack", _pyautoattack), _ours("aa"), _ours("aa-fast")]
        for norm in ("linf", "l2")
    },
    "cw": {
        "l2": [
            _ours("cw"),
            _ours("cw-fast"),
            _foolbox(lambda lib, on: lib.L2CarliniWagnerAttack(**_CW)),
            _adv_lib("carlini_wagner_l2", lambda on: {"binary_search_steps": 9, "max_iterations": 1000}),
        ]
    },
    "ddn": {
        "l2": [
            _ours("ddn"),
            _foolbox(lambda lib, on: lib.DDNAttack(init_epsilon=1.0, steps=300)),
            _adv_lib("ddn", lambda on: {"steps": 300, "levels": None}),
        ]
    },
    "training": {
        norm: [Entry(LOOP, "", _step_by_hand), Entry("training step", OURS, _step_by_us)]
        for norm in ("linf", "l2")
    },
}
"""What is measured: family -> norm -> entries."""
MINIMUM_NORM = ("cw", "ddn")
_IMPORTED = {"adv-lib": "adv_lib.attacks"}  # its name alone imports nothing of what it needs


def installed(package: str) -> str | None:
    """Return the version of an installed package, "" for none needed, None if it is absent or broken."""
    if not package or package == OURS:
        return version(package) if package else ""
    try:
        importlib.import_module(_IMPORTED.get(package, package))
        return version(package)
    except (PackageNotFoundError, ImportError):
        return None


def measure(
    on: Problem, families: Sequence[str], rounds: int, say: Callable[[str], None] = lambda text: None
) -> list[Figures]:
    """Every entry's turns, one of each after the other in every round, and what they come to.

    Families that have nothing under the problem's norm are left out. The first turn's work, such as
    reading a library, is done before on one image.
    """
    rows: list[Figures] = []
    for family in families:
        entries = FAMILIES[family].get(on.norm, [])
        here = [entry for entry in entries if installed(entry.package) is not None]
        turns: dict[str, list[Turn]] = {entry.name: [] for entry in here}
        for number in range(rounds):
            for entry in here:
                say(f"{family}: {entry.name}, round {number + 1} of {rounds}")
                turns[entry.name].append(turn(entry, family, on, number))
        rows += [_row(family, entry, turns[entry.name], turns[here[0].name]) for entry in here]
    return rows


def turn(entry: Entry, family: str, on: Problem, seed: int) -> Turn:
    """Run an entry once.

    A library gets a network as it comes, with weights that require gradients; whether it leaves them out of
    its passes is the library's own doing. A loop gets them frozen.
    """
    model = on.ours if entry.package == OURS else on.model.requires_grad_(bool(entry.package))
    if family == "training":  # of a copy, whose weights do move
        model = copy.deepcopy(on.model).requires_grad_().train()
        if entry.package == OURS:
            model = model.to(memory_format=torch.channels_last)
    if entry.package == OURS:
        on = on._replace(x=on.x.contiguous(memory_format=torch.channels_last))
    passes = Passes(model)
    if family == "training":  # a first step makes what all later ones have
        entry.run(model, on, seed)
        passes.forwards = passes.backwards = 0
    torch.manual_seed(seed)
    before = _memory_reset(on.x.device)
    started = _now(on.x.device)
    x_adv = entry.run(model, on, seed)
    seconds = _now(on.x.device) - started
    memory = None if before is None else _memory_peak(on.x.device) - before
    n = len(on.y)
    counts = (passes.forwards / n, passes.backwards / n)
    passes.remove()
    if x_adv is None:
        return Turn(seconds, *counts, memory, None, None)
    return Turn(seconds, *counts, memory, *_judged(family, on, x_adv.detach()))


def _judged(family: str, on: Problem, x_adv: Tensor) -> tuple[float, float | None]:
    """Accuracy in % at ε, and the median distance of a minimum-norm attack."""
    size = geometry.size(x_adv - on.x, on.norm)
    right, fooled = predict(on.model, on.x) == on.y, predict(on.model, x_adv) != on.y
    stands = right & ~(fooled & (size <= on.eps * (1 + _SLACK)))
    accuracy = 100 * float(stands.float().mean())
    if family not in MINIMUM_NORM:
        return accuracy, None
    return accuracy, float(torch.where(fooled, size, torch.inf)[right].median())


class Passes:
    """Counts images that go forward through a model, and gradients that come back, until removed."""

    def __init__(self, model: nn.Module) -> None:
        self.forwards = self.backwards = 0
        self._hook = model.register_forward_hook(self._forth)

    def _forth(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.forwards += len(output)
        if output.requires_grad:
            output.register_hook(self._back)

    def _back(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)

    def remove(self) -> None:
        self._hook.remove()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Passes":
        return self  # so that a folded copy of the model counts here too


def _row(family: str, entry: Entry, mine: list[Turn], first: list[Turn]) -> Figures:
    ratios = [a.seconds / b.seconds for a, b in zip(mine, first, strict=True)]

    def middle(name: str) -> float | None:
        values = [getattr(each, name) for each in mine]
        return None if None in values else statistics.median(values)

    return Figures(
        family,
        entry.name,
        installed(entry.package) or "",
        statistics.median(each.seconds for each in mine),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        middle("accuracy"),
        middle("distance"),
        middle("forwards") or 0.0,
        middle("backwards") or 0.0,
        middle("memory"),
    )


def problem_of(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float) -> Problem:
    """What everything runs on, from a model as trained: folded and frozen for our own entries."""
    known: dict[str, Norm] = {"linf": "linf", "l2": "l2"}
    model = model.eval()
    ours = folded(model).requires_grad_(False).to(memory_format=torch.channels_last)
    return Problem(model, ours, x.contiguous(), y, known[norm], eps)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def _memory_reset(device: torch.device) -> float | None:
    """Start to watch for a peak; the memory in use, in MB, or None where nobody tells."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 1e6
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _memory("VmRSS")
    return None


def _memory_peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return _memory("VmHWM")


def _memory(field: str) -> float:
    """A line of this process's status on Linux, in MB."""
    return status_of(os.getpid())[field] * 1024 / 1e6
