"""Prior-guided initialisation: one-step training that starts where earlier epochs' gradients point."""

import torch
from torch import Tensor, nn

from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.defenses.base import InnerAttack


class Prior(nn.Module):
    """FGSM-PGI by momentum of all earlier epochs (FGSM-MEP), Jia et al. 2022, https://arxiv.org/abs/2207.08859.

    For each training image a start η and a momentum m are remembered. With g the gradient at x + η, the
    adversarial image is x + Π[η + α sign g]; then m ← μ m + g / ‖g‖₁ and η ← Π[η + α sign m]. Every ``reset``
    epochs η is ±ε at random and m is zero again. As in the authors' code (aafd1a5 of their repository) η
    belongs to the image as the network sees it: a crop or a flip is not undone.

    The loss gets λ times ``deviation``, the mean square of f(x̃) - f(x + η); λ = 10 in the authors' code.

    Differs from the authors' code: ‖g‖₁ is of an image, not of the batch, whose size would matter; x + η is
    clipped to the box; the gradient is that of the defense's own inner loss, in evaluation mode.

    Memory: 4 bytes per pixel of every training image (η and m in half precision), on the device and in the
    file that is kept for resuming: 0.6 GB for CIFAR-10.

    Args:
        shape: (N, C, H, W) of all training images, held-out ones included.
        momentum: μ.
    """

    start: Tensor
    momentum: Tensor
    drawn: Tensor

    def __init__(self, shape: tuple[int, ...], attack: InnerAttack, *, momentum: float, reset: int) -> None:
        super().__init__()
        self._attack, self._decay, self._reset = attack, momentum, reset
        self.register_buffer("start", torch.zeros(shape, dtype=torch.half))
        self.register_buffer("momentum", torch.zeros(shape, dtype=torch.half))
        self.register_buffer("drawn", torch.full(shape[:1], -1))  # the period of its start

    @torch.no_grad()
    def starts(self, indices: Tensor, epoch: int, noise: Noise) -> Tensor:
        """Return η of some images, (N, C, H, W), drawn anew if a period has begun since; ``epoch`` from 0."""
        indices, period = indices.to(self.drawn.device), epoch // self._reset
        old = geometry.per_sample(self.drawn[indices] == period, self.start[:1])
        shape = tuple(self.start.shape[1:])
        fresh = self._attack.eps * geometry.ascent(noise.normal(shape), self._attack.norm)
        self.start[indices] = torch.where(old, self.start[indices], fresh.half())
        self.momentum[indices] = torch.where(old, self.momentum[indices], 0.0)
        self.drawn[indices] = period
        return self.start[indices].float()

    @torch.no_grad()
    def remember(self, indices: Tensor, x: Tensor, start: Tensor, gradient: Tensor) -> None:
        """Update m and η of some images after their step."""
        attack, indices = self._attack, indices.to(self.drawn.device)
        # ‖g‖₁ up to the number of pixels, which changes no sign and keeps half precision precise.
        scale = gradient.abs().flatten(1).mean(1).clamp_min(1e-30)
        momentum = self._decay * self.momentum[indices].float() + gradient / geometry.per_sample(
            scale, gradient
        )
        step_size = attack.rel_step_size * attack.eps
        moved = geometry.climb(x, x + start, momentum, attack.norm, attack.eps, step_size)
        self.momentum[indices] = momentum.half()
        self.start[indices] = (moved - x).half()


def deviation(logits: Tensor, prior_logits: Tensor) -> Tensor:
    """The mean square of f(x̃) - f(x + η) over images and classes, from two (N, K)."""
    squares: Tensor = (logits - prior_logits).square().mean()
    return squares
