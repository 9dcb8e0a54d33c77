"""The columns of a board: one per attack, where different parameters make different attacks."""

from collections.abc import Sequence
from dataclasses import dataclass

from robustness_bench.attacks.registry import is_bounded
from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.site.contents import names
from robustness_bench.benchmark.store.cells import Record


@dataclass(frozen=True, kw_only=True)
class Column:
    """One attack of a board.

    Attributes:
        key: unique on its board; the attack's name if that is unique.
        bounded: whether it stays inside ε and so counts in the worst case.
        surrogates: the models of an ensemble on which its images were crafted.
        any_distance: whether images beyond ε count, as for minimum-norm attacks in published tables.
    """

    key: str
    attack: str
    label: str
    kind: str
    bounded: bool
    surrogates: tuple[str, ...] = ()
    any_distance: bool = False


def _variant(record: Record) -> str:
    """Return what distinguishes attacks of one name: their parameters and, in a black box, the surrogate."""
    spec = record.spec
    crafted = spec["parents"].get("crafted", "") if spec["threat"] == "black" else ""
    return short_hash([spec["attack"], spec["parameters"], crafted])


def make_columns(members: Sequence[Record], attack_set: str) -> tuple[tuple[Column, ...], dict[str, str]]:
    """Return the columns, natural accuracy first, and record id -> column key."""
    examples: dict[tuple[str, str], Record] = {}
    variants: dict[str, set[str]] = {}
    keys = {}
    for record in members:
        pair = record.spec["attack"], _variant(record)
        examples.setdefault(pair, record)
        variants.setdefault(pair[0], set()).add(pair[1])
        keys[record.id] = pair
    columns = {}
    for (attack, variant), record in examples.items():
        suffix = f"·{variant[:4]}" if len(variants[attack]) > 1 else ""
        columns[attack, variant] = _column(record, attack_set, suffix)
    shown = {c.attack: names.attack(c.attack) for c in columns.values()}
    ordered = sorted(
        columns.values(), key=lambda c: (c.kind != "natural", shown[c.attack].order, c.attack, c.key)
    )
    return tuple(ordered), {id_: columns[pair].key for id_, pair in keys.items()}


def _column(record: Record, attack_set: str, suffix: str) -> Column:
    attack, kind = record.spec["attack"], record.spec["kind_of_attack"]
    any_distance = kind == "minimum-norm" and attack_set == "paper"
    judged = {False: " ≤ε", True: " any"}[any_distance] if kind == "minimum-norm" else ""
    precision = record.spec["parameters"].get("precision", "")
    label = "Natural" if kind == "natural" else names.attack(attack).label
    return Column(
        key=f"{attack}{suffix}",
        attack=attack,
        label=f"{label}{precision and f' ({precision})'}{suffix}{judged}",
        kind=kind,
        bounded=is_bounded(record.spec),
        surrogates=tuple(record.spec.get("surrogates", ())),
        any_distance=any_distance,
    )
