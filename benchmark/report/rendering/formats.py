"""A table as text, HTML, LaTeX and GitHub Markdown: pure functions that decide nothing."""

import math
import re
import textwrap
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.report.rendering.table import Cell, Note, Row, Table

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
    "≈": r"$\approx$",
    "≠": r"$\neq$",
    "−": "$-$",
    "κ": r"$\kappa$",
    "–": "--",
    "×": r"$\times$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
_PAGE = 21  # rows that fit on a page of LaTeX, with a caption and notes
_KNOWN_TO_LATEX = "…—‘’“”"  # besides Latin-1 letters
_INLINE = re.compile(r"([\\`*_\[\]#|~$])")
_AT_START = re.compile(r"^([-+=]|\d+(?=[.)]))")


def latex_escape(text: str) -> str:
    """Escape text for LaTeX; a character that pdflatex cannot set becomes a question mark."""
    return "".join(_LATEX.get(character) or _settable(character) for character in text)


def _settable(character: str) -> str:
    if character.isascii() or character in _KNOWN_TO_LATEX:
        return character
    return character if character.isalpha() and ord(character) < 0x100 else "?"


def latex_label(name: str) -> str:
    r"""Return a name that \label accepts: other characters are replaced, and a hash keeps names distinct."""
    clean = re.sub(r"[^A-Za-z0-9:._-]", "-", name)
    return clean if clean == name else f"{clean}-{short_hash(name)[:6]}"


def to_text(table: Table) -> str:
    """Render for the terminal: one block per column group, the best of a column between asterisks."""
    blocks, start = [f"{table.title}\n{table.caption}"], 0
    for group, width in table.groups():
        blocks.append(_block(table, group, slice(start, start + width)))
        start += width
    if table.notes:
        blocks.append("\n".join(_note(note) for note in table.notes))
    return "\n\n".join(blocks) + "\n"


def _note(note: Note) -> str:
    """Return the note wrapped, except for a command, which must stay on one line."""
    mark = f"[{note.mark}] " if note.mark else ""
    text = textwrap.fill(mark + note.text, 100)
    return f"{text}\n  {note.command}" if note.command else text


def _block(table: Table, group: str, part: slice) -> str:
    corner = group if table.heading == Table.heading else f"{table.heading} · {group}"
    head = [corner, *(column.label for column in table.columns[part])]
    body = [
        ["  " * row.minor + row.label, *(_marked(cell) for cell in row.cells[part])] for row in table.rows
    ]
    widths = [max(len(line[index]) for line in [head, *body]) for index in range(len(head))]
    rule = "─" * (sum(widths) + 2 * len(widths) - 2)
    lines = [_aligned(head, widths), rule]
    for texts, (row, ruled, opens) in zip(body, table.ruled(), strict=True):
        lines += [rule] if ruled else []
        lines += [row.block, rule] if opens else []
        lines.append(_aligned(texts, widths))
    return "\n".join(lines)


def _marked(cell: Cell) -> str:
    text = f"*{cell.text}*" if cell.best else f"{cell.text} "
    return f"{text}[{','.join(cell.marks)}]" if cell.marks else text


def _aligned(line: list[str], widths: list[int]) -> str:
    first, *rest = line
    cells = [text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)]
    return "  ".join([first.ljust(widths[0]), *cells]).rstrip()


def to_html(table: Table) -> str:
    """Render a whole page without outside resources; everything in it is escaped."""
    starts = [
        number > 0 and table.columns[number - 1].group != c.group for number, c in enumerate(table.columns)
    ]
    return str(_template(f"{table.template}.html.j2").render(table=table, starts=starts)) + "\n"


def to_latex(table: Table) -> str:
    """Render a booktabs float, two columns wide, for \\input; needs \\usepackage{booktabs,graphicx}."""
    made = _template(f"{table.template}.tex.j2").render(
        table=table, rules=_column_rules(table), floats=_floats(table)
    )
    return f"{made}\n"


def _floats(table: Table) -> list[list[Row]]:
    """Put all rows in one float; if there are many or some have subrows, in one or more floats per block."""
    if len(table.rows) <= _PAGE and not any(row.minor for row in table.rows):
        return [list(table.rows)]
    blocks = [list(rows) for _, rows in groupby(table.rows, key=lambda row: row.block)]
    return [part for block in blocks for part in _parts(block)]


def _parts(rows: list[Row]) -> list[list[Row]]:
    """Split into as few parts as fit on a page each, of similar length; a row stays with its subrows."""
    starts = [index for index, row in enumerate(rows) if not row.minor]
    length = len(rows) / math.ceil(len(rows) / _PAGE)
    parts: list[list[Row]] = []
    for start, end in pairwise([*starts, len(rows)]):
        if not parts or len(parts[-1]) >= length:
            parts.append([])
        parts[-1] += rows[start:end]
    return parts


def _column_rules(table: Table) -> str:
    rules, start = [], 2
    for _, width in table.groups():
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    return " ".join(rules)


def templates(folder: Path, **settings: Any) -> Any:
    """Return jinja2's environment for the templates of a folder; an undefined name is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **settings,
    )


@cache
def _template(name: str) -> Any:
    latex = name.endswith(".tex.j2")
    marks = {
        "block_start_string": "<%",
        "block_end_string": "%>",
        "variable_start_string": "<<",
        "variable_end_string": ">>",
        "comment_start_string": "<#",
        "comment_end_string": "#>",
    }
    folder = Path(__file__).parent / "templates"
    environment = templates(folder, autoescape=not latex, **(marks if latex else {}))
    environment.filters["tex"] = latex_escape
    environment.filters["label"] = latex_label
    environment.filters["oneline"] = lambda text: " ".join(text.split())
    return environment.get_template(name)


def markdown_escape(text: str) -> str:
    """Escape text for Markdown, on one line; not for a line's start."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _INLINE.sub(r"\\\1", text)


def _paragraph(text: str) -> str:
    """Escape text for a line's start, where a dash or a number would begin a list."""
    return _AT_START.sub(lambda found: f"&#{ord(found[0][0])};{found[0][1:]}", markdown_escape(text))


def to_markdown(table: Table) -> str:
    """Render heading, caption, table and notes; an empty row represents a rule between groups."""
    head = [f"{markdown_escape(c.label)}<br>{markdown_escape(c.group)}" for c in table.columns]
    lines = [_line([markdown_escape(table.heading), *head]), _line([":--", *["--:"] * len(head)])]
    for row, ruled, opens in table.ruled():
        if ruled:
            lines.append(_line([""] * (len(head) + 1)))
        if opens:
            lines.append(_line([f"**{markdown_escape(row.block)}**", *[""] * len(head)]))
        lines.append(_line([_label(row), *map(_cell, row.cells)]))
    parts = [f"### {markdown_escape(table.title)}", _paragraph(table.caption), "\n".join(lines)]
    return "\n\n".join([*parts, *map(_markdown_note, table.notes)]) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _label(row: Row) -> str:
    return f"<sub>{markdown_escape(row.label)}</sub>" if row.minor else markdown_escape(row.label)


def _cell(cell: Cell) -> str:
    text = markdown_escape(cell.text)
    text = f"**{text}**" if cell.best else text
    return f"{text}<sup>{','.join(cell.marks)}</sup>" if cell.marks else text


def _markdown_note(note: Note) -> str:
    mark = f"<sup>{note.mark}</sup> " if note.mark else ""
    text = mark + (markdown_escape(note.text) if mark else _paragraph(note.text))
    return f"{text}\n\n{_code(note.command)}" if note.command else text


def _code(command: str) -> str:
    """Return a command in a code fence longer than any run of backticks in it."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", command)), 0)
    return f"{fence}console\n$ {' '.join(command.split())}\n{fence}"
