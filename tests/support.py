"""Models whose answers are known, and attacks that misbehave."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import BudgetAttack
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.noise import Noise


class Linear(nn.Module):
    """Logits W·x + b: the nearest point where the class changes has a closed form."""

    def __init__(self, shape: tuple[int, int, int] = (1, 6, 6), classes: int = 5, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = shape[0] * shape[1] * shape[2]
        self.weight = nn.Parameter(torch.randn(classes, size, generator=generator))
        self.bias = nn.Parameter(0.1 * torch.randn(classes, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = x.flatten(1) @ self.weight.T + self.bias
        return logits

    def boundary(self, x: Tensor, norm: str) -> Tensor:
        """Distance to the nearest other class, as long as the box does not bind: (N,).

        min over k of (z_y - z_k) / ‖w_y - w_k‖_dual, the dual of L∞ being L1.
        """
        logits = self(x)
        y = logits.argmax(1)
        margins = logits.gather(1, y[:, None]) - logits
        lengths = torch.linalg.vector_norm(
            self.weight[y][:, None] - self.weight[None], ord=1 if norm == "linf" else 2, dim=2
        )
        ratios = margins / lengths
        ratios[torch.arange(len(y)), y] = torch.inf
        nearest: Tensor = ratios.min(1).values.detach()
        return nearest


class Small(nn.Module):
    """A small nonlinear classifier with batch norm and dropout, so that modes matter."""

    def __init__(self, channels: int = 1, classes: int = 5) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(8 * 64, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def small_model(channels: int = 1, classes: int = 5, seed: int = 0) -> Small:
    """The same weights for the same seed, without touching the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Small(channels, classes)


def images(n: int, channels: int = 1, size: int = 8, seed: int = 1) -> Tensor:
    """Random images in [0, 1]."""
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


class Constant(nn.Module):
    """Always the same class: nothing can fool it."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.zeros(len(x), self.classes) + 0.0 * x.flatten(1).sum(1, keepdim=True)
        logits[:, 0] = logits[:, 0] + 10.0
        return logits


class NaNWhereBright(torch.autograd.Function):
    """The identity, with a gradient of NaN for images of a mean brightness above one half."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.bright = x.flatten(1).mean(1) > 0.5
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        factor = torch.where(ctx.bright, torch.nan, 1.0)
        return gradients[0] * geometry.per_sample(factor, gradients[0])


@dataclass(frozen=True, kw_only=True)
class Raises(BudgetAttack):
    """An attack that breaks."""

    def passes(self, classes: int) -> tuple[int, int]:
        return 1, 1

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        raise RuntimeError("planted failure")


@dataclass(frozen=True, kw_only=True)
class Kills(Raises):
    """An attack under which the process dies, as it does when memory runs out."""

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@dataclass(frozen=True, kw_only=True)
class KillsOnce(Raises):
    """An attack under which the process dies if there is a file, which goes with it."""

    file: str

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        if (file := Path(self.file)).exists():
            file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return x


@dataclass(frozen=True, kw_only=True)
class Cheats(BudgetAttack):
    """An attack that leaves its budget."""

    def passes(self, classes: int) -> tuple[int, int]:
        return 1, 1

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        return (x + 2 * self.eps).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Scribbles(BudgetAttack):
    """An attack that writes into the logits it is given, as libraries do, and finds nothing."""

    def passes(self, classes: int) -> tuple[int, int]:
        return 1, 0

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        with torch.no_grad():
            model(x).fill_(-1.0)
        return x
