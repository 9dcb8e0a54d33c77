"""The classifiers of MagNet: Meng and Chen 2017, https://arxiv.org/abs/1705.09064, and its public code.

Grey images: the network of Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644, 312 202 weights at
width 32. Colour: the all-convolutional network of Springenberg et al. 2015, https://arxiv.org/abs/1412.6806,
followed by a linear layer, as in Carlini's rerun: without it, its ReLU would keep logits at 0 or above.
"""

from torch import Tensor, nn

_UNPADDED = 20
"""From this image size on, convolutions have no padding, as published; smaller images would vanish."""


class MagNetCNN(nn.Module):
    """(N, C, H, W) -> logits (N, classes).

    Args:
        width: channels of the first layer; published: 32 for grey images and 96 for colour.
    """

    def __init__(self, channels: int, classes: int, width: int, size: int) -> None:
        super().__init__()
        padding = 0 if size >= _UNPADDED else 1
        self.layers = (
            _grey(channels, classes, width, size, padding)
            if channels == 1
            else _colour(channels, classes, width, padding)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def _grey(channels: int, classes: int, width: int, size: int, padding: int) -> nn.Sequential:
    wide, lost = 2 * width, 4 - 4 * padding
    side = ((size - lost) // 2 - lost) // 2
    dense = 200 * width // 32 or 1
    return nn.Sequential(
        *_convolution(channels, width, padding),
        *_convolution(width, width, padding),
        nn.MaxPool2d(2),
        *_convolution(width, wide, padding),
        *_convolution(wide, wide, padding),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(wide * side * side, dense),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(dense, dense),
        nn.ReLU(),
        nn.Linear(dense, classes),
    )


def _colour(channels: int, classes: int, width: int, padding: int) -> nn.Sequential:
    wide = 2 * width
    return nn.Sequential(
        *_convolution(channels, width, padding),
        *_convolution(width, width, padding),
        *_convolution(width, width, padding),
        nn.MaxPool2d(2),
        *_convolution(width, wide, padding),
        *_convolution(wide, wide, padding),
        *_convolution(wide, wide, padding),
        nn.MaxPool2d(2),
        *_convolution(wide, wide, padding),
        nn.Conv2d(wide, wide, 1),
        nn.ReLU(),
        nn.Conv2d(wide, classes, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(classes, classes),
    )


def _convolution(before: int, after: int, padding: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(before, after, 3, padding=padding), nn.ReLU()
