"""MEF: "Boosting adversarial transferability with low-cost optimization via maximin expected flatness".

2024, https://arxiv.org/abs/2405.16181.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustness_bench.attacks.black_box.momentum import MomentumAttack
from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.attacks.ti_dim import mean_normalised


@dataclass(frozen=True, kw_only=True)
class MEF(MomentumAttack[Tensor]):
    """Each step averages the gradients of random neighbours, each moved along what was found there before.

    Args:
        neighbours: neighbours per step.
        radius: γ, half side of the cube they are drawn from, as a fraction of ``eps``; uniform in L2 too.
        shift: ξ, how far each is then moved along its memory, in multiples of ``eps``.
        inner_momentum: share of the memory that is taken off the next one.

    Neighbour i lies at x̃ + U(-γε, γε) + ξε·m_i, and m_i, at first 0, becomes g_i / mean|g_i| - μ m_i with its
    gradient g_i. So an alternating memory stands in for the gradient at the worst point nearby, without a
    second pass. Signs and order are those of the code of TransferAttack (2663e4a). Neighbours may lie outside
    the box, as there.
    """

    momentum: float = 0.5
    neighbours: int = 20
    radius: float = 2.0
    shift: float = 0.15
    inner_momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {self.neighbours}")
        for name in ("radius", "shift", "inner_momentum"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

    @property
    def gradients(self) -> int:
        return self.neighbours

    def memory(self, x: Tensor) -> Tensor:
        return x.new_zeros(self.neighbours, *x.shape)

    def direction(
        self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, step: int, memory: Tensor, rows: Tensor
    ) -> Tensor:
        total = torch.zeros_like(x)
        for index in range(self.neighbours):
            draws = noise.uniform(tuple(x.shape[1:]), draw=step * self.neighbours + index)
            known = memory[index, rows]
            away = self.radius * (2 * draws - 1) + self.shift * known
            image = (x + self.eps * away).requires_grad_()
            gradient = self.ascent(model, image, image, y)
            memory[index, rows] = mean_normalised(gradient) - self.inner_momentum * known
            total += gradient
        return total / self.neighbours
