"""Worst case: a sample counts as robust only if it survived every bounded attack of its threat model."""

from collections.abc import Sequence

from robustness_bench.attacks.registry import is_bounded
from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.report.lines.results import (
    Line,
    percent,
    precision_of,
    sets_of,
    surrogates_of,
)
from robustness_bench.benchmark.statistics import mean_std
from robustness_bench.benchmark.store.cells import Record, robust_to_all

NAME = "worst-case"
SUBMITTED = "submitted"
"""The kind of cells whose images someone sent in: they count against one model, no other needs them."""


def worst_case(records: Sequence[Record], attack_set: str) -> list[Line]:
    """Return a line per model family and threat model, from the records with attacks of ``attack_set``.

    The union is per sample, never a minimum of means. It runs over every bounded attack that any
    defense faces there, so that rows can be compared; if a seed lacks one of them, or one failed, the
    line has no number. Attacks with another kind of ball (Wasserstein, spatial) do not count. Submitted
    images count only against their model. Images from each ensemble of surrogates have lines of their own.
    """
    counted = [
        record
        for record in records
        if attack_set in sets_of(record.spec) or record.spec["kind_of_attack"] == SUBMITTED
    ]
    lines = []
    for members in grouped(counted, lambda record: record.threat_model).values():
        natural = [record for record in members if record.spec["kind_of_attack"] == "natural"]
        attacked = [record for record in members if record.spec["kind_of_attack"] != "natural"]
        for crafted in grouped(attacked, surrogates_of).values():
            required = sorted({r.spec["attack"] for r in crafted if is_bounded(r.spec)})
            for family in sorted({record.model_family for record in natural} if required else ()):
                own = [record for record in [*natural, *crafted] if record.model_family == family]
                lines.append(_line(own, required, attack_set))
    return lines


def _line(records: list[Record], required: list[str], attack_set: str) -> Line:
    sent = [r for r in records if r.spec["kind_of_attack"] == SUBMITTED and r.status == "ok"]
    exact_last = sorted(records, key=lambda record: "precision" not in record.spec["parameters"])
    cells = {(record.seed, record.spec["attack"]): record for record in exact_last}
    seeds = sorted({record.seed for record in records if record.spec["kind_of_attack"] != SUBMITTED})
    wanted = [(seed, attack) for seed in seeds for attack in required]
    lacking = [f"{attack} (seed {seed})" for seed, attack in wanted if (seed, attack) not in cells]
    failed = [
        f"{cell[1]} (seed {cell[0]})" for cell in wanted if cell in cells and cells[cell].status == "error"
    ]
    whole = not lacking and not failed
    per_seed: dict[int, float | None] = dict.fromkeys(seeds)
    if whole:
        faced = [*(cells[cell] for cell in wanted), *sent]
        stood = {seed: robust_to_all(each for each in faced if each.seed == seed) for seed in seeds}
        per_seed = {seed: percent(each) for seed, each in stood.items()}
    spec = records[0].spec
    return Line(
        **{name: spec[name] for name in ("dataset", "norm", "eps", "threat", "defense")},
        attack=NAME,
        sets=(attack_set,),
        kind=NAME,
        bounded=mean_std([value for value in per_seed.values() if value is not None]) if whole else None,
        per_seed=per_seed,
        images=spec["n_examples"],
        error="" if whole else f"no worst case without {', '.join(failed or lacking)}",
        missing=bool(lacking) and not failed,
        precision=precision_of(cells.values()),
        surrogates=max(map(surrogates_of, records)),
        setting=short_hash(sorted({record.family for record in records})),
    )
