"""RobustBench's ``model_info`` as external rows: Croce et al. 2021, https://arxiv.org/abs/2010.09670.

Measured by others elsewhere: shown with a mark, never ranked with rows measured here.
"""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from robustness_bench.benchmark.errors import BenchError, unknown
from robustness_bench.benchmark.submit.board.external import ExternalRow
from robustness_bench.benchmark.submit.manifest.text import fraction, link, percentage, plain, shown, slug_of

_NORMS = {"linf": "linf", "l2": "l2"}
_DATASETS = ("cifar10", "cifar100", "imagenet")
_LARGEST = 64 * 1024
_REQUIRED = ("name", "dataset", "architecture", "eps", "clean_acc", "autoattack_acc")
_OPTIONAL = (
    "authors",
    "link",
    "venue",
    "additional_data",
    "number_forward_passes",
    "reported",
    "external",
    "unreliable",
    "footnote",
)


def read_model_info(path: Path, norm: str = "") -> ExternalRow:
    """Return the row of one file; the norm, unless given, is the name of its folder.

    Raises:
        BenchError: it is unreadable, or not in RobustBench's format; all reasons on one line.
    """
    tree = _tree(path)
    problems: list[str] = []

    def value(key: str, parse: Callable[[Any], Any], default: Any = None) -> Any:
        if tree.get(key) in (None, "") and key not in _REQUIRED:
            return default
        try:
            return parse(tree[key])
        except KeyError:
            problems.append(f"{key} is missing")
        except ValueError as error:
            problems.append(f"{key} {error}")
        return default

    problems += [str(unknown("key", key[:60], (*_REQUIRED, *_OPTIONAL))) for key in _strange(tree)]
    row = ExternalRow(
        slug=slug_of(path.stem),
        name=value("name", _text(200)),
        authors=value("authors", _text(500), ""),
        link=value("link", link, ""),
        venue=value("venue", lambda text: plain(_broken_lines(text), 80), ""),
        architecture=value("architecture", _text(120)),
        dataset=value("dataset", _dataset(path)),
        norm=_norm(path, norm, problems),
        eps=value("eps", fraction),
        clean=value("clean_acc", _accuracy),
        aa=value("autoattack_acc", _accuracy),
        reported=value("reported", _accuracy),
        external=value("external", _accuracy),
        unreliable=value("unreliable", _truth),
        extra_data=value("additional_data", _truth),
        forward_passes=value("number_forward_passes", _count, 1),
        footnote=value("footnote", _footnote, ""),
    )
    if not problems:
        problems += _inconsistent(row)
    if problems:
        raise BenchError(f"{path}: {'; '.join(problems)}")
    return row


def _tree(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise BenchError(f"{path} is too large for a model_info file; check the path")
        tree = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(tree, dict):
        raise BenchError(f"{path} holds {shown(tree)}, not an object; it is no model_info file")
    if any(key.startswith("corruptions") for key in tree):
        raise BenchError(f"{path} is about common corruptions, not about a norm; it cannot be imported")
    return tree


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _strange(tree: dict[str, Any]) -> list[str]:
    return [ascii(key)[1:-1] for key in tree if key not in (*_REQUIRED, *_OPTIONAL)]


def _text(longest: int) -> Callable[[Any], str]:
    return lambda value: plain(value, longest)


def _broken_lines(value: Any) -> Any:
    """Join lines: a venue is sometimes written on two."""
    return re.sub(r"\s*<br\s*/?>\s*", " ", value) if isinstance(value, str) else value


def _accuracy(value: Any) -> float:
    """Parse an accuracy: RobustBench writes numbers as text, but others' files may not."""
    if isinstance(value, str):
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", value.strip()):
            raise ValueError(f"must be a number in %, got {shown(value)}")
        value = float(value)
    return percentage(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, got {shown(value)}")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 100_000:
        raise ValueError(f"must be a whole number from 1, got {shown(value)}")
    return value


def _dataset(path: Path) -> Callable[[Any], str]:
    folder = path.absolute().parent.parent.name

    def parse(value: Any) -> str:
        if value not in _DATASETS:
            raise ValueError(f"must be one of {', '.join(_DATASETS)}, got {shown(value)}")
        if folder in _DATASETS and folder != value:
            raise ValueError(f"{value} is not the folder's, {folder}: fix the file or move it")
        return str(value)

    return parse


def _norm(path: Path, norm: str, problems: list[str]) -> str:
    name = norm or path.absolute().parent.name.lower()
    if name not in _NORMS:
        problems.append("the norm is not known: put the file into a folder Linf or L2, or pass --norm")
    return name


class _Text(HTMLParser):
    """The text of a footnote without its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.parts.append(" " if tag == "br" else "")


def _footnote(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, got {shown(value)}")
    parser = _Text()
    parser.feed(value)
    parser.close()
    return plain(" ".join("".join(parser.parts).split()), 600)


def _inconsistent(row: ExternalRow) -> list[str]:
    found = []
    if row.aa > row.clean:
        found.append(f"autoattack_acc {row.aa:g} is above clean_acc {row.clean:g}")
    if row.external is not None and row.external > row.aa:
        found.append(f"external {row.external:g} is above autoattack_acc {row.aa:g}")
    return found
