"""AutoAttack: Croce and Hein 2020, https://arxiv.org/abs/2003.01690, by the package ``pyautoattack``.

The four members and all their parameters are the library's. Ours is the loop over them, so that
outcomes depend on nothing but the sample: the library seeds the global generator and draws noise for
a whole batch at once, which ties a sample's result to its neighbours.
"""

import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attacks.base import AttackError, BudgetAttack, predict
from attacks.geometry import Norm
from attacks.margins import margin
from attacks.noise import Noise, key_of, mix

_LIBRARY_NORM = {"linf": "Linf", "l2": "L2"}
_MOST_TARGETS = 9  # AutoAttack's own number of target classes
_SILENT = logging.Logger("autoattack", logging.CRITICAL)  # its warnings name no cell


_MEMBERS: dict[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
    "square": ("square",),
}


@dataclass(frozen=True, kw_only=True)
class AutoAttack(BudgetAttack):
    """An ensemble of parameter-free attacks, each on what the ones before it left standing.

    Args:
        version: "standard" (APGD-CE, targeted APGD-DLR, targeted FAB, Square), "plus" (also untargeted
            APGD-DLR and FAB, with five restarts), "rand" (APGD-CE and APGD-DLR, each gradient a mean of
            20, for randomised models) or "square" (that member alone, which sees scores only).
        steps: of each run of APGD and FAB; 100 in the paper.
        square_queries: Square's queries per sample; 5000 in the paper.

    Differs from the paper: with fewer than ten classes there are fewer targets; where the DLR losses
    are not defined (targeted: below four classes, untargeted: below three) the margin takes their place.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    version: str = "standard"
    steps: int = 100
    square_queries: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version not in _MEMBERS:
            raise ValueError(f"version must be one of {', '.join(_MEMBERS)}, got {self.version!r}")
        if self.steps < 1 or self.square_queries < 1:
            raise ValueError(f"steps and square_queries must be at least 1, got {self!r}")

    def passes(self, classes: int) -> tuple[int, int]:
        targets = min(_MOST_TARGETS, classes - 1)
        restarts, averaged = (5 if self.version == "plus" else 1), (20 if self.version == "rand" else 1)
        apgd = restarts * (self.steps + 1) * averaged
        costs = {
            "apgd-ce": (apgd, apgd),
            "apgd-dlr": (apgd, apgd),
            "apgd-t": (targets * (self.steps + 2), targets * (self.steps + 1)),
            "fab": (restarts * 2 * self.steps, restarts * self.steps * classes),
            "fab-t": (targets * 2 * self.steps, targets * self.steps),
            "square": (self.square_queries, 0),
        }
        members = [costs[name] for name in _MEMBERS[self.version]]
        return sum(forwards for forwards, _ in members), sum(backwards for _, backwards in members)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        if classes < 2:
            raise AttackError("AutoAttack needs a model of at least 2 classes, this one has 1")
        library = self._library(model, x.device, classes)
        x = x.contiguous()  # the library views images flat, which channels-last ones do not allow
        x_adv, rows = x.clone(), torch.arange(len(x), device=x.device)
        devices = [x.device] if x.is_cuda else []
        with torch.random.fork_rng(devices):
            for name in _MEMBERS[self.version]:
                if not len(rows):
                    break
                member = _member(library, name, classes)
                with _NoiseOfSamples(member, noise[rows], x[rows], name):
                    found = member.perturb(x[rows].clone(), y[rows].clone()).detach()
                fooled = predict(model, found) != y[rows]
                x_adv[rows[fooled]] = found[fooled]
                rows = rows[~fooled]
        return x_adv

    def _library(self, model: nn.Module, device: torch.device, classes: int) -> Any:
        from pyautoattack import AutoAttack as Library

        version = "standard" if self.version == "square" else self.version
        library = Library(
            model, norm=_LIBRARY_NORM[self.norm], eps=self.eps, seed=0, version=version, device=device
        )
        targets = min(_MOST_TARGETS, classes - 1)
        library.apgd_targeted.n_target_classes = library.fab.n_target_classes = targets
        library.square.n_queries = self.square_queries
        for apgd in (library.apgd, library.apgd_targeted):  # the checkpoints are shares of the steps
            apgd.n_iter = apgd.n_iter_orig = self.steps
            apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = (
                max(int(share * self.steps), 1) for share in (0.22, 0.06, 0.03)
            )
        library.fab.n_iter = self.steps
        library.logger = library.apgd.logger = library.apgd_targeted.logger = _SILENT
        return library


def _member(library: Any, name: str, classes: int) -> Any:
    """The library's attack ``name``, set up as its own evaluation loop does."""
    if name in ("apgd-ce", "apgd-dlr"):
        library.apgd.loss = name.removeprefix("apgd-")
        if classes < 3:
            library.apgd.dlr_loss = margin
        return library.apgd
    if name == "apgd-t":
        targeted = library.apgd_targeted
        if classes < 4:

            def targeted_margin(logits: Tensor, y: Tensor) -> Tensor:
                rows = torch.arange(len(y), device=y.device)
                return logits[rows, targeted.y_target] - logits[rows, y]

            targeted.dlr_loss_targeted = targeted_margin
        return targeted
    if name in ("fab", "fab-t"):
        library.fab.targeted = name == "fab-t"
        if library.fab.targeted:
            library.fab.n_restarts = 1
        return library.fab
    return library.square


class _NoiseOfSamples(TorchFunctionMode):
    """Inside, the member's random numbers are keyed by sample instead of drawn from the global state.

    A member draws image-shaped numbers for a batch (those become per-sample noise) and smaller ones
    for all samples alike, such as Square's window (those depend on how many came before). A sample
    is recognised by its pixels, because members pass on subsets of the batch.
    """

    def __init__(self, member: Any, noise: Noise, x: Tensor, name: str) -> None:
        super().__init__()
        self._member, self._name = member, name
        self._run: Callable[..., Any] = member.attack_single_run
        self._keys = dict(zip(_fingerprints(x).tolist(), noise.keys.tolist(), strict=True))
        self._noise = noise
        self._shared = random.Random(key_of(name))
        self._runs = self._draws = 0

    def __enter__(self) -> "_NoiseOfSamples":
        super().__enter__()  # type: ignore[no-untyped-call]
        self._member.attack_single_run = self._start_run
        return self

    def __exit__(self, *error: Any) -> None:
        del self._member.attack_single_run
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _start_run(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        keys = torch.tensor([self._keys[f] for f in _fingerprints(x).tolist()], device=x.device)
        stream = key_of(self._name, self._runs)
        self._noise = Noise(mix(keys + stream))
        self._shared = random.Random(stream)
        self._runs, self._draws = self._runs + 1, 0
        return self._run(x, *args, **kwargs)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is not torch.rand and func is not torch.randn:
            return func(*args, **(kwargs or {}))
        shape, options = _shape_and_options(args, kwargs or {})
        if len(shape) == 4 and shape[0] == len(self._noise):
            self._draws += 1
            draw = self._noise.uniform if func is torch.rand else self._noise.normal
            return draw(shape[1:], draw=self._draws).to(**options)
        one = self._shared.random if func is torch.rand else lambda: self._shared.gauss(0.0, 1.0)
        return torch.tensor([one() for _ in range(math.prod(shape))]).reshape(shape).to(**options)


def _shape_and_options(args: tuple[Any, ...], kwargs: Any) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Of torch.rand(2, 3), torch.rand((2, 3)) or torch.rand(size=(2, 3)), which a model may call too."""
    size = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
    return tuple(size), {key: kwargs[key] for key in ("dtype", "device") if kwargs.get(key) is not None}


def _fingerprints(x: Tensor) -> Tensor:
    """A 64-bit hash of each image's pixels: (N, C, H, W) float32 -> (N,) int64."""
    words = x.detach().float().flatten(1).contiguous().view(torch.int32).long()
    places = torch.arange(words.shape[1], device=x.device)
    return mix((mix(words + mix(places))).sum(1))
