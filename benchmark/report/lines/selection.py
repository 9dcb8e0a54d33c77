"""Select the records of a store that belong to given settings, whichever run made them."""

from robustness_bench.attacks.registry import NORMS, attack_preset, in_order
from robustness_bench.benchmark.data import Located
from robustness_bench.benchmark.plan.protocol import THREATS, Protocol, Settings
from robustness_bench.benchmark.plan.tasks import make_plan
from robustness_bench.benchmark.store.cells import Record
from robustness_bench.defenses.registry import defense_presets


def fitting(settings: Settings, data: dict[str, Located], by_id: dict[str, Record]) -> list[Record]:
    """Return the records that a run with these settings would include."""
    met = {(r.spec["norm"], r.spec["attack"], r.spec["eps"]) for r in by_id.values()}
    attacks: dict[str, tuple[str, ...]] = {}
    curve: dict[str, tuple[str, ...]] = {}
    for norm in NORMS:
        names = in_order(attack for n, attack, _ in met if n == norm)
        presets = {name: preset for name in names if (preset := attack_preset(name, settings.attack_set))}
        other = {attack for n, attack, eps in met if n == norm and eps != settings.eps[norm]}
        attacks[norm] = tuple(presets)
        curve[norm] = tuple(name for name, preset in presets.items() if name in other and preset.takes_eps)
    widest = Protocol(
        defenses=tuple(defense_presets()),
        norms=NORMS,
        threats=THREATS,
        seeds=max((record.seed for record in by_id.values()), default=0) + 1,
        diagnosis=False,
        settings=(settings.model_copy(update={"attacks": attacks, "curve": curve}),),
    )
    return [by_id[task.id] for task in make_plan(widest, data) if task.id in by_id]
