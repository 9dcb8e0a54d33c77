"""A submission that misbehaves as the first pixel says, and goes on to answer afterwards."""

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn


class UnspeakableError(Exception):
    """An error that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def raising(error: BaseException) -> Callable[[Tensor], Tensor]:
    def forward(z: Tensor) -> Tensor:
        raise error

    return forward


def hooked(hook: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def forward(z: Tensor) -> Tensor:
        z = z.clone()
        if z.requires_grad:
            z.register_hook(hook)
        return z

    return forward


def failing_hook(gradient: Tensor) -> Tensor:
    raise ValueError("no way back")


def printing(z: Tensor) -> Tensor:
    print("x" * 10**7)
    print("y" * 10**7, file=sys.stderr)
    return z


MOODS: dict[str, Callable[[Tensor], object]] = {
    "good": lambda z: z,
    "wide": lambda z: torch.cat([z, z], 1),
    "transposed": lambda z: z.T,
    "double": lambda z: z.double(),
    "integer": lambda z: z.long(),
    "tuple": lambda z: (z, z),
    "nothing": lambda z: None,
    "sparse": lambda z: z.to_sparse(),
    "huge": lambda z: z[:1, :1].expand(10**6, 10**6),
    "memory": lambda z: torch.ones(2**29),
    "raises": raising(RuntimeError("\x1b[31mred\x07\u202e " + "long " * 10**6)),
    "unspeakable": raising(UnspeakableError()),
    "exits": raising(SystemExit(0)),
    "interrupts": raising(KeyboardInterrupt()),
    "nan": lambda z: z * torch.nan,
    "infinite": lambda z: z.abs() / 0,
    "softmax": lambda z: z.softmax(1),
    "detached": lambda z: z.detach(),
    "unrelated": lambda z: torch.zeros_like(z).requires_grad_() + 1,
    "random": lambda z: z + torch.rand_like(z),
    "no-way-back": hooked(failing_hook),
    "nan-gradient": hooked(lambda gradient: gradient * torch.nan),
    "prints": printing,
    "strided": lambda z: z.T.contiguous().T,
    "mode": lambda z: 0 * z + float(torch.is_grad_enabled()),
}


class Moody(nn.Module):
    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> object:
        mood = list(MOODS)[int((x[0, 0, 0, 0] * 255).round())]
        return MOODS[mood](self.linear(x.flatten(1)))


def build(*, classes: int, channels: int, size: int) -> nn.Module:
    return Moody(channels * size * size, classes)
