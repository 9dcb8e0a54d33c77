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
from attacks.noise import Noise, key_of, mix

_LIBRARY_NORM = {"linf": "Linf", "l2": "L2"}
_MOST_TARGETS = 9  # AutoAttack's own number of target classes
_SILENT = logging.Logger("autoattack", logging.CRITICAL)  # its warnings name no cell


@dataclass(frozen=True, kw_only=True)
class AutoAttack(BudgetAttack):
    """The standard ensemble: APGD-CE, targeted APGD-DLR, targeted FAB, Square; each on the survivors.

    Args:
        version: the library's parameter set.
        square_queries: Square's queries per sample; 5000 in the paper.

    Differs from the paper: with fewer than ten classes there are fewer targets.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    version: str = "standard"
    square_queries: int = 5000

    def passes(self, classes: int) -> tuple[int, int]:
        targets = min(_MOST_TARGETS, classes - 1)
        # APGD: 100 steps; FAB: 100 steps of two forward and two backward passes; Square: forward only.
        return 101 + targets * (102 + 200) + self.square_queries, 101 + targets * (101 + 200)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        from pyautoattack import AutoAttack as Library

        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        if classes < 4:
            raise AttackError(f"AutoAttack's targeted DLR loss needs 4 classes, the model has {classes}")
        library = Library(
            model,
            norm=_LIBRARY_NORM[self.norm],
            eps=self.eps,
            seed=0,
            version=self.version,
            device=x.device,
        )
        library.apgd_targeted.n_target_classes = min(_MOST_TARGETS, classes - 1)
        library.fab.n_target_classes = min(_MOST_TARGETS, classes - 1)
        library.square.n_queries = self.square_queries

        x = x.contiguous()  # the library views images flat, which channels-last ones do not allow
        x_adv, rows = x.clone(), torch.arange(len(x), device=x.device)
        library.logger = library.apgd.logger = library.apgd_targeted.logger = _SILENT
        devices = [x.device] if x.is_cuda else []
        with torch.random.fork_rng(devices):
            for name in library.attacks_to_run:
                if not len(rows):
                    break
                member = _member(library, name)
                with _NoiseOfSamples(member, noise[rows], x[rows], name):
                    found = member.perturb(x[rows].clone(), y[rows].clone()).detach()
                fooled = predict(model, found) != y[rows]
                x_adv[rows[fooled]] = found[fooled]
                rows = rows[~fooled]
        return x_adv


def _member(library: Any, name: str) -> Any:
    """The library's attack ``name``, set up as its own evaluation loop does."""
    if name == "apgd-ce":
        library.apgd.loss = "ce"
        return library.apgd
    if name == "apgd-t":
        return library.apgd_targeted
    if name == "fab-t":
        library.fab.targeted = True
        return library.fab
    if name == "square":
        return library.square
    raise ValueError(f"AutoAttack has no member {name!r}")


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
        shape = tuple(args[0])
        if len(shape) == 4 and shape[0] == len(self._noise):
            self._draws += 1
            draw = self._noise.uniform if func is torch.rand else self._noise.normal
            return draw(shape[1:], draw=self._draws)
        one = self._shared.random if func is torch.rand else lambda: self._shared.gauss(0.0, 1.0)
        return torch.tensor([one() for _ in range(math.prod(shape))]).reshape(shape)


def _fingerprints(x: Tensor) -> Tensor:
    """A 64-bit hash of each image's pixels: (N, C, H, W) float32 -> (N,) int64."""
    words = x.detach().float().flatten(1).contiguous().view(torch.int32).long()
    places = torch.arange(words.shape[1], device=x.device)
    return mix((mix(words + mix(places))).sum(1))
