"""Measure a trained model for signs of hidden gradients (``diagnostics``), once for all its cells."""

import json
import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from attacks.autoattack import AutoAttack
from attacks.base import Counted, frozen
from attacks.margins import margin
from attacks.pgd import PGD
from benchmark.atomic import write_atomic
from benchmark.context import Advance, Context
from benchmark.diagnostics import Measured, flags
from benchmark.evaluation import Sample, test_sample
from benchmark.loading import load_model, record_environment
from benchmark.plan import Task

_WHOLE_BOX = {"linf": 1.0, "l2": math.inf}


def diagnose(task: Task, context: Context, advance: Advance) -> None:
    """Measure the model and write what was seen, with the flags it raises, as JSON."""
    started = time.monotonic()
    model = load_model(task.parents["model"], context)
    sample = test_sample(task, context)
    measured = measure(model, sample, task.spec, advance)
    card = {
        "id": task.id,
        "seed": task.seed,
        "spec": task.spec,
        "measured": measured._asdict(),
        "flags": flags(measured),
        "environment": record_environment(task, context),
        "seconds": round(time.monotonic() - started, 3),
    }
    write_atomic(context.out / task.path, json.dumps(card, indent=1, sort_keys=True).encode())


def measure(model: nn.Module, sample: Sample, spec: dict[str, Any], advance: Advance) -> Measured:
    """What the probe of ``spec`` (norm, eps, probe) sees of a model on the first images of ``sample``."""
    probe, norm, eps = spec["probe"], spec["norm"], spec["eps"]
    ids, x, y = (tensor[: probe["images"]] for tensor in sample)
    pgd = PGD(
        norm=norm,
        eps=eps,
        steps=probe["steps"],
        rel_step_size=probe["rel_step_size"],
        restarts=probe["restarts"],
    )
    margins = PGD(norm=norm, eps=eps, loss="margin", steps=probe["steps"], restarts=probe["restarts"])
    square = AutoAttack(norm=norm, eps=eps, version="square", square_queries=probe["square_queries"])
    stages = 4 + len(probe["budgets"])
    done = 0

    def survivors(attack: PGD | AutoAttack) -> Tensor:
        nonlocal done
        outcome = attack(model, x, y, ids=ids)
        done += 1
        advance(done, stages, "probes")
        return outcome.prediction == y

    with frozen(model):
        signs = _signs(Counted(model), x, y, probe["passes"])
    by_pgd, by_margin, by_square = survivors(pgd), survivors(margins), survivors(square)
    limit = min(_WHOLE_BOX[norm], x[0].numel() ** 0.5)
    huge = survivors(PGD(norm=norm, eps=limit, loss="margin", steps=probe["steps"]))
    reached = []
    for factor in probe["budgets"]:
        budget = PGD(norm=norm, eps=factor * eps, loss="margin", steps=probe["steps"]).for_transfer()
        outcome = budget(model, x, y, ids=ids, goal="transfer")
        with torch.no_grad(), frozen(model):
            reached.append(float(margin(model(outcome.x_adv), y).mean()))
        done += 1
        advance(done, stages, "probes")
    gradient = by_pgd & by_margin
    return Measured(
        images=len(y),
        pgd=_share(by_pgd),
        gradient=_share(gradient),
        square=_share(by_square),
        all=_share(gradient & by_square),
        huge=_share(huge),
        margins=tuple(reached),
        **signs,
    )


def _signs(model: nn.Module, x: Tensor, y: Tensor, passes: int) -> dict[str, Any]:
    """What repeated passes and one gradient show."""
    x = x.clone().requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(margin(logits, y).sum(), x)
    logits = logits.detach()
    with torch.no_grad():
        changes = [(model(x) - logits).abs().max().item() for _ in range(passes - 1)]
    sums = (logits.sum(1) - 1.0).abs()
    probabilities = (logits.min(1).values >= 0) & (logits.max(1).values <= 1) & (sums < 1e-4)
    right = logits.argmax(1) == y
    flat = gradient.flatten(1)
    return {
        "classes": logits.shape[1],
        "natural": _share(right),
        "changed_logits": max(changes, default=0.0) / max(logits.abs().max().item(), 1e-12),
        "probability_rows": _share(probabilities),
        "zero_gradients": _share((flat == 0).all(1)[right]),
        "broken_gradients": _share(~torch.isfinite(flat).all(1)),
    }


def _share(mask: Tensor) -> float:
    """Share of true values; 0 of nothing."""
    return float(mask.float().mean()) if len(mask) else 0.0
