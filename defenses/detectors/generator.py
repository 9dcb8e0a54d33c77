"""A class-conditional α-GAN, after Rosca et al. 2017, https://arxiv.org/abs/1706.04987.

An encoder E, a generator G of (code, class), a discriminator D of (image, class) and one Q of (code, class).
Hsu et al. 2018, https://arxiv.org/abs/1809.08986, compute H(A|B) from the images G(E(x), j).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from robustness_bench.defenses.detectors.base import Images, Part

_SLOPE = 0.2  # of leaky ReLU, as in public implementations
_AT_ONCE = 500


class GeneratorNetwork(nn.Module):
    """E and G; D and Q only while it is trained."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        latent: int,
        units: tuple[int, ...],
        critic_units: int,
        dropout: float,
    ) -> None:
        super().__init__()
        pixels = shape[0] * shape[1] * shape[2]
        self.shape, self.classes, self.latent = shape, classes, latent
        self.encoder = _layers([pixels, *units, latent], norm=True)
        self.generator = _layers([latent + classes, *units[::-1], pixels], norm=True)
        self.image_critic = _layers([pixels + classes, *units, 1], dropout=dropout)
        self.code_critic = _layers([latent + classes, critic_units, critic_units, 1])

    def encode(self, x: Tensor) -> Tensor:
        """E: (N, C, H, W) -> codes (N, Z)."""
        codes: Tensor = self.encoder(x.flatten(1))
        return codes

    def decode(self, codes: Tensor, classes: Tensor) -> Tensor:
        """G: codes (N, Z) and int64 classes (N,) -> images (N, C, H, W) in [0, 1]."""
        images: Tensor = self.generator(torch.cat([codes, self.one_hot(classes)], 1)).sigmoid()
        return images.reshape(-1, *self.shape)

    def one_hot(self, classes: Tensor) -> Tensor:
        """(N,) -> (N, K), float32."""
        return functional.one_hot(classes, self.classes).float()


def _layers(widths: list[int], *, norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths), 2):
        layers.append(nn.Linear(before, after))
        if number < len(widths):
            layers += [nn.BatchNorm1d(after)] if norm else []
            layers.append(nn.LeakyReLU(_SLOPE))
            layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers)


@dataclass(frozen=True, kw_only=True)
class ConditionalGenerator(Part):
    """E and G try to fool D and Q while G(E(x), y) stays near x; D and Q learn to recognise real inputs.

    Args:
        latent: length of a code.
        units: hidden layers of E and D; of G in reverse.
        critic_units: of Q's two hidden layers.
        dropout: in D.
        lam: λ, weight of the mean absolute error of G(E(x), y).
        smoothing: D's target for a real image, in place of 1.
        critic_lr: learning rate of D and Q as a share of the others'.

    Differs from the paper: the adversarial terms are the non-saturating ones, without the log-ratio's second
    half, as in public implementations. D and Q see the class, and D and G also train on images G(E(x), y'')
    of a class y'' drawn uniformly (x's own in 1 of K cases); without these two changes G learns to ignore
    the class. All networks take their steps together.
    """

    betas: ClassVar[tuple[float, float]] = (0.5, 0.9)

    latent: int
    units: tuple[int, ...]
    critic_units: int
    dropout: float
    lam: float
    smoothing: float
    critic_lr: float

    def build(self, channels: int, size: int, classes: int) -> GeneratorNetwork:
        shape = (channels, size, size)
        return GeneratorNetwork(shape, classes, self.latent, self.units, self.critic_units, self.dropout)

    def groups(self, network: nn.Module) -> list[dict[str, Any]]:
        assert isinstance(network, GeneratorNetwork)
        makers = [*network.encoder.parameters(), *network.generator.parameters()]
        critics = [*network.image_critic.parameters(), *network.code_critic.parameters()]
        return [{"params": makers}, {"params": critics, "lr_scale": self.critic_lr}]

    def terms(self, network: nn.Module, images: Images) -> dict[str, Tensor]:
        assert isinstance(network, GeneratorNetwork)
        x, y, noise = images.x, images.y, images.fresh
        other = _classes(noise.uniform((2,), draw=1), network.classes)
        prior = noise.normal((network.latent,), draw=2)
        code = network.encode(x)
        rebuilt = network.decode(code, y)
        fakes = [(rebuilt, y), (network.decode(prior, other[0]), other[0])]
        fakes.append((network.decode(code, other[1]), other[1]))
        adversarial = [
            _call(network.image_critic, network, image, label, frozen=True) for image, label in fakes
        ]
        told = [_call(network.image_critic, network, image.detach(), label) for image, label in fakes]
        real = _call(network.image_critic, network, x, y)
        hidden = _call(network.code_critic, network, code, y, frozen=True)
        coded = _call(network.code_critic, network, code.detach(), y)
        drawn = _call(network.code_critic, network, prior, other[0])
        smooth = functional.binary_cross_entropy_with_logits(real, torch.full_like(real, self.smoothing))
        return {
            "rebuilding": self.lam * functional.l1_loss(rebuilt, x),
            "image": _sum(functional.softplus(-each).mean() for each in adversarial),
            "code": functional.softplus(-hidden).mean(),
            "image_critic": smooth + _sum(functional.softplus(each).mean() for each in told),
            "code_critic": functional.softplus(-drawn).mean() + functional.softplus(coded).mean(),
        }

    @torch.no_grad()
    def figures(self, network: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
        """Return the mean absolute error of G(E(x), y)."""
        assert isinstance(network, GeneratorNetwork)
        network.eval()
        parts = zip(x.split(_AT_ONCE), y.split(_AT_ONCE), strict=True)
        total = sum(float((network.decode(network.encode(a), b) - a).abs().sum()) for a, b in parts)
        network.train()
        return {"held_out_error": total / x.numel()}


def _classes(uniform: Tensor, classes: int) -> list[Tensor]:
    """Turn (N, 2) uniform numbers on (0, 1) into two draws of a class, (N,) int64 each."""
    drawn = (uniform * classes).long().clamp_max(classes - 1)
    return [drawn[:, 0], drawn[:, 1]]


def _call(
    critic: nn.Module, network: GeneratorNetwork, seen: Tensor, classes: Tensor, *, frozen: bool = False
) -> Tensor:
    """Return a critic's logits (N, 1); with ``frozen`` its weights get no gradient."""
    seen = torch.cat([seen.flatten(1), network.one_hot(classes)], 1)
    if not frozen:
        logits: Tensor = critic(seen)
        return logits
    weights = {name: weight.detach() for name, weight in critic.named_parameters()}
    held: Tensor = functional_call(critic, weights, (seen,))
    return held


def _sum(terms: Any) -> Tensor:
    return torch.stack(list(terms)).sum()
