"""TI-DIM: Dong et al. 2019, https://arxiv.org/abs/1904.02884, on Xie et al. 2019, https://arxiv.org/abs/1803.06978."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustness_bench.attacks.base import BudgetAttack, predict
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import per_sample
from robustness_bench.attacks.numerics.losses import LOSSES, LossName, check_ascent
from robustness_bench.attacks.numerics.noise import Noise


@dataclass(frozen=True, kw_only=True)
class TIDIM(BudgetAttack):
    """Climb a loss along the smoothed gradient of a randomly shrunk image, with momentum.

    Three ideas, each of which a field can turn off: the translation-invariant gradient (Dong et al.
    2019), input diversity (Xie et al. 2019) and momentum (Dong et al. 2018, algorithm 1,
    https://arxiv.org/abs/1710.06081, where L2 steps by the normalised gradient). With ``kernel_size=1,
    diversity=0`` this is MI-FGSM. They are meant for images that must fool a model other than the one
    attacked: ``for_transfer`` is the papers' algorithm.

    Args:
        loss: "log-odds" (the direction of the papers' cross-entropy, at any scale of the logits), "ce"
            (that itself), "margin" or "dlr".
        steps: gradient steps.
        rel_step_size: step size as a fraction of ``eps``.
        momentum: share of the accumulated gradient that a step keeps (the papers' decay μ); may exceed 1.
        kernel_size: side of the Gaussian kernel in pixels, odd; 1 leaves the gradient as it is. It may
            be larger than the image.
        kernel_sigma: standard deviations from the kernel's middle to its edge.
        diversity: probability that a step sees a sample shrunk and padded.
        resize: smallest side of the shrunk image relative to the image's, in (0, 1]; 1 is no diversity.
        random_start: uniform in the ball; False starts at the natural image.
        early_stop: stop on a sample as soon as it is fooled. Without it every step is taken and the last
            image is returned.

    Differs from the paper: the image is shrunk and padded back to its size, because our models take one
    size, where Xie et al. enlarge 299 pixels to at most 330. The kernel is that of Dong et al.'s code,
    not their σ = k/√3. Where the gradient vanishes its normalisation leaves it zero.
    """

    loss: LossName = "log-odds"
    steps: int = 10
    rel_step_size: float = 0.1
    momentum: float = 1.0
    kernel_size: int = 15
    kernel_sigma: float = 3.0
    diversity: float = 0.7
    resize: float = 0.9
    random_start: bool = False
    early_stop: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ascent(self.loss, momentum=self.momentum, steps=self.steps, rel_step_size=self.rel_step_size)
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {self.kernel_size}")
        if not 0 < self.kernel_sigma < math.inf:
            raise ValueError(f"kernel_sigma must be positive and finite, got {self.kernel_sigma}")
        if not 0 <= self.diversity <= 1:
            raise ValueError(f"diversity must be a probability, got {self.diversity}")
        if not 0 < self.resize <= 1:
            raise ValueError(f"resize must be in (0, 1], got {self.resize}")

    @property
    def diverse(self) -> bool:
        """Whether the model may see an image other than the one that is judged."""
        return self.diversity > 0 and self.resize < 1

    def passes(self, classes: int) -> tuple[int, int]:
        return self.steps * (2 if self.early_stop and self.diverse else 1), self.steps

    def for_transfer(self) -> "TIDIM":
        return dataclasses.replace(self, early_stop=False)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        kernel = gaussian_kernel(self.kernel_size, self.kernel_sigma).to(x.device)
        x_adv = x.clone()
        if self.random_start:
            x_adv = geometry.random_start(noise, x, self.norm, self.eps)
        velocity = torch.zeros_like(x)
        rows = torch.arange(len(x), device=x.device)  # the samples still under attack
        for step in range(self.steps):
            if self.early_stop and self.diverse:
                # The logits of a shrunk image say nothing about the image that is kept.
                rows = rows[predict(model, x_adv[rows]) == y[rows]]
            if not len(rows):
                break
            image = x_adv[rows].requires_grad_()
            seen = image
            if self.diverse:
                # The random start has used draws 0 and 1.
                seen = diversify(image, noise[rows], self.diversity, self.resize, draw=2 + step)
            logits = model(seen)
            loss = LOSSES[self.loss](logits, y[rows]).sum()
            (gradient,) = torch.autograd.grad(loss, image)
            if self.early_stop and not self.diverse:
                standing = logits.argmax(1) == y[rows]
                rows, gradient = rows[standing], gradient[standing]
            gradient = mean_normalised(smooth(gradient, kernel))
            velocity[rows] = self.momentum * velocity[rows] + gradient
            step_size = self.rel_step_size * self.eps
            x_adv[rows] = geometry.climb(x[rows], x_adv[rows], velocity[rows], self.norm, self.eps, step_size)
        return x_adv


def gaussian_kernel(size: int, sigma: float) -> Tensor:
    """One axis of Dong et al.'s kernel, summing to 1: (size,).

    The standard normal density at ``size`` evenly spaced points from -sigma to sigma, as in their
    code; 15 points to 3 sigma make a standard deviation of 2.33 pixels.
    """
    if size == 1:
        return torch.ones(1)
    density = (-0.5 * torch.linspace(-sigma, sigma, size, dtype=torch.float64) ** 2).exp()
    return (density / density.sum()).float()


def smooth(gradient: Tensor, kernel: Tensor) -> Tensor:
    """Convolve each channel with kernel ⊗ kernel, with zeros outside: (N, C, H, W) -> (N, C, H, W)."""
    planes = gradient.flatten(0, 1)[:, None]
    half = len(kernel) // 2
    planes = functional.conv2d(planes, kernel.reshape(1, 1, -1, 1), padding=(half, 0))
    planes = functional.conv2d(planes, kernel.reshape(1, 1, 1, -1), padding=(0, half))
    return planes.reshape(gradient.shape)


def mean_normalised(gradient: Tensor) -> Tensor:
    """Divide each sample's gradient by its mean absolute value; a zero gradient stays zero."""
    scale = gradient.abs().flatten(1).mean(1)
    return gradient / per_sample(scale.masked_fill(scale == 0, 1.0), gradient)


def diversify(x: Tensor, noise: Noise, probability: float, resize: float, *, draw: int) -> Tensor:
    """Shrink some of the images bilinearly and pad them with zeros at a random place: (N, C, H, W).

    Args:
        probability: that an image is shrunk.
        resize: its side is uniform over the integers from ⌈resize·H⌉ to H, and in proportion for W.
        draw: another draw is another independent choice.
    """
    chosen, share, top, left = noise.uniform((4,), draw=draw).unbind(1)
    rows = _placement(x.shape[2], resize, share, top, chosen < probability)
    columns = _placement(x.shape[3], resize, share, left, chosen < probability)
    return rows[:, None] @ x @ columns[:, None].transpose(2, 3)


def _placement(size: int, resize: float, share: Tensor, place: Tensor, chosen: Tensor) -> Tensor:
    """The ``shrink_matrix`` that N uniform numbers choose for one axis: (N, size, size)."""
    smallest = max(1, math.ceil(resize * size - 1e-6))  # 0.55 * 100 is a little more than 55
    side = smallest + (share * (size - smallest + 1)).long()
    side = torch.where(chosen, side, size)
    offset = (place * (size - side + 1)).long()
    return shrink_matrix(size, side, offset)


def shrink_matrix(size: int, side: Tensor, offset: Tensor) -> Tensor:
    """Return matrices that resize an axis of ``size`` pixels to ``side`` (N,), after ``offset`` (N,) zeros.

    Bilinear, pixels as areas (``align_corners=False``), no antialiasing. Returns (N, size, size), a row
    for each pixel of the result.
    """
    pixel = torch.arange(size, device=side.device)
    inner = pixel - offset[:, None]
    source = ((inner + 0.5) * (size / side)[:, None] - 0.5).clamp(0, size - 1)
    weights = (1.0 - (source[:, :, None] - pixel).abs()).clamp_min(0.0)
    inside = (inner >= 0) & (inner < side[:, None])
    return weights * inside[:, :, None]
