"""Check a trained model for signs of hidden gradients (``store.flags``), once for all its cells."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustness_bench.attacks.autoattack import AutoAttack
from robustness_bench.attacks.base import Attack, Counted, frozen
from robustness_bench.attacks.numerics.losses import margin
from robustness_bench.attacks.pgd import PGD
from robustness_bench.benchmark.context import Advance, Context
from robustness_bench.benchmark.files import write_sealed
from robustness_bench.benchmark.measure.attacks import Sample, test_sample
from robustness_bench.benchmark.measure.parts import Columns, in_batches
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.store.cards import card_for
from robustness_bench.benchmark.store.flags import SATURATED, Attacked, Measured, flags
from robustness_bench.benchmark.store.models import load_model

Piece = Callable[[slice, Advance], Columns]
"""(rows, advance) -> a value per row; it reports how many of its stages are done."""
Batches = Callable[[str, int, Piece], Columns]
"""(name, n, piece) -> the columns of rows 0 … n-1, made batch by batch."""


def diagnose(task: Task, context: Context, advance: Advance) -> None:
    """Measure the model, and write the measurements and the flags they raise as JSON."""
    started = time.monotonic()
    model = load_model(task.parents["model"], context)
    sample = test_sample(task, context)
    stem = context.out / task.path

    def batches(name: str, n: int, piece: Piece) -> Columns:
        def work(rows: slice) -> Columns:
            here = range(n)[rows]

            def staged(done: float, total: float, unit: str) -> None:
                advance(here.start + len(here) * done / total, n, f"images ({name})")

            return piece(rows, staged)

        def whole(done: float, total: float, unit: str) -> None:
            advance(done, total, f"images ({name})")

        return in_batches(n, context, whole, work, stem.with_suffix(f".{name}.partial")).columns

    measured = measure(model, sample, task.spec, batches)
    seen = measured._asdict() | {"attacked": measured.attacked and measured.attacked._asdict()}
    write_sealed(stem, card_for(task, context, started, measured=seen, flags=flags(measured)))
    for left in stem.parent.glob(f"{stem.stem}.*.partial"):
        left.unlink()


def measure(model: nn.Module, sample: Sample, spec: dict[str, Any], batches: Batches) -> Measured:
    """Run the probe of ``spec`` (norm, eps, probe) on the first images of ``sample``.

    The result does not depend on the batches, unless the model's outputs do.
    """
    probe = spec["probe"]
    with frozen(model):
        signs = _signs(model, sample.part(slice(probe["images"])), probe, batches)
    attacked = None
    if probe["attacks"]:
        attacked = _attacked(model, sample.part(slice(probe["attacks"]["images"])), spec, batches)
    return Measured(attacked=attacked, **signs)


def _signs(model: nn.Module, sample: Sample, probe: dict[str, Any], batches: Batches) -> dict[str, Any]:
    """Measure repeated passes, one gradient, and other batch compositions."""
    n = len(sample.y)

    def piece(rows: slice, advance: Advance) -> Columns:
        return _seen(model, sample.x[rows], sample.y[rows], probe["passes"])

    seen = batches("signs", n, piece)
    largest, right = max(float(seen["largest"].max(initial=0.0)), 1e-12), seen["right"]
    return {
        "images": n,
        "classes": int(seen["classes"].max(initial=1)),
        "natural": _share(right),
        "changed_logits": float(seen["change"].max(initial=0.0)) / largest,
        "changed_by_batch": _mixed(model, sample.x[: probe["mixed"]]),
        "probability_rows": _share(seen["probabilities"]),
        "saturated": _share(seen["saturated"][right]),
        "zero_gradients": _share(seen["zero"][right]),
        "broken_gradients": _share(seen["broken"]),
    }


def _seen(model: nn.Module, x: Tensor, y: Tensor, passes: int) -> Columns:
    """Return the measurements per image."""
    # A broken gradient is what this looks for, so it is not replaced by zero.
    model = Counted(model, mends=False)
    x = x.clone().requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(margin(logits, y).sum(), x)
    logits = logits.detach()
    with torch.no_grad():
        changes = [(model(x) - logits).abs().amax(1) for _ in range(passes - 1)]
    sums = (logits.sum(1) - 1.0).abs()
    flat, zero = gradient.flatten(1), torch.zeros_like(sums)
    found = {
        "classes": torch.full_like(y, logits.shape[1]),
        "right": logits.argmax(1) == y,
        "largest": logits.abs().amax(1),
        "change": torch.stack([zero, *changes]).amax(0),
        "probabilities": (logits.amin(1) >= 0) & (logits.amax(1) <= 1) & (sums < 1e-4),
        "saturated": _sureness(logits, y) > SATURATED,
        "zero": (flat == 0).all(1),
        "broken": ~torch.isfinite(flat).all(1),
        "forwards": torch.full_like(y, passes),
    }
    return {name: column.cpu().numpy() for name, column in found.items()}


def _sureness(logits: Tensor, y: Tensor) -> Tensor:
    """Compute log p_y / (1 - p_y) without the rounding of p_y: (N, K), (N,) -> (N,)."""
    z = logits.double()
    true: Tensor = z.gather(1, y[:, None])[:, 0]
    return true - z.scatter(1, y[:, None], -torch.inf).logsumexp(1)


def _mixed(model: nn.Module, x: Tensor) -> float:
    """Return the largest change of an image's logits with its batch, relative to the largest logit."""
    if len(x) < 2:
        return 0.0
    with torch.no_grad():
        together = model(x)
        parts = [torch.cat([model(part) for part in x.split(size)]) for size in (-(-len(x) // 2), 1)]
    change = max(float((part - together).abs().max()) for part in parts)
    return change / max(float(together.abs().max()), 1e-12)


def _attacked(model: nn.Module, sample: Sample, spec: dict[str, Any], batches: Batches) -> Attacked:
    """Run the probe's attacks and return the remaining accuracies."""
    budgets = spec["probe"]["attacks"]["budgets"]
    limit = 1.0 if spec["norm"] == "linf" else sample.x[0].numel() ** 0.5
    judged, climbed = _attacks(spec, limit), list(_climbs(spec))

    def piece(rows: slice, advance: Advance) -> Columns:
        ids, x, y = sample.part(rows)
        found: dict[str, Tensor] = {"forwards": torch.zeros_like(y)}  # `in_batches` counts rows by it
        stages = len(judged) + len(budgets)
        for name, attack in judged.items():
            found[name] = attack(model, x, y, ids=ids).prediction == y
            advance(len(found) - 1, stages, "")
        for factor, attack in zip(budgets, climbed, strict=True):
            x_adv = attack(model, x, y, ids=ids, goal="transfer").x_adv
            with torch.no_grad(), frozen(model):
                found[f"margin-{factor}"] = margin(model(x_adv), y)
            advance(len(found) - 1, stages, "")
        return {name: column.cpu().numpy() for name, column in found.items()}

    found = batches("attacks", len(sample.y), piece)
    gradient = found["pgd"] & found["margin"]
    return Attacked(
        images=len(sample.y),
        pgd=_share(found["pgd"]),
        gradient=_share(gradient),
        square=_share(found["square"]),
        all=_share(gradient & found["square"]),
        huge=_share(found["huge"]),
        margins=tuple(float(found[f"margin-{factor}"].astype(np.float64).mean()) for factor in budgets),
    )


def _attacks(spec: dict[str, Any], limit: float) -> dict[str, Attack]:
    """Return name -> attack, for those after which images are counted.

    Args:
        limit: the ε that only the pixel box limits.
    """
    norm, eps, probe = spec["norm"], spec["eps"], spec["probe"]["attacks"]
    steps, step, restarts = probe["steps"], probe["rel_step_size"], probe["restarts"]
    return {
        "pgd": PGD(norm=norm, eps=eps, steps=steps, rel_step_size=step, restarts=restarts),
        "margin": PGD(norm=norm, eps=eps, loss="margin", steps=steps, restarts=restarts),
        "square": AutoAttack(norm=norm, eps=eps, version="square", square_queries=probe["square_queries"]),
        "huge": PGD(norm=norm, eps=limit, loss="margin", steps=steps),
    }


def _climbs(spec: dict[str, Any]) -> Iterator[Attack]:
    """Yield an attack for each budget; it takes all its steps."""
    probe = spec["probe"]["attacks"]
    for factor in probe["budgets"]:
        attack = PGD(norm=spec["norm"], eps=factor * spec["eps"], loss="margin", steps=probe["steps"])
        yield attack.for_transfer()


def _share(mask: "np.ndarray[Any, Any]") -> float:
    """Return the share of true values, 0 for an empty mask."""
    return float(mask.mean()) if len(mask) else 0.0
