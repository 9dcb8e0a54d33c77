"""Networks over many images: a batch at a time, smaller where memory runs out."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark.context import Context

AUTO_BATCH = {"cpu": 128, "cuda": 1024}


def automatic(device: torch.device | str) -> int:
    """Images through a network at once where nobody says."""
    return AUTO_BATCH[torch.device(device).type]


class Batches:
    """Applies functions to rows in batches of ``context.batch_size``.

    The automatic size is halved where memory runs out, and stays so for what follows.
    """

    def __init__(self, context: Context) -> None:
        self._named = context.batch_size > 0
        self.size = context.batch_size or automatic(context.device)

    def apply(self, network: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """``network(inputs)`` for a network that treats each row of ``inputs`` by itself."""
        (outputs,) = self.over(len(inputs), lambda rows: (network(inputs[rows]),))
        return outputs

    def over(self, n: int, work: Callable[[slice], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Each of the tensors that ``work`` gives for rows 0 … n - 1, joined.

        Raises:
            torch.OutOfMemoryError: at a batch size that was asked for, or at 1.
        """
        parts: list[tuple[Tensor, ...]] = []
        start = 0
        while start < n:
            try:
                parts.append(work(slice(start, start + self.size)))
            except torch.OutOfMemoryError:
                if self._named or self.size == 1:
                    raise
                self.size //= 2
                torch.cuda.empty_cache()
                continue
            start += self.size
        return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))
