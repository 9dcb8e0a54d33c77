"""The confined side of a submitted attack: runs its ``perturb``; the model is on the other side.

Nothing here can be trusted once the submitted file is imported.
"""

import math
import random
import sys
import threading
import weakref
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from robustness_bench.benchmark.sandbox.untrusted import ATTACK, Refused, imported, kind, raw, refuse
from robustness_bench.benchmark.sandbox.wire import Channel, Frame

if TYPE_CHECKING:
    from torch import Tensor, nn


class Perturb(Protocol):
    """The function that a submitted file defines."""

    def __call__(
        self, model: "nn.Module", x: "Tensor", y: "Tensor", *, norm: str, eps: float, seed: int
    ) -> Any: ...


def serve(channel: Channel) -> NoReturn:
    """Import the attack, then run it on each batch of images received."""
    perturb = getattr(imported(ATTACK), "perturb", None)
    if not callable(perturb):
        raise Refused("perturb", "there is no function perturb(model, x, y, *, norm, eps, seed)")
    channel.send({"kind": "ready"})
    while True:
        found = _found(perturb, channel.receive(sys.maxsize), channel)
        channel.send({"kind": "found"}, raw(found))


def _found(perturb: Perturb, request: Frame, channel: Channel) -> "Tensor":
    import torch

    header, payload = request
    shape = tuple(header["shape"])
    size = 4 * math.prod(shape)
    x = torch.frombuffer(payload[:size], dtype=torch.float32).reshape(shape)
    y = torch.frombuffer(payload[size:], dtype=torch.int64)
    torch.manual_seed(header["seed"])
    random.seed(header["seed"])
    model = _model(_Asker(channel), shape[1:], header["most"])
    try:
        found = perturb(model, x, y, norm=header["norm"], eps=header["eps"], seed=header["seed"])
    except BaseException as error:
        refuse("perturb", error)
    _check(found, shape)
    return found  # type: ignore[no-any-return]


def _check(found: Any, shape: tuple[int, ...]) -> None:
    import torch

    if not isinstance(found, torch.Tensor):
        raise Refused("output", f"perturb() returned {kind(found)}, not a tensor")
    if found.shape != shape or found.layout != torch.strided:
        raise Refused("output", f"perturb() returned shape {tuple(found.shape)} for {shape}")
    if found.dtype != torch.float32:
        raise Refused("output", f"perturb() returned {found.dtype}, not torch.float32")


class _Asker:
    """Requests passes from the other side, one at a time."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._lock = channel, threading.Lock()
        self._tokens = count()
        self.forgotten: deque[int] = deque()
        """Forward passes whose graphs the other side can release."""

    def forward(self, x: "Tensor", gradient: bool) -> "tuple[Tensor, int]":
        token = next(self._tokens)
        return self._ask("forward", token, x, gradient=gradient).reshape(len(x), -1), token

    def backward(self, token: int, seed: "Tensor", shape: tuple[int, ...]) -> "Tensor":
        return self._ask("backward", token, seed).reshape(shape)

    def _ask(self, kind: str, token: int, tensor: "Tensor", **more: Any) -> "Tensor":
        import torch

        with self._lock:
            released = [self.forgotten.popleft() for _ in range(len(self.forgotten))]
            header = {"kind": kind, "token": token, "release": released, **more}
            self._channel.send(header, raw(tensor))
            return torch.frombuffer(self._channel.receive(sys.maxsize).payload, dtype=torch.float32)


class _Graph:
    """What a backward pass needs from its forward pass; the other side's graph is released with it."""

    def __init__(self, token: int, shape: tuple[int, ...], asker: _Asker) -> None:
        self.token, self.shape = token, shape
        weakref.finalize(self, asker.forgotten.append, token).atexit = False


def _model(asker: _Asker, image: tuple[int, ...], most: int) -> "nn.Module":
    """Return a model (N, C, H, W) float32 -> logits (N, classes), with gradients; its weights are remote."""
    import torch
    from torch import Tensor, nn

    class Remote(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, gradient: bool) -> Tensor:
            logits, token = asker.forward(x, gradient)
            ctx.graph = _Graph(token, tuple(x.shape), asker) if gradient else None
            return logits

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, seed: Tensor) -> tuple[Tensor, None]:
            return asker.backward(ctx.graph.token, seed, ctx.graph.shape), None

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.dtype != torch.float32 or x.dim() != 4 or tuple(x.shape[1:]) != image:
                wanted = ", ".join(map(str, image))
                raise ValueError(
                    f"the model takes float32 images (N, {wanted}), got {x.dtype} {tuple(x.shape)}"
                )
            if not 1 <= len(x) <= most:
                raise ValueError(f"the model takes 1 to {most} images at once, got {len(x)}")
            logits: Tensor = Remote.apply(x, torch.is_grad_enabled() and x.requires_grad)
            return logits

    return Model().eval()
