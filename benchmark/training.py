"""Making models: a defense's network, and the MI estimators some defenses need."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks.noise import Noise, key_of
from benchmark.augmentation import crop_flip
from benchmark.checkpoints import load_tensors, save_tensors
from benchmark.context import Advance, Context, environment
from benchmark.datasets.base import subset
from benchmark.fitting import Fit, one_cycle, shuffled, stepped
from benchmark.models import build_model
from benchmark.models.fold import folded
from benchmark.plan import Task
from defenses.base import Batch, InnerAttack, craft
from defenses.mutual_information.estimator import MIEstimators
from defenses.registry import build_defense


def train(task: Task, context: Context, advance: Advance) -> None:
    """Train the model of a "train" task and keep its checkpoint."""
    started, device = time.monotonic(), torch.device(context.device)
    spec, recipe = task.spec, task.spec["training"]
    data = _TrainingData(task, device)
    defense = build_defense(spec["defense"])
    attack = inner_attack(spec) if defense.adversarial else None
    estimators = None
    if "estimators" in task.parents:
        estimators = load_estimators(task.parents["estimators"], context)
    model = _seeded(task.seed, lambda: build_model(spec["model"], task.data.info, spec["width"]))
    model = model.to(device).to(memory_format=torch.channels_last).train()

    def loss(epoch: int, indices: Tensor) -> dict[str, Tensor]:
        x, y, noise = data.batch(indices, epoch)
        x_adv = x
        if attack is not None:
            x_adv = craft(attack, folded(model), x, noise, defense.inner_loss(model, x, y))
        terms: dict[str, Tensor] = defense.terms(Batch(model, x, y, x_adv, estimators))
        return terms

    schedule = one_cycle(recipe["lr"])
    if recipe["schedule"] == "steps":
        schedule = stepped(recipe["lr"], recipe["milestones"])
    optimizer = torch.optim.SGD(
        model.parameters(), momentum=recipe["momentum"], weight_decay=recipe["weight_decay"]
    )
    fit = _fit(task, context, advance, recipe, schedule, data)
    history = fit.run(model, optimizer, loss)
    _finish(task, context, model, history, fit.partial, started)


def train_estimators(task: Task, context: Context, advance: Advance) -> None:
    """Train E_n and E_a on a frozen Standard-AT model and keep their checkpoint."""
    started, device = time.monotonic(), torch.device(context.device)
    recipe = task.spec["estimators"]
    data = _TrainingData(task, device)
    attack = inner_attack(task.spec)
    pretrained = load_model(task.parents["pretrained"], context)
    module: MIEstimators = _seeded(task.seed, lambda: _new_estimators(task)).to(device).train()

    def loss(epoch: int, indices: Tensor) -> dict[str, Tensor]:
        x, y, noise = data.batch(indices, epoch)
        cross_entropy = nn.CrossEntropyLoss(reduction="none")
        x_adv = craft(attack, pretrained, x, noise, lambda logits: cross_entropy(logits, y))
        with torch.no_grad():
            h, h_adv = pretrained(x), pretrained(x_adv)
        return module.terms(x, x_adv, y, h, h_adv, recipe["objective"])

    optimizer = torch.optim.Adam(module.parameters())
    schedule = stepped(recipe["lr"], recipe["milestones"])
    fit = _fit(task, context, advance, recipe, schedule, data)
    history = fit.run(module, optimizer, loss)
    _finish(task, context, module, history, fit.partial, started)


def inner_attack(spec: dict[str, Any]) -> InnerAttack:
    """The attack a task trains against."""
    recipe = spec["training"]
    return InnerAttack(
        norm=spec["norm"],
        eps=spec["eps"],
        steps=recipe["attack_steps"],
        rel_step_size=recipe["rel_step_size"],
    )


def load_model(task: Task, context: Context) -> nn.Module:
    """The trained model of a "train" task: frozen, evaluating, batch norm folded, on the device."""
    model = build_model(task.spec["model"], task.data.info, task.spec["width"])
    model.load_state_dict(load_tensors(context.out / task.path), strict=True)
    model = folded(model).requires_grad_(False)
    return model.to(context.device).to(memory_format=torch.channels_last)


def load_estimators(task: Task, context: Context) -> MIEstimators:
    """The trained estimators of an "estimators" task, frozen, in evaluation mode."""
    module = _new_estimators(task)
    module.load_state_dict(load_tensors(context.out / task.path), strict=True)
    return module.eval().requires_grad_(False).to(context.device)


def _new_estimators(task: Task) -> MIEstimators:
    info, recipe = task.data.info, task.spec["estimators"]
    return MIEstimators(info.channels, info.classes, recipe["units"], recipe["scores"])


class _TrainingData:
    """The training images on the device, as uint8."""

    def __init__(self, task: Task, device: torch.device) -> None:
        recipe, splits = task.spec["training"], task.data.load()
        kept = subset(len(splits.train_y), recipe["train_limit"])
        self.ids = torch.from_numpy(kept).to(device)
        self.x = torch.from_numpy(splits.train_x[kept]).to(device, memory_format=torch.channels_last)
        self.y = torch.from_numpy(splits.train_y[kept]).to(device)
        self._augment, self._seed = recipe["augment"] == "crop-flip", task.seed

    def __len__(self) -> int:
        return len(self.y)

    def batch(self, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor, Noise]:
        """Images in [0, 1], labels, and the noise of the inner attack."""
        indices = indices.to(self.x.device)
        x, ids = self.x[indices].float() / 255, self.ids[indices]
        if self._augment:
            x = crop_flip(x, Noise.for_samples(ids, self._seed, "augment", epoch))
        return x, self.y[indices], Noise.for_samples(ids, self._seed, "inner attack", epoch)


def _fit(
    task: Task,
    context: Context,
    advance: Advance,
    recipe: dict[str, Any],
    schedule: Callable[[float], float],
    data: _TrainingData,
) -> Fit:
    indices = torch.arange(len(data))
    return Fit(
        epochs=recipe["epochs"],
        batches=lambda epoch: shuffled(indices, recipe["batch_size"], key_of(task.kind, task.seed, epoch)),
        learning_rate=schedule,
        clip_norm=recipe["clip_norm"],
        partial=(context.out / task.path).with_suffix(".partial"),
        advance=advance,
    )


def _seeded(seed: int, build: Callable[[], nn.Module]) -> Any:
    """``build()`` with the global generator seeded for it and restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key_of("weights", seed))
        return build()


def _finish(
    task: Task, context: Context, module: nn.Module, history: Any, partial: Path, started: float
) -> None:
    card = {
        "id": task.id,
        "seed": task.seed,
        "spec": task.spec,
        "history": history,
        "environment": environment(context.device),
        "seconds": round(time.monotonic() - started, 3),
    }
    save_tensors(context.out / task.path, module.state_dict(), card)
    partial.unlink(missing_ok=True)
