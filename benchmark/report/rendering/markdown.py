"""A table as GitHub Markdown."""

import re

from robustness_bench.benchmark.report.rendering.table import Cell, Note, Row, Table

_INLINE = re.compile(r"([\\`*_\[\]#|~$])")
_AT_START = re.compile(r"^([-+=]|\d+(?=[.)]))")


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
    return "\n\n".join([*parts, *map(_note, table.notes)]) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _label(row: Row) -> str:
    return f"<sub>{markdown_escape(row.label)}</sub>" if row.minor else markdown_escape(row.label)


def _cell(cell: Cell) -> str:
    text = markdown_escape(cell.text)
    text = f"**{text}**" if cell.best else text
    return f"{text}<sup>{','.join(cell.marks)}</sup>" if cell.marks else text


def _note(note: Note) -> str:
    mark = f"<sup>{note.mark}</sup> " if note.mark else ""
    text = mark + (markdown_escape(note.text) if mark else _paragraph(note.text))
    return f"{text}\n\n{_code(note.command)}" if note.command else text


def _code(command: str) -> str:
    """Return a command in a code fence longer than any run of backticks in it."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", command)), 0)
    return f"{fence}console\n$ {' '.join(command.split())}\n{fence}"
