"""A submitted attack to spoil: the template, filled in."""

from pathlib import Path

from robustness_bench.benchmark.submit.intake.template import write_template
from tests.benchmark.sandbox.hostile_attacks.failing import BODY, HEAD
from tests.benchmark.submit.submissions import write

FILLED = {
    "name": '"My PGD"',
    "authors": '["Ada Lovelace"]',
    "paper": '"https://example.org/paper"',
    "licence": '"MIT"',
    "contact": '"ada@example.org"',
    "description": '"Gradient ascent."',
}


def sent_in(folder: Path, body: str = "", **values: str) -> Path:
    """A folder with the template filled in; with a ``body`` its perturb() does that.

    Args:
        values: keys to set to a TOML value; an empty one deletes the line.
    """
    write_template(folder, attack=True)
    for key, value in {**FILLED, **values}.items():
        write(folder, key, value)
    if body:
        (folder / "attack.py").write_text(HEAD + BODY.format(body=body))
    return folder
