"""A network of one's own: a perceptron with two hidden layers."""

from torch import Tensor, nn

_UNITS = 8  # per unit of width


class MLP(nn.Module):
    """Normalised images (N, C, H, W) -> logits (N, classes).

    Args:
        width: an eighth of the units of a hidden layer (``--width``).
        size: height and width of the images.
    """

    def __init__(self, channels: int, classes: int, width: int, size: int) -> None:
        super().__init__()
        units = _UNITS * width
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * size * size, units),
            nn.ReLU(),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Linear(units, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits
