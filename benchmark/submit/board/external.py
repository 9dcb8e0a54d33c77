"""Rows that others published: kept beside the results, marked, never ranked with what was measured here."""

from dataclasses import asdict, dataclass
from pathlib import Path

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.files import read_json, reading, write_json

FORMAT = 1
_REMEDY = "delete it and import it again"


@dataclass(frozen=True, kw_only=True)
class ExternalRow:
    """A published evaluation. Accuracies in %; texts are plain; authors, link and venue may be empty."""

    slug: str
    name: str
    authors: str
    link: str
    venue: str
    architecture: str
    dataset: str
    norm: str
    eps: float
    clean: float
    aa: float
    reported: float | None
    """By the authors."""
    external: float | None
    """The lowest that anybody has shown, where that is not AutoAttack's."""
    unreliable: bool | None
    """Whether AutoAttack is potentially unreliable on it; None: not said."""
    extra_data: bool | None
    forward_passes: int
    footnote: str


def write_external(out: Path, row: ExternalRow) -> Path:
    """Keep a row in a folder of results; the file it is in.

    Raises:
        BenchError: another row has its place.
        StoreError: not writable.
    """
    path = out / "external" / row.dataset / row.norm / f"{row.slug}.json"
    told = {"format": FORMAT, "kind": "external", "verified": False, "source": "RobustBench model_info"}
    card = {**told, **asdict(row)}
    if path.exists() and read_json(path, _REMEDY) != card:
        raise BenchError(f"{path} holds another row of this name; delete it to replace it")
    write_json(path, card)
    return path


def read_external(out: Path) -> list[ExternalRow]:
    """Every external row of a folder of results, by data set, norm and slug.

    Raises:
        StoreError: a file is damaged; names it.
    """
    return [read_row(path) for path in sorted((out / "external").glob("*/*/*.json"))]


def read_row(path: Path) -> ExternalRow:
    """One external row.

    Raises:
        StoreError: the file is damaged; names it.
    """
    card = read_json(path, _REMEDY)
    with reading(path, _REMEDY):
        if (card.pop("format"), card.pop("kind"), card.pop("verified")) != (FORMAT, "external", False):
            raise ValueError("not an external row of this format")
        del card["source"]
        return ExternalRow(**card)
