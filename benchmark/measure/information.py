"""Mutual information between a model's outputs and natural or attacked images, per image."""

import time
from itertools import pairwise

import torch

from robustness_bench.benchmark.batching import Batches
from robustness_bench.benchmark.context import Advance, Context
from robustness_bench.benchmark.measure.attacks import image_name, test_sample
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.store.cards import circumstances, load_tensors
from robustness_bench.benchmark.store.information import write_mi_record
from robustness_bench.benchmark.store.models import load_estimators, load_model

_REFERENCE = 1000  # images estimated together; each is compared with the others, so this affects the value


def measure_mi(task: Task, context: Context, advance: Advance) -> None:
    """Measure the images of a "measure-mi" task and write its Parquet file."""
    started = time.monotonic()
    model = load_model(task.parents["model"], context)
    module = load_estimators(task.parents["estimators"], context)
    sample = test_sample(task, context)
    x_adv = load_tensors(context.out / task.parents["crafted"].path)[image_name(task.spec["rule"])]
    x_adv = x_adv.to(sample.x)
    batches = Batches(context)
    columns: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for rows in _blocks(len(sample.y)):
            x, moved = sample.x[rows], x_adv[rows]
            h, h_adv = batches.apply(model, x), batches.apply(model, moved)
            found = {
                "sample": sample.ids[rows],
                "label": sample.y[rows],
                "clean_prediction": h.argmax(1),
                "adversarial_prediction": h_adv.argmax(1),
                **module.measure(x, moved, h, h_adv, batches.apply),
            }
            for name, values in found.items():
                columns.setdefault(name, []).append(values)
            advance(rows.stop, len(sample.y), "images")
    write_mi_record(
        context.out / task.path,
        task,
        {name: torch.cat(parts).cpu().numpy() for name, parts in columns.items()},
        **circumstances(task, context, started),
    )


def _blocks(n: int) -> list[slice]:
    """Split rows 0 … n-1 into equal blocks of about ``_REFERENCE``."""
    count = max(1, round(n / _REFERENCE))
    bounds = [n * index // count for index in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
