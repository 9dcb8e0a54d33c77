"""VGG-19 with batch norm: Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556, table 1, E."""

from torch import Tensor, nn

from robustness_bench.benchmark.networks.layers import initialize

_STAGES = ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4))  # (multiple of the width, convolutions)


class VGG19(nn.Module):
    """(N, C, H, W) -> logits (N, classes); any image from 8×8 up.

    Args:
        width: channels of the first stage; 64 is the published network.
        size: height and width of the images; stages whose input is 1×1 do not pool.

    Differs from the paper: global average pooling and one linear layer in place of three, as is
    usual for small images.
    """

    def __init__(self, channels: int, classes: int, width: int = 64, size: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for multiple, convolutions in _STAGES:
            outputs = width * multiple
            for _ in range(convolutions):
                layers += [
                    nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(inplace=True),
                ]
                inputs = outputs
            if size > 1:
                layers.append(nn.MaxPool2d(2))
                size //= 2
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(inputs, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.features(x).mean((2, 3)))
        return logits
