"""Submissions on the pages: claims next to measurements, and rows that others published."""

from collections.abc import Iterator
from typing import NamedTuple

from robustness_bench.benchmark.report.lines.worst_case import NAME as WORST
from robustness_bench.benchmark.site.contents import names
from robustness_bench.benchmark.site.contents.boards import Board, Row
from robustness_bench.benchmark.site.contents.reading import Found
from robustness_bench.benchmark.store.cells import Record
from robustness_bench.benchmark.submit.board.external import ExternalRow
from robustness_bench.benchmark.submit.board.standing import Standing, standing


class Credit(NamedTuple):
    """Who submitted a record's images, as the record says."""

    name: str
    authors: str
    link: str
    """Empty unless it is an http or https address."""
    fooled: int
    """Number of its images that fool the model inside ε."""


def credit_of(record: Record) -> Credit:
    """Read the credit from a record of any origin, so nothing in it is trusted."""
    told = record.spec["parameters"]
    link = str(told.get("link", ""))
    authors = ", ".join(map(str, told.get("authors", ())))
    safe = link if link.startswith(("http://", "https://")) else ""
    fooled = int((record.clean & ~record.robust).sum())
    return Credit(str(told.get("name", "")), authors, safe, fooled)


def unranked(found: Found) -> dict[str, str]:
    """Return submission -> why it is not ranked: the full protocol has not run."""
    earned = {defense: standing(entry, found.records) for defense, entry in found.entries.items()}
    return {defense: _partial(each) for defense, each in earned.items() if each.status != "verified"}


def _partial(earned: Standing) -> str:
    lacking = f", without {', '.join(earned.missing)}" if earned.missing else f", {earned.images} images"
    return f"submission only partly measured{lacking}"


def status_of(row: Row, found: Found) -> list[str]:
    """Return a board's remarks on a row, besides what the row lacks."""
    said = []
    if row.defense in found.entries:
        earned = standing(found.entries[row.defense], found.records)
        claimed = found.entries[row.defense].submission.claimed.get("aa")
        measured = earned.measured.get("aa")
        said.append("submitted, verified" if earned.status == "verified" else "submitted, not verified")
        if claimed is not None and measured is not None:
            said.append(f"AA claimed {claimed:.1f}, measured {measured:.1f}")
    if row.sent:
        by = sorted({credit_of(record).name for record in row.sent})
        said.append(f"worst case includes submitted images: {', '.join(by)}")
    return said


def told(defense: str, found: Found) -> list[tuple[str, str]]:
    """Return a submission's own statements, with measurements next to its claims; empty for others."""
    return list(_told(defense, found)) if defense in found.entries else []


def _told(defense: str, found: Found) -> Iterator[tuple[str, str]]:
    entry = found.entries[defense]
    sent, earned = entry.submission, standing(entry, found.records)
    yield "standing", earned.status
    yield "authors", ", ".join(sent.authors)
    yield "code", sent.code
    yield "licence", sent.licence
    yield "architecture", sent.architecture
    yield "forward passes", str(sent.forward_passes)
    yield "real images beyond the data set", names.thousands(sent.real)
    yield "synthetic images", names.thousands(sent.synthetic)
    for attack, accuracy in sorted(sent.claimed.items()):
        measured = earned.measured.get("none" if attack == "natural" else attack)
        here = "not measured here" if measured is None else f"measured here {measured:.1f} %"
        yield f"claimed, {attack}", f"{accuracy:g} %, {here}"
    if WORST in earned.measured:
        yield "worst case, measured", f"{earned.measured[WORST]:.1f} %"
    yield "notes", sent.notes


def external(board: Board, found: Found) -> list[ExternalRow]:
    """Return published rows for a board's threat model, best first; never ranked with measured rows."""
    if board.threat != "white":
        return []
    own = [
        row
        for row in found.external
        if (row.dataset, row.norm) == (board.dataset, board.norm) and abs(row.eps - board.eps) < 1e-3
    ]
    return sorted(own, key=lambda row: (-(row.aa if row.external is None else row.external), row.slug))
