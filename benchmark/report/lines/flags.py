"""The flags of a line of results: those of its models, and one that needs several records together."""

from collections.abc import Sequence

from robustness_bench.benchmark.store.cells import Record
from robustness_bench.benchmark.store.diagnoses import EARLIER, NOT_DIAGNOSED, SIGNS_ONLY
from robustness_bench.benchmark.store.flags import FLAGS, black_beats_white


def flags_by_family(records: Sequence[Record]) -> dict[str, tuple[str, ...]]:
    """Return family -> the flags of any of its seeds, in the order of ``FLAGS``.

    Adds ``black-beats-white`` to the model's own flags if a black-box cell's images fool the model more
    often than the same attack with the model's own gradients.
    """
    white = {_attack_on_model(r): r for r in records if r.status == "ok" and r.spec["threat"] == "white"}
    raised: dict[str, set[str]] = {}
    for record in records:
        flags = raised.setdefault(record.family, set())
        flags.update(record.diagnosis.flags if record.diagnosis else ())
        # Images that are no longer adversarial once stored say nothing of gradients.
        direct = None if "storage" in record.spec else white.get(_attack_on_model(record))
        if direct and record.status == "ok" and record.spec["threat"] == "black":
            shares = float(direct.robust.mean()), float(record.robust.mean())
            if black_beats_white(*shares, len(record.robust)):
                flags.add("black-beats-white")
    return {family: tuple(name for name in FLAGS if name in flags) for family, flags in raised.items()}


def looked_at(records: Sequence[Record]) -> str:
    """Return what was not checked for the models of a line's records, in the words of ``store.diagnoses``.

    Seeds are named if it does not apply to all.
    """
    said = []
    for words in (NOT_DIAGNOSED, SIGNS_ONLY, EARLIER):
        if seeds := sorted({record.seed for record in records if _lack(record) == words}):
            everyone = len(seeds) == len({record.seed for record in records})
            said.append(words if everyone else f"{words} (seed {', '.join(map(str, seeds))})")
    return "; ".join(said)


def _lack(record: Record) -> str:
    if record.diagnosis is None:
        return NOT_DIAGNOSED
    if record.diagnosis.is_earlier:
        return EARLIER
    return SIGNS_ONLY if record.diagnosis.signs_only else ""


def _attack_on_model(record: Record) -> tuple[str, str, float, str]:
    spec = record.spec
    return spec["parents"]["model"], spec["attack"], spec["eps"], str(spec["parameters"])
