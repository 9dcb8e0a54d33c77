"""Train the networks that detectors share, with the common training loop."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustness_bench.attacks.numerics.noise import key_of
from robustness_bench.benchmark.context import Advance, Context
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.store.tensors import keep, load_tensors
from robustness_bench.benchmark.train.defenses import seeded
from robustness_bench.benchmark.train.images import TrainingData
from robustness_bench.benchmark.train.loop import Fit, one_cycle, shuffled, stepped
from robustness_bench.defenses.detectors.parts import Part
from robustness_bench.defenses.detectors.registry import build_part


def _quarter(lr: float) -> Callable[[float], float]:
    """Return a schedule: ``lr``, and a quarter of it in the last third."""
    return stepped(lr, (2 / 3,), 0.25)


_SCHEDULES = {"one-cycle": one_cycle, "quarter": _quarter}


def fit_part(task: Task, context: Context, advance: Advance) -> None:
    """Train the network of a "part" task, and keep its checkpoint and its figures on held-out images."""
    started, device = time.monotonic(), torch.device(context.device)
    recipe, part = task.spec["recipe"], build_part(task.spec["network"])
    data = TrainingData(task, device)
    network = _new(task, part).to(device).train()
    held = data.held_out()

    def loss(epoch: int, indices: Tensor) -> dict[str, Tensor]:
        return part.terms(network, data.images(indices, epoch))

    def evaluate(module: nn.Module) -> dict[str, float]:
        return {} if held is None else part.figures(module, held.x, held.y)

    stream = (task.spec["network"]["part"], task.seed)
    fit = Fit(
        epochs=recipe["epochs"],
        stream=stream,
        batches=lambda epoch: shuffled(data.indices, recipe["batch_size"], key_of(*stream, epoch)),
        learning_rate=_SCHEDULES[recipe["schedule"]](recipe["lr"]),
        clip_norm=0.0,
        partial=(context.out / task.path).with_suffix(".partial"),
        advance=advance,
        evaluate=evaluate,
    )
    optimizer = torch.optim.Adam(part.groups(network), betas=part.betas)
    fitted = fit.run(network, optimizer, loss)
    keep(task, context, started, fitted.state, history=fitted.history, epoch=fitted.epoch)
    fit.partial.unlink(missing_ok=True)


def load_part(task: Task, context: Context) -> nn.Module:
    """Return the trained network of a "part" task: frozen, in evaluation mode, on the device."""
    network = _new(task, build_part(task.spec["network"]))
    network.load_state_dict(load_tensors(context.out / task.path), strict=True)
    return network.eval().requires_grad_(False).to(context.device)


def _new(task: Task, part: Part) -> nn.Module:
    info = task.data.info
    network: nn.Module = seeded(task.seed, lambda: part.build(info.channels, info.size, info.classes))
    return network
