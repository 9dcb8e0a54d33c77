"""Learning curves: one line of ``learning.csv`` per epoch of every training in a store."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from robustness_bench.benchmark.report.rendering.csv import to_csv
from robustness_bench.benchmark.store.cards import read_card

_SHARED = ("lr", "gradient_norm", "seconds", "images_per_second")
COLUMNS = ("dataset", "training", "seed", "epoch", "kept", *_SHARED, "held_out", "terms", "id")


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
    return to_csv(
        COLUMNS,
        (
            _row(path.stem.removesuffix(f"-{card['id']}"), card, number, entry)
            for path, card in cards
            for number, entry in enumerate(card.get("history", ()), start=1)
        ),
    )


def _row(training: str, card: dict[str, Any], number: int, entry: dict[str, float]) -> list[Any]:
    held = {n.removeprefix("held_out_"): v for n, v in entry.items() if n.startswith("held_out_")}
    terms = {n: v for n, v in entry.items() if n not in _SHARED and not n.startswith("held_out_")}
    return [
        *(card["spec"]["dataset"], training, card["seed"], number, number == card["epoch"]),
        *(f"{entry[name]:.6g}" for name in _SHARED),
        *(_joined(held), _joined(terms), card["id"]),
    ]


def _joined(values: dict[str, float]) -> str:
    return " ".join(f"{name}={value:.4f}" for name, value in values.items())
