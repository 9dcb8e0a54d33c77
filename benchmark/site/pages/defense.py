"""The data for the page of a defense."""

from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup, escape

from robustness_bench.benchmark.errors import last_line
from robustness_bench.benchmark.report.literature.citations import bibtex
from robustness_bench.benchmark.report.rendering.wording import NORM_SYMBOLS
from robustness_bench.benchmark.site.contents import names
from robustness_bench.benchmark.site.contents.boards import Board, Row
from robustness_bench.benchmark.site.contents.cells import Cell
from robustness_bench.benchmark.site.contents.families import Card, Family, identity, page_id
from robustness_bench.benchmark.site.contents.reproduce import Recipe
from robustness_bench.benchmark.site.contents.standings import credit_of
from robustness_bench.benchmark.site.drawing import charts, markup
from robustness_bench.benchmark.site.drawing.images import Sprite
from robustness_bench.benchmark.store.flags import FLAGS

Families = dict[str, Family]
Named = tuple[str, str, Sprite]
"""Caption, file name, picture."""


def context(
    family: Family,
    families: Families,
    cards: dict[str, Card],
    recipes: Sequence[Recipe],
    told: Sequence[tuple[str, str]],
    sprites: Sequence[tuple[str, list[Named]]],
) -> dict[str, Any]:
    """Return everything that ``defense.html.j2`` needs.

    Args:
        told: a submission's own statements.
        sprites: heading -> pictures.
    """
    shown = names.defense(family.defense)
    one = next(iter(family.cards.values()), None)
    siblings = [
        other
        for other in families.values()
        if (other.defense, other.dataset) == (family.defense, family.dataset) and other.id != family.id
    ]
    return {
        "family": family,
        "trained_norm": norm_of(family),
        "norm_of": norm_of,
        "source": shown.source,
        "paper": names.paper(shown.source),
        "bibtex": bibtex(shown.source),
        "siblings": siblings,
        "sent": told,
        "against": [
            (board, record, credit_of(record)) for board, row in family.places for record in row.sent
        ],
        "flag_texts": FLAGS,
        "where": {name: _where(family, name) for name in family.flags},
        "rank": markup.rank,
        "page_id": page_id,
        "cell_rows": cell_rows,
        "measures_distance": measures_distance,
        "record_rows": record_rows,
        "charts_eps": [*filter(None, (charts.robustness(family, board) for board in _threats(family)))],
        "charts_cost": [*filter(None, _cost_charts(family, families))],
        "learned": charts.learning(family),
        "sprites": sprites,
        "recipes": recipes,
        "settings": [(k, v) for k, v in sorted(identity(one, cards).items()) if not k.startswith("data")],
        "data_hashes": sorted({record.spec["data"] for record in family.records}),
        "environment": list(_environment(family)),
    }


def norm_of(family: Family) -> str:
    """Return the norm it was trained in, if its card says."""
    norm = next((card["spec"].get("norm", "") for card in family.cards.values()), "")
    return NORM_SYMBOLS.get(norm, norm)


def _threats(family: Family) -> list[Board]:
    """Return its boards, each threat model once whatever the set."""
    seen = {(b.data, b.images, b.norm, b.eps, b.threat): b for b, _ in reversed(family.places)}
    return [board for board, _ in family.places if board in seen.values()]


def _cost_charts(family: Family, families: Families) -> Iterator[charts.Chart | None]:
    for board, row in family.places:
        if board.threat == "white":  # black-box images are made once for all rows
            yield charts.training_cost(board, row, families)
            yield charts.attack_cost(board, row)


def _where(family: Family, flag: str) -> str:
    """Return the cells of a flag: only seeds, if the flag comes from the model's diagnosis."""
    diagnosed = [(record.seed, record.diagnosis) for record in family.records if record.diagnosis]
    own = sorted({seed for seed, diagnosis in diagnosed if flag in diagnosis.flags})
    if own:
        return f"seed {', '.join(map(str, own))}"
    of = {record.spec["attack"] for record in family.records if flag in family.raised.get(record.family, ())}
    return names.listed(sorted(names.attack(name).label for name in of))


def measures_distance(row: Row) -> bool:
    """Return whether an attack of the row is a minimum-norm attack."""
    kinds = {cell.records[0].spec["kind_of_attack"] for cell in row.cells.values()}
    return "minimum-norm" in kinds


def cell_rows(board: Board, row: Row) -> Markup:
    """Return a line per attack, the worst case last."""
    far = measures_distance(row)
    cells = [(column.label, row.cells.get(column.key)) for column in board.columns]
    lines = [_cell_row(label, cell, row.seeds, far) for label, cell in cells]
    return Markup("\n").join([*lines, _cell_row("Worst case", row.worst, row.seeds, far, "worst")])


def _cell_row(label: str, cell: Cell | None, seeds: Sequence[int], far: bool, kind: str = "") -> Markup:
    parts = [f'<tr class="{kind}"><th scope="row">{escape(label)}</th>']
    if cell is None or cell.figure is None:
        said = "ERROR: " + cell.error if cell and cell.error else "never run" if kind == "" else "–"
        parts.append(f'<td class="bad" colspan="{5 + far + len(seeds)}">{escape(said)}</td></tr>')
        return Markup("".join(parts))
    values = [cell.per_seed.get(seed) for seed in seeds]
    distance, passes = cell.median_distance() if far else None, cell.passes()
    audit = Markup(" <small>{}</small>").format(cell.audit) if cell.audit else ""
    parts += [
        f'<td class="n strong">{markup.figure(cell.figure)}{audit}</td>',
        f'<td class="n">{markup.interval(cell)}</td>',
        f'<td class="plotted">{markup.drawn(cell)}</td>',
        *(f'<td class="n">{"–" if value is None else f"{value:.1f}"}</td>' for value in values),
        *([f'<td class="n">{"" if distance is None else f"{distance:.4g}"}</td>'] if far else ()),
        *(f'<td class="n">{names.thousands(round(value))}</td>' for value in passes or ()),
        "</tr>" if passes else "<td></td><td></td></tr>",
    ]
    return Markup("".join(parts))


def record_rows(family: Family) -> Markup:
    """Return a line per record: id, cell, seconds, status."""
    lines = []
    for record in sorted(family.records, key=_place):
        spec = record.spec
        cell = f"{names.threat(spec['threat'])}, {spec['norm']}, ε = {spec['eps']:.4g}, {spec['attack']}"
        status = "ok" if record.status == "ok" else last_line(record.error)
        lines.append(
            f"<tr><th scope='row'><code>{escape(record.id)}</code></th>"
            f"<td>{escape(cell)}, seed {escape(record.seed)}</td>"
            f'<td class="n">{record.seconds:.1f}</td><td>{escape(status)}</td></tr>'
        )
    return Markup("\n".join(lines))


def _place(record: Any) -> tuple[Any, ...]:
    spec = record.spec
    order = names.attack(spec["attack"]).order
    return spec["threat"] != "white", spec["norm"], spec["eps"], order, spec["attack"], record.seed


def _environment(family: Family) -> Iterator[tuple[str, str]]:
    """Yield each environment key with all values in its records and trainings."""
    found: dict[str, set[str]] = {}
    trained = [card["environment"] for card in family.cards.values()]
    for environment in (*trained, *(record.environment for record in family.records)):
        for key, value in names.flattened(environment).items():
            if key not in ("command", "protocol"):  # they have a section of their own
                found.setdefault(key.removeprefix("packages."), set()).add(value)
    for key, values in sorted(found.items()):
        yield key, ", ".join(sorted(values))
