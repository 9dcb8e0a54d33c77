"""The claims, and the consistency of a manifest's values."""

from typing import Any

from robustness_bench.attacks.registry import attack_names, attack_presets
from robustness_bench.benchmark.data import DATASETS
from robustness_bench.benchmark.plan.tasks import OWN
from robustness_bench.benchmark.submit.manifest.fields import one_of
from robustness_bench.benchmark.submit.manifest.text import percentage, shown

_MOST = 100  # claims


def claims(section: Any, problems: list[str]) -> dict[str, float]:
    """Return name -> accuracy in % for valid claims; invalid ones are added to the problems."""
    claimed: dict[str, float] = {}
    if not isinstance(section, dict):
        return claimed
    if len(section) > _MOST:
        problems.append(f"claimed has {len(section)} values: there are fewer attacks")
        return claimed
    known = one_of(("natural", *(name for name in attack_names() if name != "none")), "attack")
    for name in dict.fromkeys(["natural", "aa", *section]):
        value = section.get(name, "")
        try:
            known(name)
            if value == "":
                raise ValueError(f"is {'empty' if name in section else 'missing'}: write the accuracy in %")
            claimed[name] = percentage(value)
        except ValueError as error:
            problems.append(f"claimed.{name if name.isidentifier() else shown(name)} {error}")
    return claimed


def problems_between(values: dict[str, Any], claimed: dict[str, float]) -> list[str]:
    """Return contradictions between values that are valid on their own."""
    problems = [*links(values), *_width(values)]
    if {"dataset", "norm", "eps"} <= values.keys():
        info = DATASETS[values["dataset"]].info
        widest = 1.0 if values["norm"] == "linf" else (info.channels * info.size**2) ** 0.5
        if values["eps"] > widest:
            hint = f'; did you mean "{values["eps"]:g}/255"?' if values["norm"] == "linf" else ""
            problems.append(
                f"threat.eps {values['eps']:g} does not fit into the pixel box, {widest:.4g} at most{hint}"
            )
    return problems + _claims(values.get("norm"), claimed)


def links(values: dict[str, Any]) -> list[str]:
    """Return problems with the links of a submission."""
    if values.get("paper") == values.get("code") == "":
        return ["paper and code are both empty: give at least one link"]
    return []


def _width(values: dict[str, Any]) -> list[str]:
    architecture, width = values.get("architecture"), values.get("width")
    if architecture == OWN and width:
        return ["model.width is for listed architectures: delete it, build() knows its own"]
    if architecture != OWN and width == 0:
        return ["model.width is empty: say how many channels the first stage of the architecture has"]
    return []


def _claims(norm: str | None, claimed: dict[str, float]) -> list[str]:
    natural = claimed.get("natural")
    if natural is not None and 0 < natural <= 1:
        return [f"claimed.natural {natural:g} is in %: did you mean {100 * natural:g}?"]
    presets, problems = attack_presets("strict"), []
    for name, value in claimed.items():
        if natural is not None and value > natural:
            problems.append(f"claimed.{name} {value:g} is above claimed.natural {natural:g}: fix either")
        if norm and name in presets and norm not in presets[name].norms:
            problems.append(f"claimed.{name} is no claim in {norm}: {name} works in another norm, delete it")
    return problems
