"""A diagnosis costs a share of what its model's own attacks cost."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from robustness_bench.attacks.registry import build_attack
from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.plan import probe as module
from robustness_bench.benchmark.plan.cost import passes
from robustness_bench.benchmark.plan.probe import BACKWARD, SHARE, SURVIVORS, attacks_passes
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Task, make_plan


def plan(**overrides: Any) -> list[Task]:
    tree = {"defenses": ["undefended"], "norms": ["linf"], "threats": ["white"], **overrides}
    return make_plan(load_protocol(None, tree), {"digits": locate("digits", Path("data"))})


def probe(*attacks: str, n: int = 0, **overrides: Any) -> dict[str, Any]:
    tasks = plan(attacks={"strict": {"linf": [*attacks]}}, n_examples=n, **overrides)
    (task,) = [task for task in tasks if task.kind == "diagnose"]
    found: dict[str, Any] = task.spec["probe"]
    return found


def test_natural_accuracy_alone_has_only_signs() -> None:
    """A few passes per image, and the estimate says so."""
    (task,) = [
        task for task in plan(attacks={"strict": {"linf": []}}, n_examples=50) if task.kind == "diagnose"
    ]
    assert task.spec["probe"]["attacks"] is None
    assert passes(task).total / 50 < 10
    assert "(signs only)" in task.title


@pytest.mark.parametrize("n", [10, 50, 200, 0])
@pytest.mark.parametrize("attack", ["pgd-40", "aa", "fwa-40", "ti-dim"])
def test_attacks_cost_at_most_the_share(attack: str, n: int) -> None:
    tasks = plan(attacks={"strict": {"linf": [attack]}}, n_examples=n)
    (cell,) = [task for task in tasks if task.kind == "evaluate" and task.spec["attack"] == attack]
    forwards, backwards = build_attack(cell.spec["parameters"]).passes(10)
    cost = cell.spec["n_examples"] * SURVIVORS * (forwards + BACKWARD * backwards)
    attacks = probe(attack, n=n)["attacks"]
    if attacks is None:
        assert attack != "aa"
        return
    assert 0 < attacks_passes(attacks).total <= SHARE * cost
    assert min(16, cell.spec["n_examples"]) <= attacks["images"] <= min(256, cell.spec["n_examples"])


def test_the_dearest_cell_decides_and_more_work_never_looks_for_less() -> None:
    def looked(found: dict[str, Any]) -> tuple[int, int]:
        return (found["attacks"]["steps"], found["attacks"]["images"]) if found["attacks"] else (0, 0)

    sizes = [looked(probe("pgd-40", n=n)) for n in (20, 100, 120, 200, 240, 330)]
    assert sizes == sorted(sizes)
    assert {steps for steps, _ in sizes} == {0, 10, 20}
    assert looked(probe("pgd-40", "aa", n=50)) == looked(probe("aa", n=50)) == (20, 50)
    assert looked(probe("pgd-40", "aa")) == (20, 256)


def test_images_made_on_a_surrogate_pay_for_nothing() -> None:
    assert probe("aa", n=50, threats=["black"])["attacks"] is None
    both = [probe("aa", n=50, threats=threats) for threats in (["white"], ["white", "black"])]
    assert both[0] == both[1]


def test_passes_are_asked_once_until_the_attacks_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An attack's class imports torch, for which a run with nothing to do should not wait."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    built: list[str] = []

    def build(parameters: dict[str, Any]) -> Any:
        built.append(parameters["attack"])
        return build_attack(parameters)

    def anew(*attacks: str) -> tuple[dict[str, Any], list[str]]:
        """Plan as another process does; the probe, and which attacks were built for it."""
        module._known.cache_clear()
        built.clear()
        return probe(*attacks, n=100), sorted(built)

    monkeypatch.setattr("robustness_bench.attacks.registry.build_attack", build)
    first = anew("pgd-40")
    assert first[1] == ["attacks.pgd:PGD"]
    assert anew("pgd-40") == (first[0], [])
    both = anew("pgd-40", "aa")
    assert both[1] == ["attacks.autoattack:AutoAttack"]
    assert both[0] != first[0]
    assert anew("pgd-40", "aa") == (both[0], [])
    (file,) = tmp_path.rglob("passes.json")
    file.write_text(file.read_text()[:40])
    assert anew("pgd-40", "aa") == (both[0], ["attacks.autoattack:AutoAttack", "attacks.pgd:PGD"])
    monkeypatch.setattr(module, "_source", lambda: "changed")
    assert anew("pgd-40") == first
    assert anew("pgd-40")[1] == []


def test_every_model_and_norm_has_a_diagnosis_unless_declined() -> None:
    many = {"defenses": ["undefended", "standard"], "norms": ["linf", "l2"], "seeds": 2}
    made = [task for task in plan(**many) if task.kind == "diagnose"]
    found = {(task.path.name.rpartition("-")[0], task.seed) for task in made}
    wanted = itertools.product(("undefended", "standard"), ("linf", "l2"), (0, 1))
    assert found == {(f"{defense}-{norm}-seed{seed}", seed) for defense, norm, seed in wanted}
    declined = plan(**many, diagnosis=False)
    assert {task.id for task in declined} == {task.id for task in plan(**many) if task.kind != "diagnose"}
