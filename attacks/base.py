"""The contract between an attack and its caller.

These conventions hold for the whole project: images ``x`` are float32 in [0, 1] of shape (N, C, H, W),
labels ``y`` are int64 of shape (N,), a model maps images to logits (N, K), and ε and every norm are in
pixel units.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, final

import torch
from torch import Tensor, nn

from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.device import steps_unseen
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.noise import Noise

# Allows for float32 rounding only: one 8-bit level is 4e-3.
_RELATIVE_SLACK, _ABSOLUTE_SLACK = 1e-5, 1e-6

Goal = Literal["untargeted", "transfer"]


class AttackError(RuntimeError):
    """The attack, or the attacked model, gave an invalid result, which must never become a number."""


class Outcome(NamedTuple):
    """What an attack did to each of N samples."""

    x_adv: Tensor
    """(N, C, H, W): the adversarial image; the natural one where the attack found nothing."""
    clean_prediction: Tensor
    """(N,) int64: the class of x."""
    prediction: Tensor
    """(N,) int64: the class of x_adv, from a separate forward pass."""
    distance: Tensor
    """(N,): the norm of x_adv - x."""
    forwards: float
    """Forward passes per sample, the mean over the batch."""
    backwards: float
    """Backward passes per sample, the mean over the batch."""
    way: Tensor | None = None
    """(N,) int8: how each sample's outcome came about, where the attack tells (``attacks.fast``)."""


class Counted(nn.Module):
    """The model as an attack sees it: checks that logits are finite and counts passes of samples.

    A sample whose gradient is not finite gets a zero gradient: it does not move, and its batch is unaffected.

    Args:
        mends: False passes such a gradient on as the model computed it.
        late: logits are only checked by ``check``, so that a pass does not wait for the device.
    """

    def __init__(self, model: nn.Module, *, mends: bool = True, late: bool = False) -> None:
        super().__init__()
        self.model = model
        self.mends, self.late = mends, late
        self._finite: Tensor | None = None
        self.forwards = 0
        self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.mends and x.requires_grad and torch.is_grad_enabled():
            x = x.view_as(x)  # a tensor that only this pass uses, for the hook
            x.register_hook(geometry.mended)
        # A clone: libraries write into the logits, and a model may hand out a cached tensor.
        logits = _logits(self.model(x), len(x)).clone()
        finite = torch.isfinite(logits).all()
        self._finite = finite if self._finite is None else self._finite & finite
        if not self.late:
            self.check()
        self.forwards += len(x)
        if x.requires_grad and not logits.requires_grad:
            # The model cuts the graph: its gradient is zero, which is no reason to crash.
            logits = logits + 0.0 * x.flatten(1).sum(1, keepdim=True)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)
        return logits

    def check(self) -> None:
        """Raise AttackError if the logits of any pass so far were not finite."""
        if self._finite is not None and not self._finite:
            raise AttackError("the model's logits are not finite (NaN or infinity)")

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def _logits(output: object, n: int) -> Tensor:
    """Return the model's output, checked to be one tensor of logits for ``n`` images."""
    if isinstance(output, Tensor) and output.dim() == 2 and len(output) == n:
        return output
    got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise AttackError(f"the model returned {got} for {n} images: return only logits, of shape ({n}, classes)")


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode without weight gradients; restore every module and weight after."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(weight, weight.requires_grad) for weight in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for weight, want in wanted:
            weight.requires_grad_(want)


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack is its hyperparameters and one method, ``perturb``.

    Its fields are its identity in records, its repr the test id. There are two kinds: ``BudgetAttack`` stays
    inside ε; ``MinimumNormAttack`` looks for the nearest adversarial image, so one run serves every ε.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    """The norms this attack can work in."""
    rules: ClassVar[tuple[str, ...]] = ()
    """Ways to choose among the images of one run; if there are any, the field ``rule`` names one."""
    tells: ClassVar[bool] = False
    """Whether ``perturb_told`` has ways to tell."""

    norm: Norm

    def __post_init__(self) -> None:
        if self.norm not in self.norms:
            raise ValueError(f"{type(self).__name__} works in {self.norms}, got norm={self.norm!r}")

    @abstractmethod
    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """Return adversarial images for ``x``, same shape, in [0, 1].

        The caller has put ``model`` into evaluation mode with frozen weights, and judges success
        itself. Where nothing was found, any image may be returned. All randomness must come from ``noise``.
        """

    def perturb_all(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> dict[str, Tensor]:
        """Return rule -> result of ``perturb`` under it, from one run; without rules the only key is ""."""
        return {"": self.perturb(model, x, y, noise)}

    def perturb_told(
        self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return ``perturb_all``, and each sample's ``Outcome.way`` if the attack ``tells``: (N,) int8."""
        return self.perturb_all(model, x, y, noise), None

    @abstractmethod
    def passes(self, classes: int) -> tuple[int, int]:
        """Return the forward and backward passes of a sample that is never fooled, for time estimates."""

    def for_transfer(self) -> "Attack":
        """Return this attack as it should run on a surrogate, where the first success is not enough."""
        return self

    @property
    def stream(self) -> str:
        """What its random numbers are drawn from, besides a seed and the samples' ids."""
        return type(self).__name__

    def check(self, distance: Tensor) -> None:  # noqa: B027 - no budget, nothing to check
        """Raise AttackError if the attack broke its own budget."""

    @final
    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        ids: Tensor | None = None,
        seed: int = 0,
        goal: Goal = "untargeted",
    ) -> Outcome:
        """Return the outcome of ``run`` that this attack's ``rule`` selects."""
        return self.run(model, x, y, ids=ids, seed=seed, goal=goal)[getattr(self, "rule", "")]

    @final
    def run(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        ids: Tensor | None = None,
        seed: int = 0,
        goal: Goal = "untargeted",
    ) -> dict[str, Outcome]:
        """Attack N samples and judge the result by a forward pass on exactly the image that is kept.

        Args:
            ids: (N,) int64; with ``seed`` they determine each sample's noise; default 0 … N-1.
            goal: "untargeted" attacks only samples that are classified correctly and keeps the natural
                image where it fails; "transfer" attacks every sample and keeps whatever image results.

        Returns:
            rule -> outcome; the only key is "" if the attack has no rules. The passes of every outcome
                are those of the whole run.

        Raises:
            ValueError: x or y do not follow this module's conventions.
            AttackError: non-finite logits, or an image outside the box or the budget.
        """
        check_images(x, y)
        ids = torch.arange(len(x)) if ids is None else ids
        noise = Noise.for_samples(ids.to(x.device), seed, self.stream)
        counted = Counted(model, late=steps_unseen(x.device) > 1)
        with frozen(counted):
            clean = predict(counted, x)
            aims = torch.ones_like(y, dtype=torch.bool) if goal == "transfer" else clean == y
            found, told = dict.fromkeys(self.rules or ("",), x[aims]), None
            if aims.any():
                found, told = self.perturb_told(counted, x[aims], y[aims], noise[aims])
            counted.check()
            kept = {
                rule: self._judged(counted, x, y, clean, aims, image, goal) for rule, image in found.items()
            }
        n, way = max(len(x), 1), torch.zeros_like(y, dtype=torch.int8) if self.tells else None
        if way is not None and told is not None:
            way[aims] = told
        return {
            rule: Outcome(
                x_adv,
                clean,
                prediction,
                geometry.size(x_adv - x, self.norm),
                counted.forwards / n,
                counted.backwards / n,
                way,
            )
            for rule, (x_adv, prediction) in kept.items()
        }

    def _judged(
        self, model: nn.Module, x: Tensor, y: Tensor, clean: Tensor, aims: Tensor, found: Tensor, goal: Goal
    ) -> tuple[Tensor, Tensor]:
        """Return all images as they are kept, and their classes; ``found`` belongs to the rows ``aims``."""
        x_adv, prediction = x.clone(), clean.clone()
        if aims.any():
            found = found.detach()
            check_result(found, x[aims])
            self.check(geometry.size(found - x[aims], self.norm))
            judged = predict(model, found)
            kept = aims.clone()
            if goal == "untargeted":
                fooled = judged != y[aims]
                kept[aims] = fooled
                found, judged = found[fooled], judged[fooled]
            x_adv[kept], prediction[kept] = found, judged
        return x_adv, prediction


@dataclass(frozen=True, kw_only=True)
class BudgetAttack(Attack):
    """An attack that stays within distance ``eps`` of the natural image."""

    eps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.eps >= 0:
            raise ValueError(f"eps must be at least 0, got {self.eps}")

    @property
    def _limit(self) -> float:
        """The largest distance that counts as within ``eps``, allowing for rounding."""
        return self.eps * (1 + _RELATIVE_SLACK) + _ABSOLUTE_SLACK

    def check(self, distance: Tensor) -> None:
        if len(distance) and not (worst := distance.max().item()) <= self._limit:
            raise AttackError(f"{self!r} left its budget: {self.norm} distance {worst:.6g} > {self.eps:.6g}")


@dataclass(frozen=True, kw_only=True)
class MinimumNormAttack(Attack):
    """An attack that looks for the nearest adversarial image; one run serves every ε."""


@dataclass(frozen=True, kw_only=True)
class NoAttack(BudgetAttack):
    """No attack: keeps the natural image, so its column is natural accuracy."""

    eps: float = 0.0

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        return x

    def passes(self, classes: int) -> tuple[int, int]:
        return 1, 0


def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Predict the class of each image, without gradients: (N, C, H, W) -> (N,)."""
    with torch.no_grad():
        classes: Tensor = model(x).argmax(1)
    return classes


def check_images(x: Tensor, y: Tensor) -> None:
    """Raise ValueError unless ``x`` and ``y`` follow this module's conventions."""
    if x.dim() != 4 or x.dtype != torch.float32:
        raise ValueError(f"expected float32 images (N, C, H, W), got {x.dtype} {tuple(x.shape)}")
    if y.shape != (len(x),) or y.dtype != torch.int64:
        raise ValueError(f"expected int64 labels ({len(x)},), got {y.dtype} {tuple(y.shape)}")
    if len(x) and not (x.min() >= 0.0 and x.max() <= 1.0):
        raise ValueError(f"expected images in [0, 1], got [{x.min():.4g}, {x.max():.4g}]")


def check_result(x_adv: Tensor, x: Tensor) -> None:
    """Raise AttackError unless ``x_adv`` are valid images of the shape of ``x``."""
    if x_adv.shape != x.shape:
        raise AttackError(f"the attack returned shape {tuple(x_adv.shape)} for {tuple(x.shape)}")
    if not torch.isfinite(x_adv).all():
        raise AttackError("the attack returned pixels that are not finite")
    if not (x_adv.min() >= 0.0 and x_adv.max() <= 1.0):
        raise AttackError(f"the attack returned pixels in [{x_adv.min():.6g}, {x_adv.max():.6g}]")
