"""The folder a submission begins with."""

from pathlib import Path

from benchmark.atomic import write_atomic
from benchmark.errors import BenchError

_TEMPLATES = Path(__file__).parent / "templates"
_ARCHITECTURE = 'architecture = ""'


def write_template(folder: Path, *, own: bool) -> list[Path]:
    """Write submission.toml and, for an architecture of one's own, model.py; the files written.

    Raises:
        BenchError: something is in the folder, or it is none.
    """
    if folder.exists() and not folder.is_dir():
        raise BenchError(f"{folder} is a file; name a folder that is empty or does not exist")
    if folder.is_dir() and any(folder.iterdir()):
        raise BenchError(f"{folder} is not empty and stays as it is; name a folder that does not exist")
    manifest = _read("submission.toml")
    contents = {"submission.toml": manifest}
    if own:
        contents["submission.toml"] = manifest.replace(_ARCHITECTURE, 'architecture = "own"')
        contents["model.py"] = _read("model.py")
    for name, text in contents.items():
        write_atomic(folder / name, text.encode())
    return [folder / name for name in contents]


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
