"""Where the files of a store are, and which names are accepted from another machine."""

import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from robustness_bench.benchmark.plan.kinds import TASK_KINDS
from robustness_bench.benchmark.store.generated import SUFFIX as GENERATED


class Place(NamedTuple):
    """A folder of a store."""

    parts: int
    """Number of parts of a file's path, including its own name."""
    suffixes: tuple[str, ...]


_TENSORS = (".json", ".safetensors")
PLACES = {
    kind.folder: Place(kind.parts, _TENSORS if kind.suffix in _TENSORS[1:] else (kind.suffix,))
    for kind in TASK_KINDS.values()
} | {
    "checkpoints": Place(3, (*_TENSORS, GENERATED)),
    "evidence": Place(6, (".parquet",)),
    "examples": Place(6, (".safetensors",)),
    "external": Place(4, (".json",)),
    "protocols": Place(2, (".toml",)),
    "submissions": Place(2, (".json",)),
}
_LONGEST_PART, _LONGEST = 200, 600  # bytes
_STRANGE = re.compile(r"[^\w .+=@,()~/-]")


def owner_of(name: str) -> str:
    """Return the file that ``name`` belongs to (tensors to a card, images to a record or card), or ""."""
    if name.startswith("checkpoints/") and name.endswith(GENERATED):
        return f"{name.removesuffix(GENERATED)}.json"
    folder, _, rest = name.partition("/")
    stem, _, suffix = rest.rpartition(".")
    if folder in ("examples", "evidence"):
        return f"records/{stem}.parquet"
    return f"{folder}/{stem}.json" if suffix == "safetensors" else ""


def companions_of(name: str) -> list[str]:
    """Return all files that may belong to a file."""
    folder, _, rest = name.partition("/")
    stem = rest.rpartition(".")[0]
    if folder == "records":
        return [f"examples/{stem}.safetensors", f"evidence/{stem}.parquet"]
    if folder == "checkpoints":
        return [f"{folder}/{stem}.safetensors", f"{folder}/{stem}{GENERATED}"]
    return [f"{folder}/{stem}.safetensors"] if folder in ("crafted", "calibrations") else []


def finished(store: Path, *, weights: bool = True, images: bool = True) -> list[str]:
    """Return the finished results in a store, sorted, without files that are derived from results.

    A file with an owner is finished if the owner exists, because the owner is written last.

    Args:
        weights: include trained weights.
        images: include crafted images and evidence.
    """
    left_out = {
        ("checkpoints", ".safetensors"): not weights,
        ("crafted", ".safetensors"): not images,
        ("evidence", ".parquet"): not images,
    }
    found = []
    for folder, place in PLACES.items():
        for path in store.glob("/".join([folder, *["*"] * (place.parts - 1)])):
            name = path.relative_to(store).as_posix()
            hidden = any(part.startswith(".") for part in name.split("/"))
            owner = owner_of(name)
            if hidden or not name.endswith(place.suffixes) or not path.is_file():
                continue
            if not owner or (not left_out.get((folder, path.suffix)) and (store / owner).is_file()):
                found.append(name)
    return sorted(found)


def fault_of(name: str) -> str:
    """Return why a store cannot have a file of this name, or ""."""
    return _shape_fault(name) or _place_fault(name)


def _shape_fault(name: str) -> str:
    parts = name.split("/")
    if len(name.encode("utf-8", "replace")) > _LONGEST:
        return f"has a path of more than {_LONGEST} bytes"
    if any(len(part.encode("utf-8", "replace")) > _LONGEST_PART for part in parts):
        return f"has a name of more than {_LONGEST_PART} bytes"
    if name.startswith("/"):
        return "has an absolute path"
    if "\\" in name:
        return "has a backslash in its path"
    if re.match(r"[A-Za-z]:", name):
        return "has a drive letter in its path"
    if ".." in parts:
        return "has .. in its path"
    if name.endswith("/"):
        return "is a folder"
    if strange := _STRANGE.search(name):
        return f"has the character U+{ord(strange[0]):04X} in its name"
    if any(not part or part[0] in ". " or part[-1] in ". " for part in parts):
        return "has a part of its path that is empty, or begins or ends with a dot or space"
    if name != unicodedata.normalize("NFC", name):
        return "has characters in its name that are not in Unicode's composed form"
    return ""


def _place_fault(name: str) -> str:
    parts = name.split("/")
    place = PLACES.get(parts[0])
    if place is None:
        return f"is in none of the folders {', '.join(sorted(PLACES))}"
    if len(parts) != place.parts:
        return f"lies {len(parts) - 1} folders deep, files of {parts[0]}/ lie {place.parts - 1} deep"
    if not name.endswith(place.suffixes):
        return f"has another suffix than {' or '.join(place.suffixes)}"
    return ""
