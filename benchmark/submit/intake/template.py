"""The template folder of a submission."""

import json
from pathlib import Path

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.files import write_atomic
from robustness_bench.benchmark.submit.manifest.attack import AttackSubmission
from robustness_bench.benchmark.submit.manifest.defense import Submission
from robustness_bench.benchmark.submit.manifest.keys import MANIFEST, Sent

_TEMPLATES = Path(__file__).parent / "templates"
_ARCHITECTURE = 'architecture = ""'
_HEAD = """# {} Fill in every empty value; `bench submit check` says what is missing.
# This file is read as data only. Lines that begin with # are for you and may be deleted."""
_DEFENSE = _HEAD.format("A defense for the leaderboard.")
_ATTACK = _HEAD.format("An attack on the listed defenses.") + '\nkind = "attack"'
_SECTIONS = {
    "threat": ["# The threat model of the claims."],
    "model": [],
    "data": ["# Training images beyond the data set's own, each counted once."],
    "attack": ["# These values fit the template's attack.py: change them with it."],
}
_CLAIMS = """
# Accuracies in %, on all test images.
[claimed]
# Without an attack.
natural = ""
# Under AutoAttack at eps.
aa = ""
# Others by the names of `bench list attacks`, without the #:
# pgd-40 = 52.1
"""


def write_template(folder: Path, *, own: bool = False, attack: bool = False) -> list[Path]:
    """Write submission.toml and its code; return the written files.

    Args:
        own: for a defense with its own architecture, also write a model.py.
        attack: for an attack, write an attack.py.

    Raises:
        BenchError: the folder is not empty, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise BenchError(f"{folder} is a file; name a folder that is empty or does not exist")
    if folder.is_dir() and any(folder.iterdir()):
        raise BenchError(f"{folder} is not empty and stays as it is; name a folder that does not exist")
    contents = _attack() if attack else _defense(own)
    for name, text in contents.items():
        write_atomic(folder / name, text.encode())
    return [folder / name for name in contents]


def _defense(own: bool) -> dict[str, str]:
    manifest = _manifest(Submission, _DEFENSE) + _CLAIMS
    if not own:
        return {MANIFEST: manifest}
    return {MANIFEST: manifest.replace(_ARCHITECTURE, 'architecture = "own"'), "model.py": _read("model.py")}


def _attack() -> dict[str, str]:
    return {MANIFEST: _manifest(AttackSubmission, _ATTACK), "attack.py": _read("attack.py")}


def _manifest(model: type[Sent], head: str) -> str:
    """Return a manifest to fill in: each field with its comment and the value to start from."""
    lines, section = [head, ""], ""
    for name, field in model.model_fields.items():
        if name == "claimed":
            continue
        if (own := model.prefix(name)[:-1]) != section:
            section = own
            lines += ["", *_SECTIONS[own], f"[{own}]"]
        lines += [f"# {field.description}"] if field.description else []
        lines.append(f"{name} = {json.dumps(model.WRITTEN.get(name, ''))}")
    return "\n".join(lines) + "\n"


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
