"""How many epochs a model was trained on natural and on adversarial images, from its card."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.report.lines.learning import find_trainings
from robustness_bench.benchmark.report.rendering.wording import count
from robustness_bench.benchmark.store.cards import read_card

UNKNOWN = "unknown"


class Epochs(NamedTuple):
    """Epochs of one training, without those of mutual-information estimators."""

    natural: int
    adversarial: int

    def __str__(self) -> str:
        kinds = [f"{n} {kind}" for n, kind in zip(self, ("natural", "adversarial"), strict=True) if n]
        return f"{' and '.join(kinds) or '0'} {count(sum(self), 'epoch').split()[1]}"


Trained = Mapping[int, Epochs | None]
"""Seed -> its training; None if no card says."""


def epochs_of(card: Mapping[str, Any]) -> Epochs | None:
    """Count the epochs from a card's settings and learning curve; None without a curve, as for given weights.

    A training without a norm has only natural images; in any other, an epoch is natural if its loss was
    that of the warm-up.
    """
    history = card.get("history")
    if not history:
        return None
    if "norm" not in card["spec"]:
        return Epochs(len(history), 0)
    warm = sum("warm_up" in entry for entry in history)
    return Epochs(warm, len(history) - warm)


def trainings(out: Path) -> dict[str, Epochs]:
    """Return checkpoint id -> its epochs, for every card of a store that has them.

    Raises:
        StoreError: a card is damaged.
    """
    cards = (read_card(path) for path in find_trainings(out))
    return {str(card["id"]): epochs for card in cards if (epochs := epochs_of(card))}


def said(trained: Trained) -> str:
    """Return, e.g., "2 natural and 10 adversarial epochs", by seed if they differ; unknown without cards."""
    by_text = grouped(sorted(trained), lambda seed: str(trained[seed] or UNKNOWN))
    if len(by_text) <= 1:
        return next(iter(by_text), UNKNOWN)
    return ", ".join(f"{text} (seed {' '.join(map(str, seeds))})" for text, seeds in by_text.items())


def differ(first: Trained, second: Trained) -> bool:
    """Return whether both sides are known and were not all trained for the same epochs."""
    known = [set(side.values()) - {None} for side in (first, second)]
    return bool(known[0] and known[1]) and len(known[0] | known[1]) > 1


def column(trained: Trained, kind: int) -> str:
    """Return SEED:EPOCHS of one kind (0 natural, 1 adversarial) for a CSV column, if known."""
    return " ".join(
        f"{seed}:{UNKNOWN if epochs is None else epochs[kind]}" for seed, epochs in sorted(trained.items())
    )


def sentence(sides: Iterable[tuple[str, Trained]]) -> str:
    """Return each side's epochs in a sentence, without a full stop."""
    return "; ".join(f"{name} {said(trained)}" for name, trained in sides)
