"""RayS: Chen and Gu 2020, "RayS: A ray searching method for hard-label adversarial attack".

KDD 2020, https://arxiv.org/abs/2006.12792. It sees nothing but the predicted class.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import MinimumNormAttack, predict
from robustness_bench.attacks.numerics.geometry import Norm, per_sample
from robustness_bench.attacks.numerics.noise import Noise


@dataclass(frozen=True, kw_only=True)
class RayS(MinimumNormAttack):
    """Search the corners of the cube, s in {-1, 1}^d, for the ray x + r·s whose first other class is nearest.

    Algorithms 1 to 3: a stage cuts the pixels in their order into 1, 2, 4, … parts; one part's signs are
    flipped at a time, and kept if the image at the present radius is still misclassified; then the radius
    along the new ray is bisected. After the last stage, of single pixels, the first follows.

    Args:
        queries: forward passes per sample, at most.
        tolerance: width at which a bisection ends.

    Images are clipped to the box, so the distance of what is found may be below the radius. ``noise`` is not
    used: the search begins at s = 1, as in the authors' code, and is deterministic.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    norm: Norm = "linf"
    queries: int = 1000
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries < 2 or not self.tolerance > 0:
            raise ValueError(f"queries must be at least 2 and tolerance positive, got {self!r}")

    def passes(self, classes: int) -> tuple[int, int]:
        return self.queries, 0

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        signs, radius = torch.ones_like(x), x.new_full((len(x),), torch.inf)
        left = torch.full_like(y, self.queries)
        part, stage = torch.zeros_like(y), torch.zeros_like(y)

        def fools(rows: Tensor, ray: Tensor, at: Tensor) -> Tensor:
            left[rows] -= 1
            image = (x[rows] + per_sample(at, ray) * ray).clamp(0, 1)
            return predict(model, image) != y[rows]

        while True:
            # Room for the look and for at least one step of a bisection, whose end is an image that fools.
            rows = (left > 1).nonzero()[:, 0]
            if not len(rows):
                break
            ray = signs[rows] * _flips(x[rows], part[rows], stage[rows])
            at = radius[rows].clamp(max=1.0)  # at radius 1 every pixel is black or white
            better = fools(rows, ray, at)
            chosen, ray = rows[better], ray[better]
            signs[chosen], radius[chosen] = ray, at[better]
            low = torch.zeros_like(radius[chosen])
            active = torch.arange(len(chosen), device=x.device)
            while True:
                wide = (radius[chosen[active]] - low[active] > self.tolerance) & (left[chosen[active]] > 0)
                active = active[wide]
                if not len(active):
                    break
                middle = (radius[chosen[active]] + low[active]) / 2
                nearer = fools(chosen[active], ray[active], middle)
                radius[chosen[active[nearer]]] = middle[nearer]
                low[active[~nearer]] = middle[~nearer]
            part[rows] += 1
            over = rows[part[rows] >= 2 ** stage[rows]]
            part[over], stage[over] = 0, stage[over] + 1
            last = torch.full_like(stage, _stages(x) - 1)
            stage = torch.where(stage > last, 0, stage)
        found = radius.isfinite()
        at = torch.where(found, radius, 0.0)
        return (x + per_sample(at, x) * signs).clamp(0, 1)


def _stages(x: Tensor) -> int:
    """The number of stages: the last cuts into at least as many parts as there are pixels."""
    return (x[0].numel() - 1).bit_length() + 1


def _flips(x: Tensor, part: Tensor, stage: Tensor) -> Tensor:
    """Return -1 on a part's pixels and 1 elsewhere: (N, C, H, W) from parts and stages (N,)."""
    size = x[0].numel()
    length = (size + 2**stage - 1) // 2**stage
    pixel = torch.arange(size, device=x.device)
    inside = (pixel // length[:, None]) == part[:, None]
    return torch.where(inside, -1.0, 1.0).to(x.dtype).reshape(x.shape)
