"""Split a family's records into parts that one command each can make."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from robustness_bench.benchmark.data import DATASETS
from robustness_bench.benchmark.files import canonical_json
from robustness_bench.benchmark.report.lines.results import precision_of
from robustness_bench.benchmark.site.contents.families import Card, Family
from robustness_bench.benchmark.store.cells import Record

Tree = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Records that one command makes: one norm, set and number of images."""

    family: Family
    records: tuple[Record, ...]
    attack_set: str
    threats: tuple[str, ...]
    attacks: tuple[str, ...]
    curve: tuple[str, ...]
    eps: float

    @property
    def spec(self) -> dict[str, Any]:
        """The spec of any of them."""
        return self.records[0].spec

    @property
    def precision(self) -> str:
        """Of the attacks' gradients; empty: float32."""
        return precision_of(self.records)

    @property
    def card(self) -> Card:
        """The card of the model; empty if no store has it."""
        return next(iter(self.family.cards.values()), {"spec": {}})

    def overrides(self) -> Tree:
        """Return the protocol keys, except those for how the model is made."""
        spec = self.spec
        tree: Tree = {
            "defenses": [self.family.defense],
            "datasets": [dataset_of(spec)],
            "norms": [spec["norm"]],
            "threats": list(self.threats),
            "seeds": 1 + max(record.seed for record in self.records),
            "n_examples": spec["n_examples"],
            "attack_set": self.attack_set,
            "attacks": {self.attack_set: {spec["norm"]: list(self.attacks)}},
            "eps": {spec["norm"]: self.eps},
        }
        if self.precision:
            tree["attack_precision"] = self.precision
        if self.curve:
            tree["curve"] = {"attacks": list(self.curve)}
        return tree


def parts(family: Family, wanted: Collection[str]) -> Iterator[Part]:
    """Yield the parts; boards with the same attacks that differ only in the threat share a command.

    Args:
        wanted: ids of the records to cover.
    """
    merged: dict[tuple[Any, ...], dict[str, list[Record]]] = {}
    for board, row in family.places:
        own = [record for record in row.records if record.id in wanted]
        met = {record.spec["attack"] for record in own}
        attacks = tuple(c.attack for c in board.columns if c.key in row.cells and c.attack in met)
        if not own:
            continue
        key = board.dataset, board.norm, board.eps, board.attack_set, board.images, attacks
        of = merged.setdefault(key, {})
        of[board.threat] = [*own, *_other_budgets(family, own, wanted)]
    for (_, _, eps, attack_set, _, attacks), threats in merged.items():
        records = {record.id: record for own in threats.values() for record in own}
        curve = {record.spec["attack"] for record in records.values() if record.spec["eps"] != eps}
        yield Part(
            family=family,
            records=tuple(records.values()),
            attack_set=attack_set,
            threats=tuple(threats),
            attacks=tuple(dict.fromkeys(attacks)),
            curve=tuple(sorted(curve)),
            eps=eps,
        )


def _other_budgets(family: Family, own: Sequence[Record], wanted: Collection[str]) -> list[Record]:
    """Return records of a robustness curve: the same attack at an ε that has no board."""
    boards = {board.eps for board, _ in family.places}
    known = {_but_eps(record) for record in own}
    others = (record for record in family.records if record.id in wanted)
    return [r for r in others if r.spec["eps"] not in boards and _but_eps(r) in known]


def _but_eps(record: Record) -> str:
    spec = record.spec
    parameters = {key: value for key, value in spec["parameters"].items() if key != "eps"}
    keys = ("dataset", "data", "norm", "threat", "n_examples", "attack")
    return canonical_json([parameters, *(spec[key] for key in keys)])


def dataset_of(spec: dict[str, Any]) -> str:
    """Return the name that ``--dataset`` takes for a record's images."""
    return str(spec["facts"]["name"]) if "facts" in spec else base(spec["dataset"])


def base(label: str) -> str:
    """Return the data set of a label; a folder of images may have any name."""
    near = [name for name in DATASETS if name in label.casefold()]
    return label if label in DATASETS else (near or [label])[0]
