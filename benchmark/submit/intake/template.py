"""The template folder of a submission."""

from pathlib import Path

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.files import write_atomic

_TEMPLATES = Path(__file__).parent / "templates"
_ARCHITECTURE = 'architecture = ""'


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
    manifest = _read("submission.toml")
    if not own:
        return {"submission.toml": manifest}
    named = manifest.replace(_ARCHITECTURE, 'architecture = "own"')
    return {"submission.toml": named, "model.py": _read("model.py")}


def _attack() -> dict[str, str]:
    return {"submission.toml": _read("attack.toml"), "attack.py": _read("attack.py")}


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
