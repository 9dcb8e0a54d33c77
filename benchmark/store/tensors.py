"""Tensors that are kept: safetensors plus a card with their hash. Never a pickle."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.files import file_hash, reading, write_atomic
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.benchmark.store.cards import card_for, read_card, remedy, write_card

if TYPE_CHECKING:
    from torch import Tensor


def keep(task: Task, context: Context, started: float, tensors: "dict[str, Tensor]", **found: Any) -> None:
    """Write the tensors that a task made, and its card with what else was ``found``.

    Args:
        started: of the clock ``time.monotonic``.
    """
    save_tensors(context.out / task.path, tensors, card_for(task, context, started, **found))


def save_tensors(path: Path, tensors: "dict[str, Tensor]", card: dict[str, Any]) -> None:
    """Write tensors and card; a reader that finds the card finds the tensors it describes."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(tensors))
    write_card(path, file_hash(path), card)


def verify(path: Path) -> None:
    """Raise StoreError unless the file is the one its card describes."""
    with reading(path, remedy(path)):
        expected, found = str(read_card(path)["sha256"]), file_hash(path)
        if found != expected:
            raise ValueError(f"SHA-256 {found[:12]}…, its card says {expected[:12]}…")


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """Read the tensors of a checkpoint, after checking their hash."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    verify(path)
    with reading(path, remedy(path), SafetensorError):
        return load(path.read_bytes())
