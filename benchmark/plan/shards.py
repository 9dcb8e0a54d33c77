"""Attacks on many images, split into shards that several workers can do at once."""

from collections.abc import Sequence
from dataclasses import replace

from robustness_bench.benchmark.plan.tasks import Task

AUTOMATIC = 1024
"""Images of a shard unless a user says otherwise."""


def in_shards(tasks: Sequence[Task], images: int, batch_size: int) -> list[Task]:
    """Return the tasks, each attack on more than so many images after its shards.

    A shard keeps its rows; the task itself then only joins them. Shards are whole batches, so each batch is
    the one it would be without shards, and the result is the same to the byte.

    Args:
        images: of a shard, rounded up to whole batches; 0 = automatic.
        batch_size: of the attacks.
    """
    size = -(-(images or AUTOMATIC) // batch_size) * batch_size
    found: list[Task] = []
    for task in tasks:
        shards = _shards(task, size)
        found += [*shards, replace(task, parents=task.parents | {each.id: each for each in shards})]
    return found


def _shards(task: Task, size: int) -> list[Task]:
    n = task.spec.get("n_examples", 0)
    # Cells of natural images, or of images that were crafted before, cost less than starting on them.
    made = "crafted" in task.parents or task.images
    attacks = not made and task.spec.get("kind_of_attack") != "natural"
    if not (task.how.sharded and attacks and n > size):
        return []
    bounds = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    return [
        replace(
            task,
            id=f"{task.id} {rows.start}-{rows.stop}",
            title=f"{task.title}, shard {number} of {len(bounds)}",
            shard=rows,
        )
        for number, rows in enumerate(bounds, start=1)
    ]
