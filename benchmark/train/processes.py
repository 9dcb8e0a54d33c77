"""One training over several processes of one machine, each with a GPU (NCCL) or on the CPU (gloo).

Every process runs the network on its share of a batch. The logits are gathered, so that each process
computes the same loss of the whole batch, whatever the loss compares. Up to rounding, the gradient is then
that of a single process: DistributedDataParallel adds the shares up, and batch norm takes its statistics
over all shares. A loss draws the same numbers from the global generators in all processes; a network
(dropout) draws different ones in each, so such a training depends on the number of processes.
"""

import multiprocessing
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from robustness_bench.benchmark.randomness import keyed


@dataclass(frozen=True)
class Ranks:
    """This process's rank among those that train one model."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process reports, evaluates and writes."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Return this process's rows of a batch of ``n``; all rows if there are fewer rows than processes."""
        if n < self.size:
            return slice(0, n)
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def gather(self, part: Tensor, n: int) -> Tensor:
        """Return the rows of all processes, (n, ...); the gradient flows back to this process's own rows."""
        if self.size == 1 or len(part) == n:
            return part
        gathered: Tensor = _Gather.apply(part, n, self)
        return gathered

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model as the loss sees it: whole batches in, whole batches out."""
        return model if self.size == 1 else _Shared(model, self)


class _Gather(torch.autograd.Function):
    """Gathers the rows of all processes, for a loss that every process computes from all of them.

    Every process then knows the gradient of its own rows without communication. It is multiplied by the
    number of processes, because DistributedDataParallel takes the mean over them.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor, n: int, ranks: Ranks) -> Tensor:
        ctx.rows, ctx.size = ranks.share(n), ranks.size
        longest = -(-n // ranks.size)
        padded = part.new_zeros(longest, *part.shape[1:])
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(ranks.size)]
        distributed.all_gather(parts, padded)
        bounds = [Ranks(rank, ranks.size).share(n) for rank in range(ranks.size)]
        return torch.cat([rows[: b.stop - b.start] for rows, b in zip(parts, bounds, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.rows] * ctx.size, None, None


# torch.distributed.nn.functional.all_reduce does the same, and is deprecated (torch 2.14).
class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is also summed."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _sum(gradients[0])


def _sum(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total


class _Shared(nn.Module):
    """A model spread over processes by rows of the batch."""

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        super().__init__()
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = _SyncedBatchNorm  # same weights, same folding; only training differs
        self.ranks = ranks
        self._seed, self._calls = 0, 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.11 does not have the successor
            self.network = DistributedDataParallel(model, broadcast_buffers=False)

    def forward(self, x: Tensor) -> Tensor:
        share = self.ranks.share(len(x))
        with keyed(x.device, *self._stream(share, len(x))):
            part = self.network(x[share])
        return self.ranks.gather(part, len(x))

    def _stream(self, share: slice, n: int) -> tuple[object, ...]:
        """Return the random stream of one forward pass in a seeded step, for this process's rows of ``n``."""
        seed = torch.initial_seed()
        self._calls = self._calls + 1 if seed == self._seed else 0
        self._seed = seed
        return "share", seed, self._calls, share.start, n


class _SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the shares of all processes; torch's own does not support the CPU."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if not self.training:
            return super().forward(input)
        x = input.float()
        rows = x.new_tensor([x.numel() / x.shape[1]])
        sums = _sum(torch.cat([x.sum((0, 2, 3)), rows]))
        mean = sums[:-1] / sums[-1]
        centred = x - mean[:, None, None]
        var = _sum(centred.square().sum((0, 2, 3))) / sums[-1]
        self._track(mean.detach(), var.detach(), float(sums[-1].detach()))
        scale = self.weight * (var + self.eps).rsqrt()
        normed: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normed.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, n: float) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * n / (n - 1), self.momentum)
        self.num_batches_tracked += 1


@contextmanager
def joined(size: int, device: str, follow: Callable[..., None], *arguments: Any) -> Iterator[Ranks]:
    """Start ``size`` - 1 further processes that run ``follow(ranks, *arguments)``; this one leads.

    Args:
        device: this process's device; followers derive theirs from their rank.
    """
    if size == 1:
        yield Ranks()
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        spawn = multiprocessing.get_context("spawn")
        followers = [
            spawn.Process(target=_follow, args=(Ranks(rank, size), device, meeting, follow, arguments))
            for rank in range(1, size)
        ]
        for process in followers:
            process.start()
        try:
            with _meeting(Ranks(0, size), device, meeting):
                yield Ranks(0, size)
        finally:
            for process in followers:
                process.join(timeout=5)
                process.kill()


def _follow(ranks: Ranks, device: str, meeting: str, follow: Callable[..., None], arguments: Any) -> None:
    end_with_parent()
    with _meeting(ranks, device, meeting):
        follow(ranks, *arguments)


@contextmanager
def _meeting(ranks: Ranks, device: str, meeting: str) -> Iterator[None]:
    backend = "nccl" if device.startswith("cuda") else "gloo"
    distributed.init_process_group(
        backend, init_method=f"file://{meeting}", rank=ranks.rank, world_size=ranks.size
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def end_with_parent() -> None:
    """Exit as soon as the process that started this one is gone, even if it was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
