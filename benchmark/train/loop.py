"""The one training loop: epochs, optimizer steps, guards, learning curve, and resuming to the bit.

All randomness comes from (seed, epoch, sample) or, where a network draws its own, from (seed, epoch, step).
So the state between two steps is only weights, optimizer buffers, averages and the position; it is saved
next to the checkpoint during training.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from robustness_bench.benchmark.context import Advance
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.files import AGAIN, reading, write_atomic
from robustness_bench.benchmark.randomness import keyed

_KEEP_EVERY = 30.0  # seconds between two states kept for resuming
History = list[dict[str, float]]
Tensors = dict[str, Tensor]


class TrainingError(RuntimeError):
    """Training that cannot go on: the loss, a gradient or a statistic is not finite."""


class Fitted(NamedTuple):
    """The result of a training."""

    state: Tensors
    """The weights and buffers that are kept."""
    epoch: int
    """The epoch of these weights, counted from 1."""
    history: History


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How to fit: everything but the loss.

    Args:
        stream: identifies the training, including its seed; with epoch and step it seeds the global
            generators, from which networks with dropout draw.
        batches: (epoch) -> batches of sample indices, int64.
        learning_rate: (fraction of training done, in [0, 1)) -> learning rate; a parameter group of the
            optimizer with an "lr_scale" takes that share of it.
        clip_norm: largest gradient norm; 0 = no limit.
        partial: file for the state during training.
        evaluate: module -> figures on held-out data, once per epoch.
        select: the figure whose best epoch is kept (a tie goes to the later one); empty: the last epoch.
        ema: decay per step of the exponential moving average of weights and buffers; the average is then
            evaluated and kept; 0 = none.
        keeps: whether this process writes ``partial``; only one process does.
        memory: what the loss itself remembers from step to step, as buffers; None: nothing.
    """

    epochs: int
    stream: tuple[object, ...]
    batches: Callable[[int], list[Tensor]]
    learning_rate: Callable[[float], float]
    clip_norm: float
    partial: Path
    advance: Advance
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None
    select: str = ""
    ema: float = 0.0
    keeps: bool = True
    memory: nn.Module | None = None

    def run(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        loss: Callable[[int, Tensor], dict[str, Tensor]],
    ) -> Fitted:
        """Train ``module`` in place.

        Args:
            loss: (epoch, sample indices) -> named terms; their sum is minimised; no terms, no step.

        Returns:
            The kept weights, and per epoch: mean of each term over the batches that had it, largest gradient
            norm, learning rate, figures of ``evaluate``, seconds and images per second of the steps.

        Raises:
            TrainingError: a loss term, a gradient or a buffer is not finite; no step was taken with it.
        """
        state = _State(module, optimizer, self._average(module), self.memory)
        if self.partial.is_file():
            state.load(self.partial)
        kept = time.monotonic()
        while state.epoch < self.epochs:
            started = time.monotonic()
            batches = self.batches(state.epoch)
            while state.step < len(batches):
                for group in optimizer.param_groups:
                    share = group.get("lr_scale", 1.0)
                    group["lr"] = share * self._lr(state.epoch, state.step, len(batches))
                with keyed(state.device, *self.stream, "step", state.epoch, state.step):
                    self._step(state, loss(state.epoch, batches[state.step]))
                state.step += 1
                self.advance(state.epoch + state.step / len(batches), self.epochs, "epochs")
                if self.keeps and time.monotonic() - kept > _KEEP_EVERY:
                    state.seconds += time.monotonic() - started
                    state.save(self.partial)
                    started = kept = time.monotonic()
            state.seconds += time.monotonic() - started
            self._end_epoch(state, batches)
        return state.fitted(self.select)

    def _average(self, module: nn.Module) -> AveragedModel | None:
        if not self.ema:
            return None
        return AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(self.ema), use_buffers=True)

    def _step(self, state: "_State", terms: Tensors) -> None:
        if not terms:
            return
        state.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        # Taken without a limit too: the norm tells whether a gradient is not finite.
        limit = self.clip_norm if self.clip_norm > 0 else float("inf")
        norm = nn.utils.clip_grad_norm_(state.module.parameters(), limit)
        values = torch.stack([*(term.detach() for term in terms.values()), norm]).double().cpu()
        if not torch.isfinite(values).all():
            raise TrainingError(_diverged(state, dict(zip([*terms, "gradient norm"], values, strict=True))))
        state.optimizer.step()
        if state.average is not None:
            state.average.update_parameters(state.module)
        for name, value in zip(terms, values, strict=False):
            state.sums[name] = state.sums.get(name, 0.0) + float(value)
            state.counts[name] = state.counts.get(name, 0) + 1
        state.largest = max(state.largest, float(values[-1]))

    def _lr(self, epoch: int, step: int, steps: int) -> float:
        return self.learning_rate((epoch + step / steps) / self.epochs)

    def _end_epoch(self, state: "_State", batches: list[Tensor]) -> None:
        if not all(bool(torch.isfinite(t).all()) for t in state.module.state_dict().values()):
            raise TrainingError(_diverged(state, {"a weight or buffer": torch.tensor(float("nan"))}))
        entry = {name: total / state.counts[name] for name, total in state.sums.items()}
        figures: dict[str, float] = {}
        if self.evaluate is not None:
            with keyed(state.device, *self.stream, "evaluate", state.epoch):
                figures = self.evaluate(state.result)
        images, seconds = sum(map(len, batches)), max(state.seconds, 1e-9)
        state.close_epoch(
            {
                **entry,
                "gradient_norm": state.largest,
                "lr": self._lr(state.epoch, len(batches) - 1, len(batches)),
                **figures,
                "seconds": round(seconds, 3),
                "images_per_second": round(images / seconds, 1),
            },
            self.select,
        )


def kept_history(partial: Path) -> History:
    """Return the finished epochs of a training that is going on, from its saved state; none without one."""
    try:
        with safe_open(partial, framework="numpy") as file:
            history: History = json.loads(file.metadata()["story"])["history"]
            return history
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return []  # not saved yet, or finished a moment ago


def _diverged(state: "_State", values: dict[str, Tensor]) -> str:
    shown = ", ".join(f"{name} {float(value):.4g}" for name, value in values.items())
    return (
        f"training diverged in epoch {state.epoch + 1}, step {state.step + 1} ({shown}): lower the learning "
        "rate or the gradient-norm limit (lr, clip_norm)"
    )


@dataclass
class _State:
    """Everything that training carries from one step to the next."""

    module: nn.Module
    optimizer: Optimizer
    average: AveragedModel | None
    memory: nn.Module | None
    history: History = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    largest: float = 0.0
    best: Tensors = field(default_factory=dict)
    best_epoch: int = 0

    @property
    def epoch(self) -> int:
        """The number of finished epochs."""
        return len(self.history)

    @property
    def device(self) -> torch.device:
        """The device it trains on."""
        return next(self.module.parameters()).device

    @property
    def result(self) -> nn.Module:
        """The module whose weights would be kept now."""
        return self.module if self.average is None else self.average.module

    def close_epoch(self, entry: dict[str, float], select: str) -> None:
        self.history.append(entry)
        self.step, self.seconds, self.sums, self.counts, self.largest = 0, 0.0, {}, {}, 0.0
        if select and (not self.best or entry[select] >= self.history[self.best_epoch - 1][select]):
            self.best = {name: tensor.detach().clone() for name, tensor in self.result.state_dict().items()}
            self.best_epoch = self.epoch

    def fitted(self, select: str) -> Fitted:
        if select:
            return Fitted(self.best, self.best_epoch, self.history)
        return Fitted(self.result.state_dict(), self.epoch, self.history)

    def _modules(self) -> dict[str, nn.Module]:
        """Return what has tensors, by their prefix in the file."""
        parts = {"module": self.module, "average": self.average, "memory": self.memory}
        return {name: part for name, part in parts.items() if part is not None}

    def save(self, path: Path) -> None:
        tensors = _prefixed("best", self.best)
        for name, part in self._modules().items():
            tensors |= _prefixed(name, part.state_dict())
        for index, buffers in self.optimizer.state_dict()["state"].items():
            tensors |= _prefixed(f"optimizer.{index}", {k: t for k, t in buffers.items() if t is not None})
        story = {name: getattr(self, name) for name in _STORY}
        content = save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            {"story": json.dumps(story)},
        )
        write_atomic(path, content)

    def load(self, path: Path) -> None:
        with reading(path, AGAIN, SafetensorError), safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            story: dict[str, Any] = json.loads(file.metadata()["story"])
        if missing := [name for name in _STORY if name not in story]:
            raise BenchError(
                f"{path} is from an older version of bench (it lacks {', '.join(missing)}): delete it and "
                "run the same command again"
            )
        for name in _STORY:
            setattr(self, name, story[name])
        for name, part in self._modules().items():
            part.load_state_dict(_under(name, tensors))
        self.best = {name: tensor.to(self.device) for name, tensor in _under("best", tensors).items()}
        buffers: dict[int, Tensors] = {}
        for name, tensor in _under("optimizer", tensors).items():
            index, _, buffer = name.partition(".")
            buffers.setdefault(int(index), {})[buffer] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": buffers})


_STORY = ("history", "step", "seconds", "sums", "counts", "largest", "best_epoch")


def _prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {
        name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")
    }


def stepped(lr: float, milestones: tuple[float, ...], factor: float = 0.1) -> Callable[[float], float]:
    """Return a schedule: ``lr``, multiplied by ``factor`` after each milestone (fractions of training)."""
    return lambda done: lr * factor ** sum(done >= milestone for milestone in milestones)


def one_cycle(lr: float) -> Callable[[float], float]:
    """Return a schedule: linearly up to ``lr`` over the first 30 %, then down to 0 (Smith and Topin 2018)."""
    return lambda done: lr * min((done + 1e-3) / 0.3, (1 - done) / 0.7)


def shuffled(indices: Tensor, batch_size: int, seed: int) -> list[Tensor]:
    """Return batches shuffled by ``seed``; drops a last batch of one sample, which batch norm rejects."""
    generator = torch.Generator().manual_seed(seed)
    order = indices[torch.randperm(len(indices), generator=generator)]
    return [batch for batch in order.split(batch_size) if len(batch) > 1]
