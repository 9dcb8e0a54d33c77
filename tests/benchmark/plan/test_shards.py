"""Attacks on many images in shards: whole batches, all images once, and no work counted twice."""

from pathlib import Path

import pytest

from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.plan.cost import passes
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.shards import in_shards
from robustness_bench.benchmark.plan.tasks import make_plan


def test_only_attacks_are_split_into_whole_batches_that_hold_each_image_once() -> None:
    overrides = {
        "defenses": ["undefended"],
        "datasets": ["digits"],
        "attacks": {"strict": {"linf": ["none", "pgd-40"], "l2": []}},
        "norms": ["linf"],
        "dataset": {"digits": {"n_examples": 50}},
    }
    tasks = make_plan(load_protocol(None, overrides), {"digits": locate("digits", Path("data"))})
    assert in_shards(tasks, 50, 8) == in_shards(tasks, 0, 8) == tasks
    split = in_shards(tasks, 20, 8)
    shards = [task for task in split if task.shard]
    bounds = [(task.shard.start, task.shard.stop) for task in shards if task.shard]
    assert bounds == [(0, 24), (24, 48), (48, 50)] * 2
    kinds = {(task.kind, task.spec["attack"], task.spec.get("threat", "")) for task in shards}
    assert kinds == {("craft", "pgd-40", ""), ("evaluate", "pgd-40", "white")}
    assert [task.id for task in split if not task.shard] == [task.id for task in tasks]
    for task in split:
        own = [parent for parent in task.parents.values() if parent.shard]
        assert [split.index(each) < split.index(task) for each in own] == [True] * len(own)
    total = sum(passes(task).total for task in split)
    assert total == pytest.approx(sum(passes(task).total for task in tasks))
