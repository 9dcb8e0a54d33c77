"""Move the damaged files of a folder of results aside: `bench mend`."""

import zipfile
import zlib
from contextlib import nullcontext
from pathlib import Path

from safetensors import SafetensorError, safe_open

from robustness_bench.benchmark.errors import StoreError
from robustness_bench.benchmark.exchange.checking import check_together, look_over
from robustness_bench.benchmark.exchange.layout import companions_of, owner_of
from robustness_bench.benchmark.exchange.sources import Folder, given
from robustness_bench.benchmark.store.folder import locked

ASIDE = "damaged"
"""The folder below a store for its damaged files, at their old paths; no result is read from it."""


def mend(out: Path, *, dry_run: bool = False) -> tuple[int, dict[str, str], set[str]]:
    """Read every file of the store ``out``, and move damaged ones to ``out/damaged``.

    A result moves with all that was written with it (weights with their card, a record with its images),
    because a run makes them together, and only if the result is absent.

    Args:
        dry_run: only report.

    Returns:
        The number of files; name -> what is wrong, for damaged files; the names of all files to move.

    Raises:
        StoreError: there are no results, another run is writing, or whole files contradict each other.
    """
    given(out)  # a mistyped folder is refused before it is made
    with nullcontext() if dry_run else locked(out):
        folder = given(out)
        contents, faults = look_over(folder)
        unfinished = _damaged_partials(out)
        broken = {owner_of(name) or name for name in faults}
        check_together(folder, {name: facts for name, facts in contents.items() if name not in broken})
        moved = {each for name in broken for each in (name, *companions_of(name)) if (out / each).is_file()}
        moved |= unfinished.keys()
        if not dry_run:
            for half in out.rglob(".*.tmp"):  # of a killed write; its file is whole or absent
                half.unlink()
            # A result is there as long as its owner is: that goes last, so that a killed move is begun anew.
            for name in sorted(moved, key=lambda each: not owner_of(each)):
                _move_aside(out, name)
    told = {name: str(error).partition("; ")[0] for name, error in (faults | unfinished).items()}
    return len(folder.names), told, moved


def _damaged_partials(out: Path) -> dict[str, StoreError]:
    """Return the unreadable states of tasks that were killed, by name."""
    faults = {}
    for path in sorted(out.rglob("*.partial")):
        if path.relative_to(out).parts[0] == ASIDE:
            continue
        try:
            _read_through(path)
        except (SafetensorError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            name = path.relative_to(out).as_posix()
            faults[name] = Folder(out).refusal(name, f"is damaged ({error})")
    return faults


def _read_through(path: Path) -> None:
    """Read the state of a training (tensors) or of an attack (arrays in a zip file)."""
    if path.parts[-3] == "checkpoints":
        with safe_open(path, "numpy"):
            return
    with zipfile.ZipFile(path) as file:
        if file.testzip():
            raise zipfile.BadZipFile("checksums differ")


def _move_aside(out: Path, name: str) -> None:
    target = out / ASIDE / name
    target.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while target.exists():
        number += 1
        target = out / ASIDE / f"{name}.{number}"
    (out / name).rename(target)
