"""The data for the page of a data set's detectors."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from robustness_bench.benchmark.report.detectors.tables import NOT_A_CLAIM
from robustness_bench.benchmark.report.literature.citations import references
from robustness_bench.benchmark.report.rendering.table import Cell
from robustness_bench.benchmark.site.contents.detectors import DetectorBoard
from robustness_bench.benchmark.site.contents.families import page_id
from robustness_bench.benchmark.site.drawing.charts import roc_charts, roc_note
from robustness_bench.benchmark.site.drawing.images import generated

_TITLES = {"worst": "At the worst κ", "kappa": "At every κ", "parts": "What each part of MagNet withstands"}


def context(board: DetectorBoard, boards: Sequence[DetectorBoard]) -> dict[str, Any]:
    """Return everything that ``detectors.html.j2`` needs."""
    tables = dict(board.tables)
    worst, roc = tables.pop("worst"), board.roc
    claims = any(cell.spec["setting"] in ("white", "grey") for cell in board.cells)
    return {
        "board": board,
        "others": [other for other in boards if other.dataset == board.dataset and other != board],
        "worst": worst,
        "tables": [(ident, _TITLES[ident], table) for ident, table in tables.items()],
        "warning": "" if claims else NOT_A_CLAIM,
        "cell": _cell,
        "charts": roc_charts(roc) if roc else [],
        "roc_note": roc_note(roc) if roc else "",
        "roc_remarks": roc.notes if roc else [],
        "generated": [
            (seed, page_id(name), generated(board.dataset, name, shown))
            for seed, name, shown in board.generated
        ],
        "downloads": list(board.downloads()),
        "bibtex": references(
            {cell.spec["system"] for cell in board.cells}, {cell.spec["attack"] for cell in board.cells}
        ),
    }


def _cell(cell: Cell, table: str) -> Markup:
    """Return a number, the text after its first space in small below it, and links to its notes."""
    figure, _, rest = cell.text.partition(" ")
    marks = "".join(f'<a href="#{table}-{escape(mark)}">{escape(mark)}</a>' for mark in cell.marks)
    noted = Markup(f"<sup>{marks}</sup>") if marks else Markup("")
    if cell.error:
        return Markup('<td class="n bad">{}{}</td>').format(figure, noted)
    small = Markup("<small>{}</small>").format(rest) if rest else Markup("")
    return Markup('<td class="n">{}{}{}</td>').format(figure, noted, small)
