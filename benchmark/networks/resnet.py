"""ResNet-18: He et al. 2016, https://arxiv.org/abs/1512.03385, with the stem used for small images."""

from torch import Tensor, nn
from torch.nn import functional

from robustness_bench.benchmark.networks.layers import initialize


def _conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv3(outputs, outputs), nn.BatchNorm2d(outputs)
        # Slicing replaces the shortcut's stride: the gradient of a strided 1×1 convolution with fewer than
        # 7 channels in channels-last format writes out of bounds in oneDNN (torch 2.14.1, AVX2, one thread).
        self.stride = stride
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        kept = x[:, :, :: self.stride, :: self.stride]
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(kept), inplace=True)


class ResNet18(nn.Module):
    """(N, C, H, W) -> logits (N, classes); any image from 8×8 up.

    Args:
        width: channels of the first stage; 64 is the published network.
        size: height and width of the images; the mean over what is left of them takes any.
        stride: of the first convolution.
        pool: whether 3×3 max pooling of stride 2 follows it.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int = 64,
        size: int = 32,
        *,
        stride: int = 1,
        pool: bool = False,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3(channels, width, stride), nn.BatchNorm2d(width)
        self.pool = pool
        blocks: list[nn.Module] = []
        inputs = width
        for stage in range(4):
            outputs = width * 2**stage
            blocks += [BasicBlock(inputs, outputs, 2 if stage else 1), BasicBlock(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(inputs, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        if self.pool:
            x = functional.max_pool2d(x, 3, stride=2, padding=1)
        logits: Tensor = self.linear(self.blocks(x).mean((2, 3)))
        return logits
