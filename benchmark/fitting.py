"""The one training loop: epochs, optimizer steps, guards, progress, and resuming to the bit.

All randomness comes from (seed, epoch, sample), so the state between two epochs is just weights,
optimizer buffers and the epoch number; it is kept beside the checkpoint while training lasts.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmark.atomic import write_atomic
from benchmark.context import Advance
from benchmark.errors import BenchError

_KEEP_EVERY = 30.0  # seconds between two states kept for resuming
History = list[dict[str, float]]


class TrainingError(RuntimeError):
    """Training that cannot go on: the loss, a weight or a statistic is no longer a number."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How to fit: everything but the loss.

    Args:
        batches: (epoch) -> batches of sample indices, int64.
        learning_rate: (fraction of training done, in [0, 1)) -> learning rate.
        clip_norm: largest gradient norm; 0 = no limit.
        partial: where the state between epochs is kept.
    """

    epochs: int
    batches: Callable[[int], list[Tensor]]
    learning_rate: Callable[[float], float]
    clip_norm: float
    partial: Path
    advance: Advance

    def run(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        loss: Callable[[int, Tensor], dict[str, Tensor]],
    ) -> History:
        """Train ``module`` in place.

        Args:
            loss: (epoch, sample indices) -> named terms; their sum is minimised; none = no step.

        Returns:
            Per epoch: mean of each term, seconds, learning rate.

        Raises:
            TrainingError: loss or weights are no longer finite.
        """
        history = self._resume(module, optimizer)
        kept = time.monotonic()
        for epoch in range(len(history), self.epochs):
            started = time.monotonic()
            sums: dict[str, Tensor] = {}
            batches = self.batches(epoch)
            for step, indices in enumerate(batches):
                done = (epoch + step / len(batches)) / self.epochs
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate(done)
                terms = loss(epoch, indices)
                if terms:
                    self._step(module, optimizer, terms)
                for name, term in terms.items():
                    sums[name] = sums.get(name, torch.zeros_like(term)) + term.detach()
                self.advance(epoch + (step + 1) / len(batches), self.epochs, "epochs")
            entry = {name: total.item() / len(batches) for name, total in sums.items()}
            self._guard(module, entry, epoch)
            seconds = round(time.monotonic() - started, 3)
            history.append({**entry, "lr": self.learning_rate(done), "seconds": seconds})
            if time.monotonic() - kept > _KEEP_EVERY and epoch + 1 < self.epochs:
                self._keep(module, optimizer, history)
                kept = time.monotonic()
        return history

    def _step(self, module: nn.Module, optimizer: Optimizer, terms: dict[str, Tensor]) -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        if self.clip_norm > 0:
            nn.utils.clip_grad_norm_(module.parameters(), self.clip_norm)
        optimizer.step()

    def _guard(self, module: nn.Module, entry: dict[str, float], epoch: int) -> None:
        finite = all(math.isfinite(value) for value in entry.values())
        if not finite or not all(bool(torch.isfinite(t).all()) for t in module.state_dict().values()):
            raise TrainingError(
                f"training diverged in epoch {epoch + 1} (loss terms {entry}): lower the learning rate"
            )

    def _keep(self, module: nn.Module, optimizer: Optimizer, history: History) -> None:
        tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
        for index, buffers in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": t for name, t in buffers.items() if t is not None}
        content = save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            {"history": json.dumps(history)},
        )
        write_atomic(self.partial, content)

    def _resume(self, module: nn.Module, optimizer: Optimizer) -> History:
        """Load the kept state if there is one; otherwise start from the beginning."""
        if not self.partial.is_file():
            return []
        try:
            with safe_open(self.partial, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                history: History = json.loads(file.metadata()["history"])
        except (SafetensorError, OSError) as error:
            raise BenchError(
                f"{self.partial} is damaged ({error}); delete it and run the same command again"
            ) from error
        module.load_state_dict(dict(_under("module.", tensors)))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer.", tensors):
            index, _, buffer = name.partition(".")
            state.setdefault(int(index), {})[buffer] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return history


def _under(prefix: str, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((name.removeprefix(prefix), t) for name, t in tensors.items() if name.startswith(prefix))


def stepped(lr: float, milestones: tuple[float, ...]) -> Callable[[float], float]:
    """``lr``, a tenth of it after each milestone (fractions of training)."""
    return lambda done: lr * 0.1 ** sum(done >= milestone for milestone in milestones)


def one_cycle(lr: float) -> Callable[[float], float]:
    """Up to ``lr`` over the first 30 %, down to 0 at the end, both linear (Smith and Topin 2018)."""
    return lambda done: lr * min((done + 1e-3) / 0.3, (1 - done) / 0.7)


def shuffled(indices: Tensor, batch_size: int, seed: int) -> list[Tensor]:
    """Batches in the order of ``seed``; a last batch of one sample, which batch norm refuses, is dropped."""
    generator = torch.Generator().manual_seed(seed)
    order = indices[torch.randperm(len(indices), generator=generator)]
    return [batch for batch in order.split(batch_size) if len(batch) > 1]
