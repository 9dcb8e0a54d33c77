"""The contract between a defense and the trainer.

A defense computes the loss of each training batch as a sum of named terms. The trainer does everything
else: optimizer, schedule, the inner attack's loop, precision, checkpoints, progress.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustness_bench.attacks.base import frozen
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.losses import log_odds
from robustness_bench.attacks.numerics.noise import Noise

if TYPE_CHECKING:
    from robustness_bench.defenses.mutual_information.estimator import MIEstimators, StandardMI

Start = Literal["uniform", "near"]
_NEAR = 0.001
InnerLoss = Callable[[Tensor], Tensor]
"""Logits of the adversarial images (N, K) -> what the inner attack maximises, (N,)."""


def against(y: Tensor) -> InnerLoss:
    """Return the map from logits (N, K) to log-odds against ``y`` (N,)."""
    return lambda logits: log_odds(logits, y)


@dataclass(frozen=True, kw_only=True)
class InnerAttack:
    """The projected gradient ascent used in training: every step is taken, the last iterate is used.

    Args:
        eps: budget in pixels of [0, 1].
        steps: gradient steps (Madry et al. 2018 and Zhou et al. 2022: 10).
        rel_step_size: step size as a fraction of ``eps`` (Zhou et al. 2022: 1/4).
        start: "uniform" in the ball (Madry et al. 2018), or "near": x + 0.001·N(0, 1), as in the code of
            TRADES (Zhang et al. 2019) and of Zhou et al.
    """

    norm: Norm
    eps: float
    steps: int = 10
    rel_step_size: float = 0.25
    start: Start = "uniform"

    def __call__(self, model: nn.Module, x: Tensor, noise: Noise, loss: InnerLoss) -> Tensor:
        """Return adversarial images for ``x``; ``model`` must be frozen and in evaluation mode."""
        return self.climb(model, x, self.start_of(x, noise), loss)[0]

    def climb(self, model: nn.Module, x: Tensor, start: Tensor, loss: InnerLoss) -> tuple[Tensor, Tensor]:
        """Return where the steps from ``start`` lead, and the gradient of the first one.

        ``start`` may leave the box: its gradient is taken inside.
        """
        x_adv, first = start, torch.zeros_like(start)
        for step in range(self.steps):
            seen = x_adv.clamp(0, 1).requires_grad_()
            (gradient,) = torch.autograd.grad(loss(model(seen)).sum(), seen)
            first = first if step else gradient
            step_size = self.rel_step_size * self.eps
            x_adv = geometry.climb(x, x_adv, gradient, self.norm, self.eps, step_size)
        return x_adv, first

    def start_of(self, x: Tensor, noise: Noise) -> Tensor:
        if self.start == "uniform":
            return geometry.random_start(noise, x, self.norm, self.eps)
        near = _NEAR * noise.normal(tuple(x.shape[1:])).to(x)
        return (x + geometry.project(near, self.norm, self.eps)).clamp(0, 1)


@dataclass(frozen=True)
class Batch:
    """One training batch; the model's outputs are computed when first asked for.

    A defense that uses both outputs asks for the natural ones first, as the code of TRADES (Zhang et al.
    2019) does. The order matters because each pass updates batch norm's running statistics, which the
    evaluated network uses: the last pass weighs more (at momentum 0.1, 1 to 0.9), so adversarial images
    weigh more than natural ones. In the other order natural images would.

    Attributes:
        x, y: natural images (N, C, H, W) and labels (N,).
        x_adv: the inner attack's images; x itself for a defense that is not adversarial.
        soft: (N, K) probabilities of the classes where the training smooths or mixes labels, else None;
            y is then the most probable one. A defense reads them by ``targets`` or ``cross_entropy``.
        estimators: the frozen MI estimators, for a defense that requires them.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    x_adv: Tensor
    estimators: "MIEstimators | StandardMI | None" = None
    soft: Tensor | None = None

    @cached_property
    def targets(self) -> Tensor:
        """What the outputs should be: classes (N,) int64, or where labels are soft, probabilities (N, K)."""
        return self.y if self.soft is None else self.soft

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Return the mean over the batch of the cross-entropy of ``logits`` (N, K) against ``targets``."""
        return functional.cross_entropy(logits, self.targets)

    @cached_property
    def logits(self) -> Tensor:
        """h(x), (N, K)."""
        logits: Tensor = self.model(self.x)
        return logits

    @cached_property
    def adversarial_logits(self) -> Tensor:
        """h(x̃), (N, K)."""
        logits: Tensor = self.model(self.x_adv)
        return logits


@dataclass(frozen=True, kw_only=True)
class Defense(ABC):
    """A training method. Its fields are its hyperparameters and its identity in records.

    A defense that is not in ``presets.toml`` (``--plugin``, or an entry point of the group
    ``bench.defenses``) has the keys of an entry there as class attributes.

    Attributes:
        adversarial: whether it trains on adversarial images.
        label: name of its row; if empty, the class's name.
        group: rows of one group are shown together.
        source: author, year, link.
        requires: ("estimators",) if ``Batch.estimators`` is needed.
        estimators: settings for training them that override the protocol's.
    """

    adversarial: ClassVar[bool] = True
    label: ClassVar[str] = ""
    group: ClassVar[str] = "plugins"
    source: ClassVar[str] = ""
    requires: ClassVar[tuple[str, ...]] = ()
    estimators: ClassVar[dict[str, Any]] = {}

    def inner_loss(self, model: nn.Module, x: Tensor, y: Tensor) -> InnerLoss:
        """Return what the inner attack maximises: the log-odds against y unless overridden.

        They grow with the cross-entropy, and have a gradient at any scale of the logits.

        Args:
            model: the attacked model, frozen and in evaluation mode.
        """
        return against(y)

    def natural_epochs(self, epochs: int) -> int:
        """Return how many epochs of natural training, CE(h(x), y), precede the schedule's ``epochs``.

        They come on top, so that every adversarial defense has the same number of adversarial epochs.
        """
        return 0

    @abstractmethod
    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss as named scalar terms, weights included; their sum is minimised."""


def craft(attack: InnerAttack, model: nn.Module, x: Tensor, noise: Noise, loss: InnerLoss) -> Tensor:
    """Run ``attack`` on ``model`` in evaluation mode, then restore the model's mode."""
    with frozen(model):
        return attack(model, x, noise, loss)
