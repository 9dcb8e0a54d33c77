"""Tensors that are kept, and their cards: safetensors, and JSON with their hash. Never a pickle."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness_bench.benchmark.context import Context, environment
from robustness_bench.benchmark.data import Located
from robustness_bench.benchmark.files import (
    check_format,
    file_hash,
    read_sealed,
    reading,
    write_atomic,
    write_sealed,
)
from robustness_bench.benchmark.plan.tasks import Task

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
Card = dict[str, Any]


def card_of(path: Path) -> Path:
    """Return the path of the card beside tensors. It is written last: if it exists, both are complete."""
    return path.with_suffix(".json")


def write_card(path: Path, sha256: str, card: Card) -> None:
    """Write the card of the tensors at ``path``, whose hash is ``sha256``."""
    write_sealed(card_of(path), {"format": FORMAT, "sha256": sha256, **card})


def read_card(path: Path) -> Card:
    """Read the card of the tensors at ``path``; StoreError if unreadable, altered or of another format."""
    card = read_sealed(card_of(path), remedy(path))
    check_format(card_of(path), card.get("format"), FORMAT)
    return card


def find_model(store: Path, identity: str, family: str, data: Located) -> Task | None:
    """Return the task whose tensors a store has under this id, from their card; without its parents."""
    for card_file in sorted(store.glob(f"checkpoints/*/*-{identity}.json")):
        path = card_file.with_suffix(".safetensors")
        if path.is_file():
            card = read_card(path)
            return Task(
                kind=card["spec"]["kind"],
                title=path.stem,
                spec=card["spec"],
                seed=card["seed"],
                id=identity,
                family=family,
                path=path.relative_to(store),
                data=data,
            )
    return None


def is_kept(path: Path, task: Task) -> bool:
    """Return whether a store has tensors and their card.

    A card alone says how something was trained, but other tasks cannot use it.
    """
    return path.is_file() and card_of(path).is_file()


def remedy(path: Path) -> str:
    """Return the remedy for damaged tensors or a damaged card."""
    stem = path.with_suffix("")
    return f"delete {stem}.safetensors and {stem}.json and run the same command again to make them anew"


def card_for(task: Task, context: Context, started: float, **found: Any) -> Card:
    """Return the card of a finished task: what it is, its ``circumstances``, and what was ``found``."""
    own = {"id": task.id, "seed": task.seed, "spec": task.spec}
    return {**own, **found, **circumstances(task, context, started)}


def circumstances(task: Task, context: Context, started: float) -> dict[str, Any]:
    """Return how a result was made, which has no influence on it: ``environment`` and ``seconds``.

    Args:
        started: of the clock ``time.monotonic``.
    """
    return {"environment": environment_of(task, context), "seconds": round(time.monotonic() - started, 3)}


def environment_of(task: Task, context: Context) -> dict[str, Any]:
    """Return where and by which command a result is made, and how the given weights that it is of are run."""
    facts, model = dict(environment(context.device)), task.parents.get("model")
    facts["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    facts |= {key: each for key in ("command", "protocol") if (each := getattr(context, key))}
    if model is None or not model.how.given or not card_of(context.out / model.path).is_file():
        return facts
    reading = read_card(context.out / model.path).get("reading")
    return facts if reading is None else {**facts, "input": reading["note"]}


def keep(task: Task, context: Context, started: float, tensors: "dict[str, Tensor]", **found: Any) -> None:
    """Write the tensors that a task made, and its card (``card_for``)."""
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
