"""Folders of images: which files are images, and in what order."""

from pathlib import Path

from robustness_bench.benchmark.errors import DataError

SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}
_CLUTTER = {"thumbs.db", "desktop.ini"}


def subfolders(place: Path) -> list[Path]:
    """Return the folders in a folder, by name, without hidden ones."""
    return sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def image_files(place: Path) -> list[Path]:
    """Return the images directly in a folder, by name; hidden files, texts and system files are ignored.

    Raises:
        DataError: another file.
    """
    found = []
    for path in sorted(place.iterdir()):
        passed = path.name.startswith(".") or path.name.lower() in _CLUTTER or path.suffix == ".txt"
        if passed or path.is_dir():
            continue
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path} is no image; remove it")
        found.append(path)
    return found
