"""A table as text, HTML and LaTeX: pure functions that decide nothing."""

from functools import cache
from pathlib import Path
from typing import Any

from benchmark.report.table import Cell, Table

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "ε": r"$\varepsilon$",
    "λ": r"$\lambda$",
    "≤": r"$\leq$",
    "–": "--",
    "×": r"$\times$",
}


def latex_escape(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_LATEX.get(character, character) for character in text)


def to_text(table: Table) -> str:
    """For the terminal: one block per column group, the best of a column between asterisks."""
    blocks, start = [f"{table.title}\n{table.caption}"], 0
    for group, width in table.groups():
        blocks.append(_block(table, group, slice(start, start + width)))
        start += width
    return "\n\n".join(blocks) + "\n"


def _block(table: Table, group: str, part: slice) -> str:
    head = [group, *(column.label for column in table.columns[part])]
    body = [[row.label, *(_marked(cell) for cell in row.cells[part])] for row in table.rows]
    widths = [max(len(line[index]) for line in [head, *body]) for index in range(len(head))]
    rule = "─" * (sum(widths) + 2 * len(widths) - 2)
    lines = [_aligned(head, widths), rule]
    for index, row in enumerate(table.rows):
        if index and row.group != table.rows[index - 1].group:
            lines.append(rule)
        lines.append(_aligned(body[index], widths))
    return "\n".join(lines)


def _marked(cell: Cell) -> str:
    return f"*{cell.text}*" if cell.best else f"{cell.text} "


def _aligned(line: list[str], widths: list[int]) -> str:
    first, *rest = line
    cells = [text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)]
    return "  ".join([first.ljust(widths[0]), *cells]).rstrip()


def to_html(table: Table) -> str:
    """A whole page without any outside resource; everything in it is escaped."""
    starts = [
        number > 0 and table.columns[number - 1].group != c.group for number, c in enumerate(table.columns)
    ]
    return str(_template("table.html.j2").render(table=table, starts=starts)) + "\n"


def to_latex(table: Table) -> str:
    """A booktabs float, two columns wide, to be \\input; needs \\usepackage{booktabs,graphicx}."""
    return str(_template("table.tex.j2").render(table=table, rules=_column_rules(table))) + "\n"


def _column_rules(table: Table) -> str:
    rules, start = [], 2
    for _, width in table.groups():
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    return " ".join(rules)


@cache
def _template(name: str) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    latex = name.endswith(".tex.j2")
    marks = {
        "block_start_string": "<%",
        "block_end_string": "%>",
        "variable_start_string": "<<",
        "variable_end_string": ">>",
        "comment_start_string": "<#",
        "comment_end_string": "#>",
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=not latex,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **(marks if latex else {}),  # type: ignore[arg-type]
    )
    environment.filters["tex"] = latex_escape
    return environment.get_template(name)
