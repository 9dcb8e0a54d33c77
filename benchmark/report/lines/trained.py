"""How models were trained, from their cards: epochs of which images, and learning curves."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from robustness_bench.benchmark.grouping import grouped
from robustness_bench.benchmark.report.rendering.csv import csv_text
from robustness_bench.benchmark.report.rendering.wording import count
from robustness_bench.benchmark.store.cards import read_card

_SHARED = ("lr", "gradient_norm", "seconds", "images_per_second")
COLUMNS = ("dataset", "training", "seed", "epoch", "kept", *_SHARED, "held_out", "terms", "id")
UNKNOWN = "unknown"


def find_trainings(out: Path) -> list[Path]:
    """Return the checkpoints of all trainings, in a fixed order; their tensors may have been deleted."""
    cards = out.glob("checkpoints/*/*.json")
    return sorted(card.with_suffix(".safetensors") for card in cards)


def learning(checkpoints: Iterable[Path]) -> str:
    """Return CSV text.

    held_out: accuracies in percent (natural, pgd: under the training's own attack) or estimates of mutual
    information in nats, on held-out images; terms: loss terms, means over the epoch's steps.
    kept: whether the checkpoint is from this epoch.
    """
    cards = ((path, read_card(path)) for path in checkpoints)
    return csv_text(
        COLUMNS,
        (
            _epoch_row(path.stem.removesuffix(f"-{card['id']}"), card, number, entry)
            for path, card in cards
            for number, entry in enumerate(card.get("history", ()), start=1)
        ),
    )


def _epoch_row(training: str, card: dict[str, Any], number: int, entry: dict[str, float]) -> list[Any]:
    held = {n.removeprefix("held_out_"): v for n, v in entry.items() if n.startswith("held_out_")}
    terms = {n: v for n, v in entry.items() if n not in _SHARED and not n.startswith("held_out_")}
    return [
        *(card["spec"]["dataset"], training, card["seed"], number, number == card["epoch"]),
        *(f"{entry[name]:.6g}" for name in _SHARED),
        *(_joined(held), _joined(terms), card["id"]),
    ]


def _joined(values: dict[str, float]) -> str:
    return " ".join(f"{name}={value:.4f}" for name, value in values.items())


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
