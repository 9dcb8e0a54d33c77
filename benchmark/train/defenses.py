"""Train models: a defense's network, and the MI estimators that some defenses need."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustness_bench.attacks.base import frozen
from robustness_bench.attacks.numerics.noise import key_of
from robustness_bench.benchmark.batching import Batches, pieces
from robustness_bench.benchmark.context import Advance, Context
from robustness_bench.benchmark.networks import build_model
from robustness_bench.benchmark.networks.fold import folded, refolded
from robustness_bench.benchmark.plan.protocol import Training
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.randomness import keyed
from robustness_bench.benchmark.store.cards import keep
from robustness_bench.benchmark.store.models import load_estimators, load_model, new_estimators
from robustness_bench.benchmark.train.awp import WeightPerturbation
from robustness_bench.benchmark.train.images import Batch, TrainingData
from robustness_bench.benchmark.train.loop import Fit, Fitted, TrainingError, one_cycle, shuffled, stepped
from robustness_bench.benchmark.train.prior import Prior, deviation
from robustness_bench.benchmark.train.processes import Ranks, joined
from robustness_bench.defenses import base as contract
from robustness_bench.defenses.base import Defense, InnerAttack, against, craft
from robustness_bench.defenses.registry import build_defense


def train(task: Task, context: Context, advance: Advance) -> None:
    """Train the model of a "train" task, over ``context.processes`` processes, and keep its checkpoint."""
    with joined(context.processes, context.device, _follow, task, context) as ranks:
        _train(task, context, advance, ranks)


def _follow(ranks: Ranks, task: Task, context: Context) -> None:
    """Run the training in its other processes."""
    torch.set_num_threads(context.threads)
    context.load_plugins()
    if context.device.startswith("cuda"):
        first = torch.device(context.device).index or 0
        context = dataclasses.replace(context, device=f"cuda:{first + ranks.rank}")
    _train(task, context, lambda *progress: None, ranks)


def _train(task: Task, context: Context, advance: Advance, ranks: Ranks) -> None:
    started, device = time.monotonic(), torch.device(context.device)
    spec, recipe = task.spec, task.spec["training"]
    data = TrainingData(task, device)
    defense = build_defense(spec["defense"])
    attack = inner_attack(spec) if defense.adversarial else None
    estimators = None
    if "estimators" in task.parents:
        estimators = load_estimators(task.parents["estimators"], context)
    model = seeded(task.seed, lambda: build_model(spec["model"], task.data.info, spec["width"]))
    model = model.to(device).to(memory_format=torch.channels_last).train()
    shared = ranks.wrap(model)
    natural = defense.natural_epochs(recipe["epochs"])
    prior = _prior(attack, recipe, data, device)

    def loss(epoch: int, indices: Tensor) -> dict[str, Tensor]:
        batch = data.regularised(indices, epoch)
        seen = contract.Batch(Float(shared), batch.x, batch.y, batch.x, estimators, batch.soft)
        before: Tensor | None = None  # x + η of the prior
        with autocast(recipe["precision"], device):
            if epoch < natural:
                logits = seen.logits
                return {"warm_up": functional.cross_entropy(logits, seen.targets, reduction="none").mean()}
            if attack is not None:
                share = ranks.share(len(indices))
                start = None if prior is None else prior.starts(indices, epoch - natural, batch.noise)
                own = None if start is None else start[share]
                x_adv, gradient = climbed(attack, defense, model, batch.part(share), own)
                seen = dataclasses.replace(seen, x_adv=ranks.gather(x_adv, len(indices)))
                if prior is not None and start is not None:
                    before = (batch.x + start).clamp(0, 1)
                    prior.remember(indices, batch.x, start, ranks.gather(gradient, len(indices)))

        def terms() -> dict[str, Tensor]:
            fresh = dataclasses.replace(seen)  # without the outputs of other weights
            with autocast(recipe["precision"], device):
                first_logits = None if before is None else fresh.model(before)
                found = defense.terms(fresh)
                if first_logits is not None:
                    found["prior"] = recipe["prior"] * deviation(fresh.adversarial_logits, first_logits)
            _check_soft(fresh, recipe, defense)
            return found

        return terms() if perturbation is None or epoch < first else perturbation(terms)

    held, judge = data.held_out(), _judge(attack, recipe)
    steps = recipe["lr_schedule"] == "steps"
    schedule = stepped(recipe["lr"], recipe["milestones"]) if steps else one_cycle(recipe["lr"])
    fit = dataclasses.replace(
        fit_of(task, context, advance, data, recipe, schedule),
        epochs=natural + recipe["epochs"],
        evaluate=None if held is None or not ranks.leads else lambda m: accuracies(m, held, judge, context),
        select=_selected(recipe, attack) if ranks.leads else "",
        ema=recipe["ema"],
        keeps=ranks.leads,
        memory=prior,
    )
    optimizer = torch.optim.SGD(
        model.parameters(), momentum=recipe["momentum"], weight_decay=recipe["weight_decay"]
    )
    first = natural + round(recipe.get("awp_from", 0.0) * recipe["epochs"])
    perturbation = WeightPerturbation(model, optimizer, recipe["awp"]) if recipe.get("awp") else None
    fitted = fit.run(model, optimizer, loss)
    if ranks.leads:
        finish(task, context, fit, fitted, started)


def _check_soft(batch: contract.Batch, recipe: dict[str, Any], defense: Defense) -> None:
    """Raise TrainingError if labels are soft and the defense has not looked at them."""
    if batch.soft is not None and "targets" not in vars(batch):
        asked = [name for name in ("label_smoothing", "cutmix") if recipe.get(name)]
        raise TrainingError(
            f"{' and '.join(asked)} would change nothing: {type(defense).__name__} reads the labels y, not "
            "batch.targets or batch.cross_entropy"
        )


def _prior(
    attack: InnerAttack | None, recipe: dict[str, Any], data: TrainingData, device: torch.device
) -> Prior | None:
    if attack is None or not recipe.get("prior"):
        return None
    whole = Training.model_validate(recipe)  # with what is at its default
    return Prior(data.shape, attack, momentum=whole.prior_momentum, reset=whole.prior_reset).to(device)


def climbed(
    attack: InnerAttack, defense: Defense, model: nn.Module, batch: Batch, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return a defense's inner adversarial images of a batch on ``model``, and the first gradient.

    Args:
        start: where the attack starts, minus the images; None: where it starts by itself.
    """
    victim = Float(refolded(model)).eval()
    loss = defense.inner_loss(victim, batch.x, batch.y)
    with frozen(victim):
        x_adv = attack.start_of(batch.x, batch.noise) if start is None else batch.x + start
        return attack.climb(victim, batch.x, x_adv, loss)


def accuracies(
    model: nn.Module, held: Batch, attack: InnerAttack | None, context: Context
) -> dict[str, float]:
    """Return accuracy in percent on held-out images, natural and under the inner attack on the log-odds."""
    victim = folded(model).requires_grad_(False)
    right = {"natural": 0.0, "pgd": 0.0} if attack is not None else {"natural": 0.0}

    def count(rows: slice) -> dict[str, float]:
        batch = held.part(rows)
        found = {"natural": _right(victim, batch.x, batch.y)}
        if attack is not None:
            x_adv = craft(attack, victim, batch.x, batch.noise, against(batch.y))
            found["pgd"] = _right(victim, x_adv, batch.y)
        return found

    for _, found in pieces(len(held), context, count):
        right = {name: right[name] + found[name] for name in right}
    return {f"held_out_{name}": 100.0 * count / len(held) for name, count in right.items()}


@torch.no_grad()
def _right(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(1) == y).sum())


def _selected(recipe: dict[str, Any], attack: InnerAttack | None) -> str:
    if recipe["selection"] == "last":
        return ""
    return "held_out_natural" if attack is None else "held_out_pgd"


def train_estimators(task: Task, context: Context, advance: Advance) -> None:
    """Train MI estimators on a frozen model, in one process, and keep their checkpoint."""
    started, device = time.monotonic(), torch.device(context.device)
    recipe = task.spec["estimators"]
    data = TrainingData(task, device)
    attack = dataclasses.replace(inner_attack(task.spec), steps=recipe["attack_steps"])
    if recipe.get("rel_step_size"):
        attack = dataclasses.replace(attack, rel_step_size=recipe["rel_step_size"])
    pretrained = load_model(task.parents["pretrained"], context)
    module = seeded(task.seed, lambda: new_estimators(task)).to(device).train()

    def seen(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return x̃, h(x) and h(x̃)."""
        x_adv = craft(attack, pretrained, batch.x, batch.noise, against(batch.y))
        with torch.no_grad():
            return x_adv, pretrained(batch.x), pretrained(x_adv)

    def loss(epoch: int, indices: Tensor) -> dict[str, Tensor]:
        batch = data.batch(indices, epoch)
        x_adv, h, h_adv = seen(batch)
        terms: dict[str, Tensor] = module.terms(batch.x, x_adv, batch.y, h, h_adv)
        return terms

    held = data.held_out()
    known = None if held is None else Known.of(held, seen, Batches(context))
    fit = dataclasses.replace(
        fit_of(task, context, advance, data, recipe, stepped(recipe["lr"], recipe["milestones"])),
        evaluate=None if known is None else known.figures,
        select="held_out_objective" if known is not None and recipe["selection"] == "best" else "",
    )
    optimizer = torch.optim.Adam(module.parameters())
    fitted = fit.run(module, optimizer, loss)
    finish(task, context, fit, fitted, started)


@dataclasses.dataclass(frozen=True)
class Known:
    """Held-out images, their adversarial images for the frozen model, and its outputs for both."""

    x: Tensor
    x_adv: Tensor
    y: Tensor
    h: Tensor
    h_adv: Tensor
    batches: Batches

    @classmethod
    def of(
        cls, held: Batch, seen: Callable[[Batch], tuple[Tensor, Tensor, Tensor]], batches: Batches
    ) -> "Known":
        """Apply ``seen`` (x̃, h(x), h(x̃)) to the held-out images batch by batch, and keep the results."""
        x_adv, h, h_adv = batches.over(len(held), lambda rows: seen(held.part(rows)))
        return cls(held.x, x_adv, held.y, h, h_adv, batches)

    @torch.no_grad()
    def figures(self, module: Any) -> dict[str, float]:
        """Return the mean of every estimate in nats, with all images as marginal, and the objective.

        "held_out_objective" is what the training maximises, computed on these images.
        """
        module.eval()
        estimates = module.measure(self.x, self.x_adv, self.h, self.h_adv, self.batches.apply)
        terms = module.loss(estimates, self.y, self.h, self.h_adv)
        module.train()
        figures = {name: float(values.mean()) for name, values in estimates.items()}
        figures["objective"] = -float(torch.stack(list(terms.values())).sum())
        return {f"held_out_{name}": value for name, value in figures.items()}


def inner_attack(spec: dict[str, Any]) -> InnerAttack:
    """Return the attack a task trains against."""
    recipe = spec["training"]
    return InnerAttack(
        norm=spec["norm"],
        eps=spec["eps"],
        steps=recipe["attack_steps"],
        rel_step_size=recipe["rel_step_size"],
        start=recipe["attack_start"],
    )


def _judge(attack: InnerAttack | None, recipe: dict[str, Any]) -> InnerAttack | None:
    """Return the attack on held-out images: the inner one, or of ``selection_steps`` of 2.5·ε / steps.

    After catastrophic overfitting (Wong et al. 2020, arXiv:2001.03994) a model withstands the one step it is
    trained against and nothing longer, so one step would choose the collapsed epoch. The step size is that
    of Madry et al. 2018, arXiv:1706.06083: 2.5·ε over the number of steps.
    """
    steps = recipe.get("selection_steps", 0)
    if attack is None or not steps:
        return attack
    return dataclasses.replace(attack, steps=steps, rel_step_size=2.5 / steps)


class Float(nn.Module):
    """A network with float32 logits, so that losses are float32, under any autocast."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits.float()


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context that networks run in, for "float32" or "bf16"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def fit_of(
    task: Task,
    context: Context,
    advance: Advance,
    data: TrainingData,
    recipe: dict[str, Any],
    learning_rate: Callable[[float], float],
    kind: str = "",
) -> Fit:
    """Return how a task's network is fitted. Its randomness comes from ``kind``, by default the task's."""
    stream = (kind or task.kind, task.seed)
    return Fit(
        epochs=recipe["epochs"],
        stream=stream,
        batches=lambda epoch: shuffled(data.indices, recipe["batch_size"], key_of(*stream, epoch)),
        learning_rate=learning_rate,
        clip_norm=recipe.get("clip_norm", 0.0),
        partial=(context.out / task.path).with_suffix(".partial"),
        advance=advance,
    )


def seeded(seed: int, build: Callable[[], nn.Module]) -> Any:
    """Run ``build()`` on the CPU, with the global generators seeded for it and restored afterwards."""
    with keyed(torch.device("cpu"), "weights", seed):
        return build()


def finish(task: Task, context: Context, fit: Fit, fitted: Fitted, started: float) -> None:
    """Keep the checkpoint of a training, and delete what it kept for resuming."""
    keep(task, context, started, fitted.state, history=fitted.history, epoch=fitted.epoch)
    fit.partial.unlink(missing_ok=True)
