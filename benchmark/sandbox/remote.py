"""A submitted ``model.py`` as an ordinary module that runs in a confined process."""

import weakref
from collections import deque
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustness_bench.benchmark.sandbox.confinement import Limits, require
from robustness_bench.benchmark.sandbox.process import ModelProcess, Settings
from robustness_bench.benchmark.sandbox.untrusted import raw

_BYTES = 4  # of a float32


class RemoteModel(nn.Module):
    """(N, C, H, W) float32 in [0, 1] -> logits (N, classes), with gradients with respect to the images.

    It has no weights on this side; in its process it is in evaluation mode with frozen weights. Images arrive
    there contiguous, whatever their layout here. Logits and gradients may be NaN or infinite: check them
    before use. Second derivatives are not available. Errors are ``ModelError``.
    """

    def __init__(self, process: ModelProcess, *, classes: int, channels: int, size: int) -> None:
        super().__init__()
        self.classes, self.image = classes, (channels, size, size)
        self.gradient_missing = False
        """Whether an output ever had no graph to the images; its gradient then counted as zero."""
        self._process = process
        self._tokens = count()
        self._forgotten: deque[int] = deque()
        self._close = weakref.finalize(self, process.close)

    @classmethod
    def start(
        cls,
        model_file: Path,
        weights: Path | None,
        *,
        classes: int,
        channels: int,
        size: int,
        limits: Limits,
        device: str = "cpu",
    ) -> "RemoteModel":
        """Start a process with copies of the two files; it can read neither the originals nor their folder.

        The process ends with the thread that starts it, with ``close``, and with this process. Its torch
        has as many threads as ours, and seed 0 when ``build`` is called.

        Args:
            model_file: defines ``build(*, classes, channels, size)``, which returns an ``nn.Module``.
            weights: safetensors, loaded strictly; None keeps the weights that ``build`` made.

        Raises:
            ConfinementError: a protection is missing.
            ModelError: the submission did not start.
            BenchError: a file cannot be read.
        """
        require()
        packages = str(Path(torch.__file__).parents[1])
        settings = Settings(classes, channels, size, device, torch.get_num_threads(), packages=packages)
        process = ModelProcess(model_file, weights, limits, settings)
        return cls(process, classes=classes, channels=channels, size=size)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32 or x.dim() != 4 or tuple(x.shape[1:]) != self.image:
            wanted = ", ".join(map(str, self.image))
            raise ValueError(f"expected float32 images (N, {wanted}), got {x.dtype} {tuple(x.shape)}")
        if not len(x):
            return x.new_zeros(0, self.classes) + x.sum()
        logits: Tensor = _Remote.apply(x, self, torch.is_grad_enabled() and x.requires_grad)
        return logits

    def close(self) -> None:
        """End the process; a later forward pass is a ModelError."""
        self._close()

    def __enter__(self) -> "RemoteModel":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, kind: str, token: int, x: Tensor, answer: tuple[str, Sequence[int]], **more: Any) -> Any:
        """Send ``x``; return the answer's header and its tensor, None if it has none."""
        released = [self._forgotten.popleft() for _ in range(len(self._forgotten))]
        header = {"kind": kind, "token": token, "release": released, **more}
        kind, shape = answer
        header, content = self._process.ask(header, raw(x), (kind, _BYTES * torch.Size(shape).numel()))
        if not content:
            return header, None
        return header, torch.frombuffer(content, dtype=torch.float32).reshape(shape).to(x.device)


class _Graph:
    """The other side's graph of one forward pass; released once its gradient can no longer be requested."""

    def __init__(self, token: int, forgotten: deque[int]) -> None:
        self.token = token
        weakref.finalize(self, forgotten.append, token).atexit = False


class _Remote(torch.autograd.Function):
    """Forward and backward pass on the other side."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, model: RemoteModel, gradient: bool) -> Tensor:
        token = next(model._tokens)
        answer = ("logits", (len(x), model.classes))
        header, logits = model._ask("forward", token, x, answer, gradient=gradient)
        ctx.model, ctx.shape = model, x.shape
        ctx.graph = _Graph(token, model._forgotten) if header.get("graph") is True else None
        return torch.as_tensor(logits)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, seed: Tensor) -> tuple[Tensor, None, None]:
        model, gradient = ctx.model, None
        if ctx.graph is not None:
            _, gradient = model._ask("backward", ctx.graph.token, seed, ("gradient", ctx.shape))
        if gradient is None:
            model.gradient_missing = True
            gradient = seed.new_zeros(ctx.shape)
        return gradient, None, None
