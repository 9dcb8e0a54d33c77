"""Rows that others published: kept with the results, marked, never ranked with rows measured here."""

from pathlib import Path

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.files import read_json, reading, write_json
from robustness_bench.benchmark.models import Strict, checked
from robustness_bench.benchmark.submit.manifest.text import Percentage

FORMAT = 1
_REMEDY = "delete it and import it again"


class ExternalRow(Strict):
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
    clean: Percentage
    aa: Percentage
    reported: Percentage | None
    """Reported by the authors."""
    external: Percentage | None
    """The lowest accuracy that anybody has shown, if that is not AutoAttack's."""
    unreliable: bool | None
    """Whether AutoAttack is potentially unreliable on it; None if not stated."""
    extra_data: bool | None
    forward_passes: int
    footnote: str


def write_external(out: Path, row: ExternalRow) -> Path:
    """Store a row in a folder of results; return its file.

    Raises:
        BenchError: another row has its name.
        StoreError: the file cannot be written.
    """
    path = out / "external" / row.dataset / row.norm / f"{row.slug}.json"
    told = {"format": FORMAT, "kind": "external", "verified": False, "source": "RobustBench model_info"}
    card = {**told, **row.model_dump()}
    if path.exists() and read_json(path, _REMEDY) != card:
        raise BenchError(f"{path} holds another row of this name; delete it to replace it")
    write_json(path, card)
    return path


def read_external(out: Path) -> list[ExternalRow]:
    """Return every external row of a folder of results, by data set, norm and slug, as ``read_row`` does."""
    return [read_row(path) for path in sorted((out / "external").glob("*/*/*.json"))]


def read_row(path: Path) -> ExternalRow:
    """Read one external row; StoreError, which names the file, if it is damaged."""
    card = read_json(path, _REMEDY)
    with reading(path, _REMEDY):
        if (card.pop("format"), card.pop("kind"), card.pop("verified")) != (FORMAT, "external", False):
            raise ValueError("not an external row of this format")
        del card["source"]
        return checked(ExternalRow, card, kind=ValueError)
