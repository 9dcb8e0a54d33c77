"""Networks that hide their gradients from attacks, made from one that does not."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class Rounded(Wrapped):
    """The image in 17 levels: no gradient at all."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner((16.0 * x).round() / 16.0)
        return logits


class Saturated(Wrapped):
    """Logits squeezed so that their slope is lost to float32, and the order of the classes is not."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return 50.0 * (0.5 * (logits - logits.detach().mean(1, keepdim=True))).tanh() + 1e-3 * logits.detach()


class Lying(Wrapped):
    """A gradient that points anywhere, the same for the same image."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.detach())
        generator = torch.Generator().manual_seed(0)
        slope = torch.randn(x[0].numel(), logits.shape[1], generator=generator)
        value = x.flatten(1) @ slope
        return logits + value - value.detach()


class Drawing(Wrapped):
    """Noise on the image, anew in every pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x + 0.05 * torch.randn(x.shape, generator=self.generator))
        return logits


MASKED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "rounded": Rounded,
    "saturated": Saturated,
    "lying": Lying,
    "drawing": Drawing,
}
