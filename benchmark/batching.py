"""Process many images in batches, which become smaller where memory runs out."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from robustness_bench.benchmark.context import AUTO_BATCH, Context

Found = TypeVar("Found")


def automatic(device: torch.device | str) -> int:
    """Return the default number of images in a batch."""
    return AUTO_BATCH[torch.device(device).type]


def pieces(
    n: int, context: Context, work: Callable[[slice], Found], start: int = 0
) -> Iterator[tuple[slice, Found]]:
    """Run ``Batches.pieces`` with the context's batch size."""
    return Batches(context).pieces(n, work, start)


class Batches:
    """Applies functions to rows in batches of ``context.batch_size``.

    An automatic size is halved where memory runs out, and stays at that for later batches.
    """

    def __init__(self, context: Context) -> None:
        self._named = context.batch_size > 0
        self._size = context.batch_size or automatic(context.device)

    def pieces(self, n: int, work: Callable[[slice], Found], start: int = 0) -> Iterator[tuple[slice, Found]]:
        """Run ``work`` on rows ``start`` … n-1 in batches; yield each batch with its result.

        Raises:
            torch.OutOfMemoryError: at a requested batch size, or at 1.
        """
        while start < n:
            rows = slice(start, min(start + self._size, n))
            try:
                found = work(rows)
            except torch.OutOfMemoryError:
                if self._named or self._size == 1:
                    raise
                self._size //= 2
                torch.cuda.empty_cache()
                continue
            yield rows, found
            start = rows.stop

    def apply(self, network: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """Return ``network(inputs)``, for a network that treats each row of ``inputs`` separately."""
        (outputs,) = self.over(len(inputs), lambda rows: (network(inputs[rows]),))
        return outputs

    def over(self, n: int, work: Callable[[slice], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Return each of the tensors that ``work`` gives for rows 0 … n - 1, joined over batches."""
        parts = [found for _, found in self.pieces(n, work)]
        return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))
