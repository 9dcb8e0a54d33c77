"""Work on many images: a batch at a time, smaller where memory runs out."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from benchmark.context import Context

AUTO_BATCH = {"cpu": 128, "cuda": 1024}
Found = TypeVar("Found")


def automatic(device: torch.device | str) -> int:
    """Images through a network at once where nobody says."""
    return AUTO_BATCH[torch.device(device).type]


def pieces(
    n: int, context: Context, work: Callable[[slice], Found], start: int = 0
) -> Iterator[tuple[slice, Found]]:
    """``work`` on rows ``start`` … n-1, a batch at a time, each with what it gave.

    Of the context's batch size; an automatic one is halved where memory runs out.

    Raises:
        torch.OutOfMemoryError: at a batch size that was asked for, or at 1.
    """
    size = context.batch_size or automatic(context.device)
    while start < n:
        rows = slice(start, min(start + size, n))
        try:
            found = work(rows)
        except torch.OutOfMemoryError:
            if context.batch_size or size == 1:
                raise
            size //= 2
            torch.cuda.empty_cache()
            continue
        yield rows, found
        start = rows.stop


class Batches:
    """Applies functions to rows in batches of ``context.batch_size``."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def apply(self, network: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """``network(inputs)`` for a network that treats each row of ``inputs`` by itself."""
        (outputs,) = self.over(len(inputs), lambda rows: (network(inputs[rows]),))
        return outputs

    def over(self, n: int, work: Callable[[slice], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Each of the tensors that ``work`` gives for rows 0 … n - 1, joined; as `pieces`."""
        parts = [found for _, found in pieces(n, self._context, work)]
        return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))
