from pathlib import Path
from typing import Any

import pytest

from robustness_bench.benchmark.data import locate
from robustness_bench.benchmark.plan import probe
from robustness_bench.benchmark.plan.protocol import Training, load_protocol
from robustness_bench.benchmark.plan.tasks import Task, make_plan

TRAININGS = ("train", "estimators")
KINDS = ("evaluate", "craft", "estimators", "diagnose")


def plan(overrides: dict[str, Any] | None = None) -> list[Task]:
    return make_plan(load_protocol(None, overrides), {"digits": locate("digits", Path("data"))})


def ids(tasks: list[Task]) -> set[str]:
    return {task.id for task in tasks}


def test_parents_come_first_and_each_task_once() -> None:
    tasks = plan({"seeds": 2})
    seen: set[str] = set()
    for task in tasks:
        assert task.id not in seen
        assert all(parent.id in seen for parent in task.parents.values())
        seen.add(task.id)
    assert len({task.path for task in tasks}) == len(tasks)


def test_counts_of_the_default_plan() -> None:
    """3 defenses × (5 + 3 attacks) × 2 threats per seed; crafting and the surrogate once for all."""
    tasks = plan({"seeds": 2})
    kinds = {kind: sum(task.kind == kind for task in tasks) for kind in KINDS}
    assert kinds == {"evaluate": 2 * 3 * 8 * 2, "craft": 6, "estimators": 4, "diagnose": 2 * 3 * 2}
    trained = [task.title for task in tasks if task.kind == "train"]
    assert sum("undefended" in title for title in trained) == 2  # one model for both norms
    assert sum("vgg" in title for title in trained) == 2  # one per norm, for all seeds
    assert len(trained) == 2 + 2 + 4 + 4


def test_stored_images_are_crafted_once_for_all_their_columns() -> None:
    """Their attack's own cell keeps its id, and waits for the same images."""
    asked = {
        "norms": ["l2"],
        "defenses": ["standard"],
        "threats": ["white"],
        "curve": {"attacks": ["pgd-40"]},
    }

    def planned(*attacks: str) -> tuple[dict[str, Task], list[Task]]:
        tasks = plan(asked | {"dataset": {"digits": {"attacks": {"strict": {"l2": list(attacks)}}}}})
        cells = {task.title: task for task in tasks if task.how.result}
        return cells, [task for task in tasks if task.kind == "craft"]

    alone, none = planned("pgd-40")
    both, crafted = planned("pgd-40@8-bit", "pgd-40@jpeg-75", "none@jpeg-75")
    assert not none
    assert len(crafted) == 1
    assert {title: both[title].id for title in alone} == {title: task.id for title, task in alone.items()}
    waiting = {task.spec["attack"] for task in both.values() if crafted[0] in task.needs}
    assert waiting == {"pgd-40", "pgd-40@8-bit", "pgd-40@jpeg-75"}


def test_an_ensemble_of_surrogates_shares_its_members() -> None:
    asked = {"norms": ["linf"], "threats": ["black"], "defenses": ["trades"]}
    one = {task.title: task for task in plan(asked)}
    named = {task.title: task for task in plan(asked | {"surrogate": {"models": ["vgg-19"]}})}
    assert {title: task.id for title, task in named.items()} == {
        title: task.id for title, task in one.items()
    }
    tasks = plan(asked | {"surrogate": {"models": ["vgg-19", "resnet-18:4:7"]}})
    again = plan(asked | {"surrogate": {"models": ["resnet-18:4:7", "vgg-19:16:0"]}})
    assert ids(tasks) == ids(again)
    crafted = [task for task in tasks if task.kind == "craft"]
    assert all(len(task.parents) == 2 for task in crafted)
    assert {task.id for task in tasks if task.kind == "train"} > {
        t.id for t in one.values() if t.kind == "train"
    }
    cells = {task.title: task for task in tasks if task.how.result}
    assert [title for title, task in cells.items() if task.id == one[title].id] == [
        title for title in cells if "none" in title
    ]
    assert {tuple(task.spec.get("surrogates", ())) for task in cells.values()} == {
        (),
        ("resnet-18:4:7", "vgg-19:16:0"),
    }


class _Later(Training):
    """A later version's recipe, with a setting that first results did not have."""

    novelty: float = 0.0


def test_a_new_setting_at_its_default_changes_no_id() -> None:
    protocol, data = load_protocol(), {"digits": locate("digits", Path("data"))}
    (digits,) = protocol.settings

    def later(**new: Any) -> set[str]:
        training = _Later(**dict(digits.training), **new)
        changed = digits.model_copy(update={"training": training})
        return ids(make_plan(protocol.model_copy(update={"settings": (changed,)}), data))

    assert later() == later(novelty=0.0) == ids(plan())
    assert not later(novelty=0.1) & {task.id for task in plan() if task.kind in TRAININGS}


def test_a_cell_does_not_wait_for_a_diagnosis() -> None:
    """Diagnoses come after all cells, and no cell has one in its lineage."""
    tasks = plan({"seeds": 2})
    kinds = [task.kind for task in tasks]
    assert set(kinds[kinds.index("diagnose") :]) == {"diagnose"}
    cells = [task for task in tasks if task.kind == "evaluate"]
    assert all(each.kind != "diagnose" for cell in cells for each in cell.lineage())


def test_another_probe_is_another_diagnosis_of_the_same_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan()
    monkeypatch.setitem(probe.SIGNS, "passes", 6)
    after = plan()
    differ = {task.kind for task in [*before, *after] if task.id in ids(before) ^ ids(after)}
    assert differ == {"diagnose"}
    assert not ids([t for t in before if t.kind == "diagnose"]) & ids(after)


def test_namid_needs_what_the_paper_says() -> None:
    cell = next(t for t in plan({"threats": ["white"]}) if t.kind == "evaluate" and "namid" in t.title)
    kinds = [t.title.removeprefix("digits train ") for t in cell.lineage() if t.kind in TRAININGS]
    assert list(dict.fromkeys(kinds)) == [
        "standard-resnet-18-linf, seed 0",
        "MI estimators-eq-5-on-standard-linf, seed 0",
        "namid-resnet-18-linf, seed 0",
    ]


def test_more_seeds_and_attacks_keep_what_was_there() -> None:
    assert ids(plan()) < ids(plan({"seeds": 2}))
    few = plan({"attacks": {"strict": {"linf": ["pgd-40"], "l2": []}}})
    assert {t.id for t in few if t.kind != "diagnose"} < ids(plan())


@pytest.mark.parametrize(
    "overrides",
    [
        {"eps": {"linf": 0.1, "l2": 0.1}},
        {"training": {"epochs": 3}},
        {"model": {"width": 4}},
        {"n_examples": 40},
    ],
)
def test_what_decides_a_result_decides_its_id(overrides: dict[str, Any]) -> None:
    def cells(tasks: list[Task]) -> set[str]:
        return {t.id for t in tasks if t.kind == "evaluate" and "undefended" not in t.title}

    assert not cells(plan()) & cells(plan(overrides))


@pytest.mark.parametrize("overrides", [{"eps": {"linf": 0.1, "l2": 0.1}}, {"model": {"width": 4}}])
def test_a_resumed_autoattack_cannot_meet_another_s_state(overrides: dict[str, Any]) -> None:
    """What is kept of an unfinished cell lies beside its record, so no other model or ε finds it."""

    def states(tasks: list[Task]) -> set[Path]:
        return {t.path for t in tasks if t.kind == "evaluate" and t.spec["attack"] == "aa"}

    data = locate("digits", Path("data"))
    other_data = make_plan(load_protocol(), {"digits": data._replace(hash="0" * 64)})
    assert states(plan())
    assert not states(plan()) & (states(plan(overrides)) | states(other_data))


def test_estimator_settings_touch_only_what_uses_them() -> None:
    changed = plan({"estimators": {"units": 16}})
    kept = [task for task in changed if task.id in ids(plan())]
    assert all("namid" not in task.title and task.kind != "estimators" for task in kept)
    assert any("standard" in task.title for task in kept)


def test_other_data_is_another_task() -> None:
    data = locate("digits", Path("data"))
    altered = make_plan(load_protocol(), {"digits": data._replace(hash="0" * 64)})
    assert not ids(plan()) & ids(altered)


def test_family_is_the_same_for_all_seeds_and_only_for_them() -> None:
    cells = [task for task in plan({"seeds": 3}) if task.kind == "evaluate"]
    families: dict[str, set[int]] = {}
    for task in cells:
        families.setdefault(task.family, set()).add(task.seed)
    assert all(seeds == {0, 1, 2} for seeds in families.values())
    assert len(families) == len(cells) / 3


def test_ids_are_the_same_in_every_release() -> None:
    """Results on disk are found by these: a change here has to raise the plan's format number."""
    data = locate("digits", Path("data"))._replace(hash="0" * 64)
    first = make_plan(load_protocol(), {"digits": data})[0]
    assert first.id == "e7eeeb898baf"


def test_what_trainings_attack_with_is_in_the_ids_of_those_that_attack() -> None:
    tasks = [task for task in plan() if task.kind in ("train", "estimators")]
    attacking = {t.title for t in tasks if t.spec.get("inner_loss") == "log-odds"}
    assert (
        attacking == {t.title for t in tasks if "train undefended" not in t.title} != {t.title for t in tasks}
    )
    assert all("inner_loss" not in t.spec for t in tasks if t.title not in attacking)


def test_a_precision_is_in_the_ids_of_the_attacks_that_have_one() -> None:
    curve = {"attacks": {"strict": {"linf": ["none"], "l2": []}}, "curve": {"attacks": ["pgd-40"]}}
    crafted = [task for task in plan({"attack_precision": "bf16"} | curve) if task.kind == "craft"]
    assert {task.spec["parameters"]["precision"] for task in crafted} == {"bf16"}
    exact, lower = (plan({"attack_precision": each}) for each in ("float32", "bf16"))
    assert ids(exact) == ids(plan())
    kept, new = ids(exact) & ids(lower), [task for task in lower if task.id not in ids(exact)]
    named = {task.spec["attack"] for task in new if task.kind in ("evaluate", "craft")}
    assert named == {"pgd-40", "aa"}
    assert all(t.spec["parameters"]["precision"] == "bf16" for t in new if t.kind in ("evaluate", "craft"))
    others = [task for task in exact if task.kind == "evaluate" and task.spec["attack"] not in named]
    assert ids(others) <= kept


def test_rules_of_one_attack_share_its_run() -> None:
    both = {"strict": {"linf": [], "l2": ["ead-en", "ead-l1"]}}
    tasks = plan({"attacks": both, "norms": ["l2"], "defenses": ["standard"]})
    cells = [task for task in tasks if task.kind == "evaluate" and task.spec["attack"] != "none"]
    runs = [task for task in tasks if task.kind == "craft"]
    assert len(cells) == 4
    assert len(runs) == 2  # one on the model itself, one on the surrogate
    assert {cell.parents["crafted"].id for cell in cells} == {run.id for run in runs}
    assert {run.spec["goal"] for run in runs} == {"untargeted", "transfer"}
    assert all("rule" not in run.spec["parameters"] for run in runs)


def test_a_parameter_set_shares_what_it_does_not_change() -> None:
    """`aa` and natural accuracy are the same in both sets, PGD-40 is not."""
    strict, paper = (plan({"attack_set": each, "norms": ["linf"]}) for each in ("strict", "paper"))
    shared = {t.spec["attack"] for t in strict if t.kind == "evaluate" and t.id in ids(paper)}
    assert shared == {"none", "aa"}


def test_curves_add_cells_at_other_budgets_only_for_attacks_that_have_one() -> None:
    curve = {"curve": {"attacks": ["pgd-40", "cw"], "budgets": [0.5, 1.0, 2.0]}}
    before = ids(plan())
    added = [task for task in plan(curve) if task.id not in before]
    cells = [task for task in added if task.kind == "evaluate"]
    assert {(t.spec["attack"], t.spec["norm"], t.spec["eps"]) for t in cells} == {
        ("pgd-40", "linf", 0.09),
        ("pgd-40", "linf", 0.36),
        ("pgd-40", "l2", 0.375),
        ("pgd-40", "l2", 1.5),
    }
    assert {task.kind for task in added} == {"evaluate", "craft"}
