"""DDN by the package ``foolbox`` (Rauber et al. 2020, https://doi.org/10.21105/joss.02607)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks.base import MinimumNormAttack
from attacks.geometry import Norm
from attacks.noise import Noise


@dataclass(frozen=True, kw_only=True)
class DDN(MinimumNormAttack):
    """Rony et al. 2019, https://arxiv.org/abs/1811.09600, algorithm 1: direction and norm apart.

    What foolbox found is judged by our base class, never by foolbox.

    Args:
        steps: gradient steps.
        gamma: relative change of the radius per step.
        initial_norm: first radius, in pixel units.

    Differs from the paper: images are not rounded to levels; a gradient that vanishes is replaced by
    noise drawn for the whole batch, so such a sample alone may depend on its batch.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    norm: Norm = "l2"
    steps: int = 100
    gamma: float = 0.05
    initial_norm: float = 1.0

    def passes(self, classes: int) -> tuple[int, int]:
        return self.steps, self.steps

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0.0, 1.0), device=x.device)
        attack = foolbox.attacks.DDNAttack(init_epsilon=self.initial_norm, steps=self.steps, gamma=self.gamma)
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            torch.manual_seed(0)
            found: Tensor = attack.run(wrapped, x, foolbox.criteria.Misclassification(y)).detach()
        return found
