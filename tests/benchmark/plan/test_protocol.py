from pathlib import Path
from typing import Any

import pytest

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.plan.protocol import attacks_by_norm, load_protocol


def test_defaults() -> None:
    protocol = load_protocol()
    (digits,) = protocol.settings
    assert protocol.defenses == ("undefended", "standard", "namid")
    assert digits.attacks == {
        "linf": ("none", "pgd-40", "aa", "fwa-40", "ti-dim"),
        "l2": ("none", "pgd-40", "ddn"),
    }
    (paper,) = load_protocol(None, {"attack_set": "paper"}).settings
    assert paper.attacks["l2"] == ("none", "pgd-40", "cw", "ddn")
    assert digits.curve == {"linf": (), "l2": ()}
    assert digits.eps == {"linf": 0.18, "l2": 0.75}
    assert digits.model.width == 8  # [dataset.digits] over the general 64
    (cifar,) = load_protocol(None, {"datasets": ["cifar10"]}).settings
    assert cifar.attacks["l2"] == ("none", "pgd-40", "aa", "cw", "ddn")
    assert (cifar.model.width, cifar.training.epochs, cifar.training.batch_size) == (64, 100, 1024)
    assert cifar.eps == {"linf": 8 / 255, "l2": 0.5}


def test_flags_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        "seeds = 5\n[training]\nlr = 1\nepochs = 7\n[dataset.digits.training]\nepochs = 8\n[eps]\nl2 = 2.0\n"
    )
    protocol = load_protocol(file, {"training": {"epochs": 9}})
    (digits,) = protocol.settings
    assert protocol.seeds == 5
    assert digits.training.epochs == 9
    assert load_protocol(file).settings[0].training.epochs == 8
    assert digits.eps == {"linf": 0.18, "l2": 2.0}
    assert digits.training.lr == 1  # any key of the file goes before any built-in one


def test_lists_lose_repetition_and_take_the_registry_s_order() -> None:
    protocol = load_protocol(None, {"defenses": ["namid", "standard", "namid"], "norms": ["l2", "linf"]})
    assert protocol.defenses == ("standard", "namid")
    assert protocol.norms == ("linf", "l2")


def test_natural_accuracy_is_always_there() -> None:
    attacks = attacks_by_norm(["cw"], ["linf", "l2"])
    assert attacks == {each: {"linf": [], "l2": ["cw"]} for each in ("strict", "paper")}
    assert load_protocol(None, {"attacks": attacks}).settings[0].attacks["l2"] == ("none", "cw")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"defenses": ["namdi"]}, r"unknown defense 'namdi'; did you mean namid .*\? known: undefended"),
        ({"datasets": ["digit"]}, r"did you mean digits\?"),
        ({"norms": ["l1"]}, "unknown norm 'l1'"),
        ({"threats": ["grey"]}, "unknown threat 'grey'"),
        ({"attacks": {"strict": {"linf": ["pgd"]}}}, r"unknown attack 'pgd'; did you mean pgd-\d0"),
        ({"attacks": {"strict": {"linf": ["cw"]}}}, "attack cw does not work in linf"),
        (
            {"attack_set": "paper", "attacks": {"paper": {"linf": ["pgd-dlr"]}}},
            "attack pgd-dlr has no parameters in the set paper, only in strict: --set strict",
        ),
        ({"attack_set": "Paper"}, r"unknown attack_set 'Paper'; did you mean paper\?"),
        ({"attack_precision": "fp16"}, "unknown attack_precision 'fp16'"),
        (
            {"attack_precision": "bf16", "norms": ["l2"], "attacks": {"strict": {"l2": ["ddn", "cw"]}}},
            "attack_precision bf16 changes none of these attacks: add one of pgd-40, pgd-margin",
        ),
        (
            {"attack_precision": "bf16", "weights": "a.pt", "network": "net.py", "defenses": ["standard"]},
            "attack_precision bf16 does not reach net.py, which runs in a process of its own",
        ),
        ({"curve": {"attacks": ["pgd-41"]}}, r"unknown attack 'pgd-41'; did you mean pgd-40"),
        ({"curve": {"budgets": [0.5, -1.0]}}, r"curve\.budgets: item 2 must be above 0, got -1\.0"),
        ({"defenses": []}, "defenses is empty"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"n_examples": -1}, "n_examples must be at least 0, got -1"),
        ({"eps": {"linf": -0.1}}, "ε must be positive"),
        ({"eps": {"linf": 8.0}}, r"fit into the pixel box, got 8\.0 for linf: set eps\.linf to at most 1"),
        ({"training": {"epochs": 0}}, "epochs must be at least 1, got 0"),
        ({"seeds": 3_000_000}, "seeds must be at most 1000, got 3000000"),
        (
            {"training": {"awp_from": 0.5}},
            "training has awp_from, which says when awp begins: set awp above 0",
        ),
        (
            {"detection": {"parameters": {"cw": {"steps": -1}}}},
            r"detection\.parameters\.cw\.steps must be at least 1, got -1",
        ),
        ({"training": {"train_limit": 1}}, "training has train_limit 1: it must be 0 .* or at least 2"),
        ({"training": {"lr": float("nan")}}, r"training\.lr must be finite, got nan"),
        ({"training": {"awp": float("inf")}}, r"training\.awp must be finite, got inf"),
        ({"training": {"milestones": [0.5, float("nan")]}}, r"milestones: item 2 must be finite, got nan"),
        ({"training": {"lr_schedule": "cosine"}}, "unknown training.lr_schedule 'cosine'"),
        ({"training": {"precision": "fp16"}}, "unknown training.precision 'fp16'"),
        ({"training": {"selection": "test"}}, r"unknown training.selection 'test'; did you mean (last|best)"),
        ({"training": {"holdout": 1.0}}, r"training\.holdout must be below 1, got 1\.0"),
        ({"training": {"ema": -0.1}}, r"training\.ema must be at least 0, got -0\.1"),
        ({"training": {"selection": "best", "holdout": 0.0}}, "needs held-out images: set holdout above 0"),
        ({"training": {"attack_start": "zero"}}, "unknown training.attack_start 'zero'"),
        ({"schedule": "fastest"}, r"unknown schedule 'fastest'; did you mean fast\?"),
        ({"estimators": {"bound": "nce"}}, r"unknown estimators.bound 'nce'; did you mean infonce\?"),
        ({"estimators": {"attack_steps": 0}}, r"estimators\.attack_steps must be at least 1, got 0"),
        ({"weights": "a.pt"}, "--weights a.pt is one model: name its one --defense"),
        (
            {"weights": "a.pt", "defenses": ["standard"], "seeds": 3},
            "--weights a.pt is one model, got 3 seeds",
        ),
        ({"model": {"width": 0}}, "width must be at least 1"),
        ({"surrogate": {"models": ["vgg-19:x"]}}, r"must be NETWORK, .* got 'vgg-19:x'"),
        ({"surrogate": {"models": ["vgg"]}}, r"unknown model 'vgg'; did you mean vgg-19\?"),
        (
            {"surrogate": {"models": ["vgg-19", "resnet-18:8:1"]}, "seeds": 2},
            "the surrogate resnet-18:8:1 is the defense standard itself: name resnet-18:8:2",
        ),
        ({"surrogate": {"models": ["resnet-18:8"]}}, "resnet-18:8:0 is the defense standard itself: name"),
        (
            {"surrogate": {"models": ["vgg-19", "vgg-19:16:0"]}},
            r"two are the same model \(vgg-19:16:0\): name each once",
        ),
        (
            {"weights": "timm:a", "defenses": ["standard"], "network": "n.py", "weights_plain": True},
            "--network n.py says itself how it reads images: leave --weights-plain out",
        ),
        (
            {"weights": "timm:a", "defenses": ["standard"], "network": "n.py"},
            "--weights timm:a brings its own network: leave --network out",
        ),
        ({"model": {"name": "resnet18"}}, r"did you mean resnet-18\?"),
        ({"estimators": {"objective": "eq-6"}}, r"did you mean eq-\d"),
    ],
)
def test_wrong_values_are_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        load_protocol(None, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 3", r"unknown key 'seed'; did you mean seeds or"),
        ("[training]\nepoch = 3", r"\[training\]: unknown key 'epoch'; did you mean epochs\?"),
        ('[training]\n"lr " = 3', r"unknown key 'lr '; did you mean lr\?"),
        ('[training]\n"\u0435pochs" = 3', r"unknown key '\\u0435pochs'; did you mean epochs\?"),
        ("[training]\nepochs = 'ten'", r"mine\.toml: training\.epochs must be a whole number, got 'ten'"),
        ("seeds = true", "seeds must be a whole number, got True"),
        ("[curve]\nbudgets = ['a']", r"curve\.budgets: item 1 must be a number, got 'a'"),
        ("[curve]\nattacks = [3]", r"curve\.attacks: item 1 must be text in quotes, got 3"),
        ("[curve]\nattacks = ['pgd-40']\nbudgets = [9]", "9 × ε = 0.18 does not fit into the pixel box"),
        ("training = 3", "training must be a table"),
        ("[dataset.digit]\nn_examples = 1", r"did you mean digits\?"),
        ("[dataset.mnist]\nseeds = 1", r"seeds holds for all data sets: write it above \[dataset\.mnist\]"),
        ("dataset = 3", r"dataset must hold a table per data set, such as \[dataset\.mnist\]"),
        (
            "[dataset.mnist.model]\nwidth = '3'",
            r"\[dataset\.mnist\] model\.width must be a whole number",
        ),
        ("[training]\nlr = true", r"training\.lr must be a number, got True"),
        ("[training.lr]\na = 1", "lr must be no table"),
        ("[detection.parameters.cw]\nbeta = 1.0", r"\[detection\.parameters\.cw\]: unknown key 'beta'"),
        ("seeds =", "is not TOML"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(BenchError, match=message):
        load_protocol(file)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"cannot read --config .*none\.toml"):
        load_protocol(tmp_path / "none.toml")


def test_a_schedule_lies_under_what_the_user_says(tmp_path: Path) -> None:
    """namid-paper.toml < the named schedule < default.toml < the file < flags."""
    file = tmp_path / "mine.toml"
    file.write_text('schedule = "fast"\n[training]\nlr = 0.3\n[dataset.mnist.training]\nmomentum = 0.5\n')
    overrides = {"datasets": ["digits", "mnist", "cifar10"], "training": {"epochs": 7}}
    digits, mnist, cifar = load_protocol(file, overrides).settings
    assert {each.schedule for each in (digits, mnist, cifar)} == {"fast"}  # the file goes over default.toml
    assert {each.training.epochs for each in (digits, mnist, cifar)} == {7}
    assert {each.training.lr for each in (digits, mnist, cifar)} == {0.3}
    assert [each.training.momentum for each in (mnist, cifar)] == [0.5, 0.9]
    assert cifar.training.lr_schedule == "one-cycle"  # from fast.toml
    assert cifar.training.rel_step_size == 0.25  # which does not say, so from namid-paper.toml
    assert [each.training.augment for each in (mnist, cifar)] == ["none", "crop-flip"]


def test_the_flag_names_the_schedule_of_every_data_set() -> None:
    (digits,) = load_protocol(None, {"schedule": "fast"}).settings
    assert digits.schedule == "fast"
    assert digits.training.epochs == 30


def test_the_paper_s_recipe_is_the_default() -> None:
    """Zhou et al. 2022, section 4.1."""
    (settings,) = load_protocol(None, {"datasets": ["cifar10"]}).settings
    recipe = settings.training
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (100, 1024, 0.1)
    assert (recipe.momentum, recipe.weight_decay, recipe.milestones) == (0.9, 2e-4, (0.75, 0.9))
    assert (recipe.attack_steps, recipe.rel_step_size, recipe.augment) == (10, 0.25, "crop-flip")
    assert (recipe.selection, recipe.ema, recipe.precision) == ("last", 0.0, "float32")
