"""Small smooth networks for the detectors' tests, and one detector of every kind."""

import torch
from torch import Tensor, nn

from robustness_bench.defenses.detectors.base import Detector
from robustness_bench.defenses.detectors.controls import ConditionalReconstruction, OutputEntropy, RandomScore
from robustness_bench.defenses.detectors.divergence import Divergence
from robustness_bench.defenses.detectors.mutual_information import MutualInformation
from robustness_bench.defenses.detectors.reconstruction import Reconstruction
from robustness_bench.defenses.detectors.view import Networks

Shape = tuple[int, int, int]


class Counting(nn.Module):
    """Counts the images that go through ``inner``, and the calls."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.images = 0
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        self.calls += 1
        logits: Tensor = self.inner(x)
        return logits


class Classifier(nn.Module):
    """tanh units, so that finite differences hold; batch norm, so that modes matter."""

    def __init__(self, shape: Shape, classes: int, gain: float) -> None:
        super().__init__()
        size = shape[0] * shape[1] * shape[2]
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(size, 12), nn.BatchNorm1d(12), nn.Tanh())
        self.last = nn.Linear(12, classes)
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.gain * self.last(self.hidden(x))
        return logits


class AutoEncoder(nn.Module):
    """Mixes the channels; leaves [0, 1] by itself, so that the clip matters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = 1.2 * x - 0.1 + 0.2 * self.mix(x).tanh()
        return made


class Generator(nn.Module):
    """A linear encoder, and a decoder that sees the class; counts the images of both."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        self.shape = shape
        size = shape[0] * shape[1] * shape[2]
        self.encoder = nn.Linear(size, 4)
        self.decoder = nn.Linear(4, size)
        self.prototypes = nn.Embedding(classes, size)
        self.encoded = 0
        self.decoded = 0

    def encode(self, x: Tensor) -> Tensor:
        self.encoded += len(x)
        code: Tensor = self.encoder(x.flatten(1))
        return code

    def decode(self, code: Tensor, classes: Tensor) -> Tensor:
        self.decoded += len(code)
        made: Tensor = (self.decoder(code) + self.prototypes(classes)).sigmoid()
        return made.reshape(-1, *self.shape)


def networks(shape: Shape = (1, 8, 8), classes: int = 3, gain: float = 3.0) -> Networks:
    """The same weights for the same arguments, without touching the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Networks(
            classifier=Counting(Classifier(shape, classes, gain)),
            parts={
                "autoencoder-1": Counting(AutoEncoder(shape[0])),
                "autoencoder-2": Counting(AutoEncoder(shape[0])),
                "generator": Generator(shape, classes),
            },
        )
    for network in (made.classifier, *made.parts.values()):
        network.eval()
    return made


def images(n: int, shape: Shape = (1, 8, 8), seed: int = 1) -> Tensor:
    """Random images in [0, 1]."""
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


DETECTORS: dict[str, Detector] = {
    "reconstruction-1": Reconstruction(autoencoder="autoencoder-1", p=2),
    "reconstruction-2": Reconstruction(autoencoder="autoencoder-2", p=1),
    "jsd": Divergence(autoencoder="autoencoder-1", temperature=10.0),
    "literal": MutualInformation(reading="literal", autoencoder="autoencoder-1", generator="generator"),
    "literal-delta": MutualInformation(
        reading="literal", autoencoder="autoencoder-2", generator="generator", delta=0.1
    ),
    "vi": MutualInformation(
        reading="vi", autoencoder="autoencoder-1", generator="generator", temperature=5.0
    ),
    "cross": MutualInformation(reading="cross", autoencoder="autoencoder-1", generator="generator"),
    "cross_jaccard": MutualInformation(
        reading="cross_jaccard", autoencoder="autoencoder-1", generator="generator", delta=0.1
    ),
    "generated": MutualInformation(
        reading="cross_jaccard", reconstruct="generator", generator="generator", delta=0.1
    ),
    "conditional": ConditionalReconstruction(generator="generator"),
    "entropy": OutputEntropy(),
    "random": RandomScore(),
}
"""Every kind, every reading and every option."""
