"""Architectures: images in [0, 1] -> logits; normalisation is the first layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from robustness_bench.attacks.class_names import load, recorded
from robustness_bench.attacks.plugins import Offer, Registry, check_keys, code_hash
from robustness_bench.benchmark.errors import check_known

if TYPE_CHECKING:
    from torch import nn

    from robustness_bench.benchmark.data.base import DatasetInfo


@dataclass(frozen=True, kw_only=True)
class NetworkPreset:
    """One named architecture.

    Attributes:
        summary: its source, and what is special of it here.
        network: the class by its recorded name (``attacks.class_names``), called with the keywords
            channels, classes, width and size (height and width); normalised images (N, C, H, W) -> logits
            (N, classes).
        code: hash of a plugin's file; our own have none.
    """

    name: str
    summary: str
    network: str
    code: str = ""

    def identity(self) -> dict[str, Any]:
        """What enters task ids beside its name: nothing for our own."""
        return {"architecture": {"network": self.network, "code": self.code}} if self.code else {}


def _accept(offer: Offer) -> NetworkPreset:
    check_keys(offer.value, {"network": str, "summary": str}, offer.where, {})
    network = offer.value["network"]
    return NetworkPreset(
        name=offer.name,
        summary=offer.value["summary"],
        network=recorded(network),
        code=code_hash(network, offer.where),
    )


OWN_MODELS = {
    name: NetworkPreset(name=name, network=f"benchmark.networks.{network}", summary=summary)
    for name, network, summary in (
        ("resnet-18", "resnet:ResNet18", "He et al. 2016, CIFAR stem: 3×3, stride 1, no pooling"),
        (
            "vgg-19",
            "vgg:VGG19",
            "Simonyan and Zisserman 2015, batch norm, one linear layer: the black-box surrogate",
        ),
        (
            "magnet-cnn",
            "magnet:MagNetCNN",
            "Meng and Chen 2017: what MagNet guards, width 32 (colour: 96) as published",
        ),
    )
}
MODELS: Mapping[str, NetworkPreset] = Registry("bench.models", "model", OWN_MODELS, _accept)
"""Name -> architecture: ours, then those of plugins."""


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

    check_known("model", [name], MODELS)
    shape = {"channels": info.channels, "classes": info.classes, "width": width, "size": info.size}
    first = {"stride": STEMS[stem].stride, "pool": STEMS[stem].pool} if stem else {}
    network: nn.Module = load(MODELS[name].network)(**shape, **first)
    return nn.Sequential(Normalize(info.mean, info.std), network)
