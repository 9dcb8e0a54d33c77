"""RobustBench's ``model_info`` as external rows: Croce et al. 2021, https://arxiv.org/abs/2010.09670.

Measured by others elsewhere: shown with a mark, never ranked with rows measured here.
"""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.models import Strict, problems, shown
from robustness_bench.benchmark.submit.board.external import ExternalRow
from robustness_bench.benchmark.submit.manifest.text import Eps, Link, percentage, plain, slug_of, text

_NORMS = ("linf", "l2")
_DATASETS = ("cifar10", "cifar100", "imagenet")
_LARGEST = 64 * 1024


def _accuracy(value: object) -> float:
    """Parse an accuracy: RobustBench writes numbers as text, but others' files may not."""
    if isinstance(value, str):
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", value.strip()):
            raise ValueError(f"must be a number in %, got {shown(value)}")
        value = float(value)
    return percentage(value)


def _venue(value: object) -> str:
    """Join lines: a venue is sometimes written on two."""
    return plain(re.sub(r"\s*<br\s*/?>\s*", " ", value) if isinstance(value, str) else value, 80)


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


Accuracy = Annotated[float, BeforeValidator(_accuracy)]


class ModelInfo(Strict):
    """One file's keys; what is empty or null counts as left out."""

    name: Annotated[str, text(200)]
    dataset: Literal["cifar10", "cifar100", "imagenet"]
    architecture: Annotated[str, text(120)]
    eps: Eps
    clean_acc: Accuracy
    autoattack_acc: Accuracy
    authors: Annotated[str, text(500)] = ""
    link: Link = ""
    venue: Annotated[str, BeforeValidator(_venue)] = ""
    additional_data: bool | None = None
    number_forward_passes: Annotated[int, Field(ge=1, le=100_000)] = 1
    reported: Accuracy | None = None
    external: Accuracy | None = None
    unreliable: bool | None = None
    footnote: Annotated[str, BeforeValidator(_footnote)] = ""

    @model_validator(mode="after")
    def _consistent(self) -> "ModelInfo":
        if self.autoattack_acc > self.clean_acc:
            raise ValueError(f"autoattack_acc {self.autoattack_acc:g} is above clean_acc {self.clean_acc:g}")
        if self.external is not None and self.external > self.autoattack_acc:
            raise ValueError(f"external {self.external:g} is above autoattack_acc {self.autoattack_acc:g}")
        return self


def read_model_info(path: Path, norm: str = "") -> ExternalRow:
    """Return the row of one file; the norm, unless given, is the name of its folder.

    Raises:
        BenchError: it is unreadable, or not in RobustBench's format; all reasons on one line.
    """
    tree, folder = _tree(path), path.absolute().parent
    told = []
    if (norm := norm or folder.name.lower()) not in _NORMS:
        told.append("the norm is not known: put the file into a folder Linf or L2, or pass --norm")
    try:
        info = ModelInfo.model_validate({key: each for key, each in tree.items() if each not in (None, "")})
    except ValidationError as error:
        told = [*problems(error, ModelInfo, lambda loc: ""), *told]
    else:
        if folder.parent.name in _DATASETS and folder.parent.name != info.dataset:
            told.append(
                f"dataset {info.dataset} is not the folder's, {folder.parent.name}: fix it or move it"
            )
    if told:
        raise BenchError(f"{path}: {'; '.join(told)}")
    return ExternalRow(
        slug=slug_of(path.stem),
        norm=norm,
        clean=info.clean_acc,
        aa=info.autoattack_acc,
        extra_data=info.additional_data,
        forward_passes=info.number_forward_passes,
        **info.model_dump(include=set(ExternalRow.model_fields) & set(ModelInfo.model_fields)),
    )


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
