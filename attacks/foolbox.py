"""Minimum-norm attacks by the package ``foolbox`` (Rauber et al. 2020, https://doi.org/10.21105/joss.02607)."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attacks.base import MinimumNormAttack
from attacks.geometry import Norm
from attacks.noise import Noise


@dataclass(frozen=True, kw_only=True)
class FoolboxAttack(MinimumNormAttack):
    """Runs one attack of foolbox; what it found is judged by our base class, never by foolbox."""

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    norm: Norm = "l2"

    @abstractmethod
    def library_attack(self) -> Any:
        """The foolbox attack with this object's parameters."""

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0.0, 1.0), device=x.device)
        criterion = foolbox.criteria.Misclassification(y)
        # DDN replaces a vanished gradient by a draw from the global generator.
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            torch.manual_seed(0)
            found: Tensor = self.library_attack().run(wrapped, x, criterion).detach()
        # Where foolbox's CW finds nothing it returns an all-black image: that is a failure.
        black = (found == 0).flatten(1).all(1)
        found[black] = x[black]
        return found


@dataclass(frozen=True, kw_only=True)
class CW(FoolboxAttack):
    """Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644, the L2 attack of section VI.A.

    Args:
        search_steps: binary search steps for the constant c.
        steps: Adam steps in each.
        step_size: Adam's learning rate in tanh space.
        confidence: margin κ an adversarial image must reach.
        initial_const: first c.

    Differs from the paper: no abort on stalled loss, because foolbox decides it for a whole batch.
    """

    search_steps: int = 9
    steps: int = 1000
    step_size: float = 0.01
    confidence: float = 0.0
    initial_const: float = 1e-3

    def passes(self, classes: int) -> tuple[int, int]:
        return self.search_steps * self.steps, self.search_steps * self.steps

    def library_attack(self) -> Any:
        from foolbox.attacks import L2CarliniWagnerAttack

        return L2CarliniWagnerAttack(
            binary_search_steps=self.search_steps,
            steps=self.steps,
            stepsize=self.step_size,
            confidence=self.confidence,
            initial_const=self.initial_const,
            abort_early=False,
        )


@dataclass(frozen=True, kw_only=True)
class DDN(FoolboxAttack):
    """Rony et al. 2019, https://arxiv.org/abs/1811.09600, algorithm 1: direction and norm apart.

    Args:
        steps: gradient steps.
        gamma: relative change of the radius per step.
        initial_norm: first radius, in pixel units.
    """

    steps: int = 100
    gamma: float = 0.05
    initial_norm: float = 1.0

    def passes(self, classes: int) -> tuple[int, int]:
        return self.steps, self.steps

    def library_attack(self) -> Any:
        from foolbox.attacks import DDNAttack

        return DDNAttack(init_epsilon=self.initial_norm, steps=self.steps, gamma=self.gamma)
