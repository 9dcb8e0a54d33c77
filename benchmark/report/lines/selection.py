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
    nominal = {norm: tuple(a for n, a, _ in met if n == norm) for norm in NORMS}
    other = {norm: tuple(a for n, a, eps in met if n == norm and eps != settings.eps[norm]) for norm in NORMS}
    names = {norm: in_order((*nominal[norm], *other[norm])) for norm in NORMS}
    presets = {
        norm: {name: preset for name in names[norm] if (preset := attack_preset(name, settings.attack_set))}
        for norm in NORMS
    }
    widest = Protocol(
        defenses=tuple(defense_presets()),
        norms=NORMS,
        threats=THREATS,
        seeds=max((record.seed for record in by_id.values()), default=0) + 1,
        diagnosis=False,
        settings=(
            settings.model_copy(
                update={
                    "attacks": {
                        norm: tuple(n for n in presets[norm] if n in nominal[norm]) for norm in NORMS
                    },
                    "curve": {
                        norm: tuple(n for n, p in presets[norm].items() if n in other[norm] and p.takes_eps)
                        for norm in NORMS
                    },
                }
            ),
        ),
    )
    return [by_id[task.id] for task in make_plan(widest, data) if task.id in by_id]
