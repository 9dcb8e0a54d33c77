"""Named attacks, their two parameter sets, and attacks that plugins bring."""

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from robustness_bench.attacks import registry
from robustness_bench.attacks.registry import SETS, PresetError, attack_names, attack_presets

GOOD: dict[str, Any] = {
    "attack": "somewhere:Something",
    "label": "S",
    "norms": ["l2"],
    "kind": "budget",
    "strict": {"source": "nobody 2026"},
}
OFFERED: Any = GOOD


def offer(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Let ``value`` (module:attribute) be installed as the attack ``name``."""
    point = EntryPoint(name=name, value=value, group="bench.attacks")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])


def test_a_plugin_s_attack_is_one_like_any_other() -> None:
    assert "fgsm" in attack_names()
    assert attack_presets("strict")["fgsm"].build("l2", 0.5).step == 1.0  # type: ignore[attr-defined]
    assert "fgsm" not in attack_presets("paper")


@pytest.mark.parametrize(
    ("value", "offered", "message"),
    [
        ("no.such.module:X", GOOD, r"attack 'mine' of the plugin no\.such\.module:X cannot be loaded"),
        (f"{__name__}:ABSENT", GOOD, "cannot be loaded"),
        (f"{__name__}:OFFERED", ["list"], "must be a mapping"),
        (f"{__name__}:OFFERED", {"label": "S"}, "lacks attack, kind, norms"),
        (f"{__name__}:OFFERED", GOOD | {"kind": "magic"}, "must have a kind of .* got 'magic'"),
        (f"{__name__}:OFFERED", GOOD | {"norms": ["l7"]}, r"got 'budget' and \['l7'\]"),
        (f"{__name__}:OFFERED", GOOD | {"strict": {}}, "needs a table strict or paper with a source"),
    ],
)
def test_a_plugin_that_is_wrong_is_named(
    value: str, offered: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.OFFERED", offered)
    offer(monkeypatch, "mine", value)
    with pytest.raises(PresetError, match=message):
        registry._tables.__wrapped__()


def test_a_plugin_cannot_replace_an_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "aa", f"{__name__}:OFFERED")
    with pytest.raises(PresetError, match="offers attack 'aa', which exists already"):
        registry._tables.__wrapped__()


def test_the_paper_set_is_what_the_specification_says() -> None:
    """NAMID's settings that differ from the strict ones, figure by figure."""
    paper = {name: preset.parameters for name, preset in attack_presets("paper").items()}
    assert (paper["pgd-40"]["steps"], paper["pgd-40"]["rel_step_size"]) == (40, 0.25)
    fwa = paper["fwa-40"]
    assert (fwa["method"], fwa["window"], fwa["step_size"]) == ("projected-gradient", 4, 0.007)
    assert (fwa["bisections"], fwa["box"]) == (15, "clip")
    ti_dim = paper["ti-dim"]
    assert ti_dim["rel_step_size"] * 8 / 255 == pytest.approx(0.007)
    assert (ti_dim["steps"], ti_dim["momentum"], ti_dim["diversity"]) == (40, 0.1, 0.0)
    cw = paper["cw"]
    assert (cw["steps"], cw["step_size"], cw["confidence"], cw["initial_const"]) == (20, 0.01, 1.0, 1.0)
    assert paper["ddn"]["steps"] == 20


def test_strict_attacks_are_at_least_as_long_as_the_paper_s() -> None:
    """More steps times restarts, except TI-DIM, whose authors take ten."""
    strict, paper = attack_presets("strict"), attack_presets("paper")
    for name in strict.keys() & paper.keys() - {"ti-dim", "none"}:
        ours, theirs = strict[name].parameters, paper[name].parameters
        assert ours["steps"] * ours.get("restarts", 1) >= theirs["steps"] * theirs.get("restarts", 1), name


def test_unknown_set() -> None:
    with pytest.raises(ValueError, match=f"the parameter sets are {', '.join(SETS)}, got 'lax'"):
        attack_presets("lax")
