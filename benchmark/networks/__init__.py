"""Architectures: images in [0, 1] -> logits; normalisation is the first layer."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn

    from robustness_bench.benchmark.data.base import DatasetInfo

MODELS = {
    "resnet-18": "He et al. 2016, CIFAR stem: 3×3, stride 1, no pooling",
    "vgg-19": "Simonyan and Zisserman 2015, batch norm, one linear layer: the black-box surrogate",
    "magnet-cnn": "Meng and Chen 2017: what MagNet guards, width 32 (colour: 96) as published",
}


class Stem(NamedTuple):
    """The first layers of a ResNet, which its weights do not determine."""

    stride: int
    pool: bool
    """Whether 3×3 max pooling of stride 2 follows the first convolution."""
    text: str


STEMS = {
    "": Stem(1, False, "stem of stride 1 without pooling"),
    "pool": Stem(1, True, "stem of stride 1 with maximum pooling"),
    "stride-2": Stem(2, False, "stem of stride 2 without pooling"),
    "stride-2-pool": Stem(2, True, "stem of stride 2 with maximum pooling"),
}


def build_model(name: str, info: "DatasetInfo", width: int, *, stem: str = "") -> "nn.Module":
    """Return a freshly initialised ``name`` for images of ``info``; draws from torch's global generator.

    Args:
        stem: one of ``STEMS``; others than the first are only for given weights of a ResNet.
    """
    from torch import nn

    from robustness_bench.benchmark.networks.layers import Normalize
    from robustness_bench.benchmark.networks.magnet import MagNetCNN
    from robustness_bench.benchmark.networks.resnet import ResNet18
    from robustness_bench.benchmark.networks.vgg import VGG19

    if name == "resnet-18":
        network: nn.Module = ResNet18(
            info.channels, info.classes, width, stride=STEMS[stem].stride, pool=STEMS[stem].pool
        )
    elif name == "vgg-19":
        network = VGG19(info.channels, info.classes, width, info.size)
    elif name == "magnet-cnn":
        network = MagNetCNN(info.channels, info.classes, width, info.size)
    else:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    return nn.Sequential(Normalize(info.mean, info.std), network)
