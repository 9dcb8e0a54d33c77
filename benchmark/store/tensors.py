"""Tensors that are kept: safetensors plus a JSON file with their hash. Never a pickle."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.files import file_hash, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1


def card_of(path: Path) -> Path:
    """The JSON file beside a checkpoint; it is written last, so it says that both are whole."""
    return path.with_suffix(".json")


def save_tensors(path: Path, tensors: "dict[str, Tensor]", card: dict[str, Any]) -> None:
    """Write tensors and card; a reader that finds the card finds the tensors it describes."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(tensors))
    card = {"format": FORMAT, "sha256": file_hash(path), **card}
    write_atomic(card_of(path), json.dumps(card, indent=1, sort_keys=True).encode())


def read_card(path: Path) -> dict[str, Any]:
    """The card of the checkpoint at ``path``.

    Raises:
        StoreError: unreadable or of another format.
    """
    try:
        card: dict[str, Any] = json.loads(card_of(path).read_text())
        if card["format"] != FORMAT:
            raise StoreError(f"{card_of(path)} has format {card['format']}, this is bench's format {FORMAT}")
        return card
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(card_of(path), str(error)) from error


def verify(path: Path) -> None:
    """Raise StoreError unless the file is the one its card describes."""
    expected = read_card(path)["sha256"]
    try:
        found = file_hash(path)
    except OSError as error:
        raise _damaged(path, str(error.strerror)) from error
    if found != expected:
        raise _damaged(path, f"SHA-256 {found[:12]}…, its card says {expected[:12]}…")


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """The tensors of a verified checkpoint."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    verify(path)
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> StoreError:
    stem = path.with_suffix("")
    return StoreError(
        f"{path} is damaged ({reason}); delete {stem}.safetensors and {stem}.json and run the same "
        "command again to make them anew"
    )
