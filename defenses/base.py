"""The contract between a defense and the trainer.

A defense says what each training batch costs, as named terms whose sum is the loss. The trainer owns
everything else: optimizer, schedule, the inner attack's loop, precision, checkpoints, progress.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

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


@dataclass(frozen=True, kw_only=True)
class InnerAttack:
    """The training's own projected gradient ascent: every step is taken, the last iterate is used.

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
        """Adversarial images for ``x`` from a random start; ``model`` must be frozen and evaluating."""
        x_adv = self._start(x, noise)
        for _ in range(self.steps):
            x_adv.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(model(x_adv)).sum(), x_adv)
            step_size = self.rel_step_size * self.eps
            x_adv = geometry.climb(x, x_adv.detach(), gradient, self.norm, self.eps, step_size)
        return x_adv

    def _start(self, x: Tensor, noise: Noise) -> Tensor:
        if self.start == "uniform":
            return geometry.random_start(noise, x, self.norm, self.eps)
        near = _NEAR * noise.normal(tuple(x.shape[1:])).to(x)
        return (x + geometry.project(near, self.norm, self.eps)).clamp(0, 1)


@dataclass(frozen=True)
class Batch:
    """One training batch; the model's outputs are computed when first asked for.

    A defense that uses both outputs asks for the natural ones first, as the code of TRADES (Zhang et al.
    2019) does. Each pass moves batch norm's running statistics, and those are what the evaluated network
    has: with both passes they are of natural and adversarial images, the last pass weighing more (at
    momentum 0.1 the adversarial images 1 to 0.9). In the other order natural images would.

    Attributes:
        x, y: natural images (N, C, H, W) and labels (N,).
        x_adv: what the inner attack made of x; x itself for a defense that is not adversarial.
        estimators: the frozen MI estimators, for a defense that requires them.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    x_adv: Tensor
    estimators: "MIEstimators | StandardMI | None" = None

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
    """Its fields are its hyperparameters and its identity in records.

    A defense that is not in ``presets.toml`` (``--plugin``, or an entry point of the group
    ``bench.defenses``) says in class attributes what an entry there says.

    Attributes:
        adversarial: whether it trains on adversarial images.
        label: its row's name; empty: the class's name.
        group: rows of one group stand together.
        source: author, year, link.
        requires: ("estimators",) if ``Batch.estimators`` must be there.
        estimators: what they are trained with where the protocol says otherwise.
    """

    adversarial: ClassVar[bool] = True
    label: ClassVar[str] = ""
    group: ClassVar[str] = "plugins"
    source: ClassVar[str] = ""
    requires: ClassVar[tuple[str, ...]] = ()
    estimators: ClassVar[dict[str, Any]] = {}

    def inner_loss(self, model: nn.Module, x: Tensor, y: Tensor) -> InnerLoss:
        """What the inner attack maximises: the log-odds against y, unless a defense says otherwise.

        They grow where the cross-entropy does, and have a gradient at any scale of the logits.

        Args:
            model: the one that is attacked: frozen, in evaluation mode.
        """
        return lambda logits: log_odds(logits, y)

    def natural_epochs(self, epochs: int) -> int:
        """How many epochs of natural training, CE(h(x), y), come before the schedule's ``epochs``.

        They come on top, so that every adversarial defense has the same number of adversarial epochs.
        """
        return 0

    @abstractmethod
    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The loss as named scalar terms, weights included: their sum is minimised."""


def craft(attack: InnerAttack, model: nn.Module, x: Tensor, noise: Noise, loss: InnerLoss) -> Tensor:
    """``attack`` on ``model`` in evaluation mode; the model comes back as it was."""
    with frozen(model):
        return attack(model, x, noise, loss)
