"""Model families: a defense under one recipe, with all its seeds, boards and trainings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.report.lines.collapse import collapsed_seeds
from robustness_bench.benchmark.report.lines.results import flags_by_family, looked_at
from robustness_bench.benchmark.report.lines.trained import epochs_of, said
from robustness_bench.benchmark.site.contents import names
from robustness_bench.benchmark.site.contents.boards import Board, Row
from robustness_bench.benchmark.site.contents.reading import Found
from robustness_bench.benchmark.store.cells import Record
from robustness_bench.benchmark.store.flags import FLAGS

Card = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row of a board and everything else known about it.

    Attributes:
        slug: name of its page.
        setting: what distinguishes it from other recipes of the same defense.
        cards: seed -> the card of its model, where a store has it.
        places: the boards it is on, and its row there.
        raised: record family -> signs of hidden gradients.
        collapsed: seed -> why its training counts as collapsed.
    """

    id: str
    slug: str
    defense: str
    dataset: str
    setting: str
    records: tuple[Record, ...]
    cards: dict[int, Card]
    places: tuple[tuple[Board, Row], ...]
    raised: dict[str, tuple[str, ...]]
    collapsed: dict[int, str]

    @property
    def label(self) -> str:
        """The name used in tables."""
        return names.defense(self.defense).label

    @cached_property
    def epochs(self) -> str:
        """Epochs on natural and on adversarial images, from the cards of all seeds of its records."""
        seeds = sorted({record.seed for record in self.records})
        return said({seed: epochs_of(self.cards[seed]) if seed in self.cards else None for seed in seeds})

    @cached_property
    def seconds(self) -> float | None:
        """Seconds of one training, mean over seeds; None for weights from elsewhere."""
        times = [card["seconds"] for card in self.cards.values() if card.get("history")]
        return sum(times) / len(times) if times else None

    def flags_on(self, row: Row) -> list[str]:
        """Return the signs of hidden gradients on one board."""
        raised = {flag for record in row.records for flag in self.raised.get(record.family, ())}
        return [name for name in FLAGS if name in raised]

    def unlooked_on(self, row: Row) -> str:
        """Return what was not checked for its models on one board; empty if everything was."""
        return looked_at(row.records)

    @cached_property
    def flags(self) -> list[str]:
        """The signs of hidden gradients on any board."""
        raised = {flag for flags in self.raised.values() for flag in flags}
        return [name for name in FLAGS if name in raised]


def make_families(found: Found, boards: Sequence[Board]) -> dict[str, Family]:
    """Return model family -> what is known of it, for every row of every board."""
    records = grouped(found.records, lambda record: record.model_family)
    rows = ((board, row) for board in boards for row in board.rows)
    places = grouped(rows, lambda place: place[1].family)
    raised, collapsed = flags_by_family(found.records), collapsed_seeds(found.records)
    families = []
    for family, own in sorted(places.items()):
        spec = records[family][0].spec
        models = {record.seed: record.spec["parents"].get("model", "") for record in records[family]}
        cards = {seed: found.cards[model] for seed, model in sorted(models.items()) if model in found.cards}
        families.append(
            Family(
                id=family,
                slug=names.slug(spec["defense"][:40]) + f"-{page_id(family)}",
                defense=spec["defense"],
                dataset=spec["dataset"],
                setting=_summary(next(iter(cards.values()), None)),
                records=tuple(sorted(records[family], key=lambda record: record.id)),
                cards=cards,
                places=tuple(own),
                raised={r.family: raised[r.family] for r in records[family] if raised.get(r.family)},
                collapsed=collapsed.get(family, {}),
            )
        )
    alike = grouped(families, _kind).values()
    return {f.id: replace(f, setting=_setting(f, group, found.cards)) for group in alike for f in group}


def page_id(family: str) -> str:
    """Return a name for files: the family itself if it is a hash, as it should always be."""
    plain = len(family) == 12 and set(family) <= set("0123456789abcdef")
    return family if plain else short_hash(family)


def _summary(card: Card | None) -> str:
    if card is None:
        return ""
    spec = card["spec"]
    parts = [str(spec.get("model", ""))]
    if "network" in spec:
        parts[0] = f"a network of its own ({spec['network'][:12]})"
    if "width" in spec:
        parts[0] += f" of width {spec['width']}"
    if training := spec.get("training"):
        parts.append(f"{training['epochs']} epochs")
    if weights := spec.get("weights"):
        parts.append(f"weights {weights[:12]}")
    return ", ".join(filter(None, parts))


def identity(card: Card | None, cards: dict[str, Card]) -> dict[str, str]:
    """Return every setting of a training and of its estimators: dotted key -> short value."""
    if card is None:
        return {}
    spec = {key: value for key, value in card["spec"].items() if key not in ("kind", "format", "parents")}
    parent = cards.get(card["spec"].get("parents", {}).get("estimators", ""))
    if parent is not None:
        spec["estimators"] = parent["spec"]["estimators"]
    return names.flattened(spec)


def _kind(family: Family) -> tuple[str, ...]:
    """Return what recipes of one defense have in common."""
    norm = next((card["spec"].get("norm", "") for card in family.cards.values()), "")
    return family.dataset, family.defense, norm


def _setting(family: Family, group: Sequence[Family], cards: dict[str, Card]) -> str:
    if len(group) == 1:
        return family.setting
    known = [identity(next(iter(other.cards.values()), None), cards) for other in group]
    own = identity(next(iter(family.cards.values()), None), cards)
    shown = ("model", "width", "training.epochs", "weights", "data")
    keys = [key for key in own if key not in shown and len({other.get(key) for other in known}) > 1]
    parts = [f"{key.split('.', 1)[-1]} {own[key]}" for key in keys[:4]]
    text = ", ".join(filter(None, [family.setting, *parts]))
    same = known.count(own) > 1
    return f"{text}, {family.id[:6]}".removeprefix(", ") if same else text
