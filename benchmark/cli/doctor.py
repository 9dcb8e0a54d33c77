"""`bench doctor`: what this machine has, and what to do about what it lacks."""

import dataclasses
import json
import textwrap
from itertools import groupby
from pathlib import Path

from robustness_bench.benchmark.cli.shared.labelled import DataDir, Json

_HEADINGS = {
    "machine": "Machine",
    "sandbox": "Sandbox of submitted code",
    "data": "Data sets",
    "parts": "Parts",
}
_WIDTH, _INDENT = 110, " " * 25


def doctor(data_dir: DataDir = Path("data"), as_json: Json = False) -> None:
    """Show versions, GPU, the sandbox's walls, data sets and optional parts, each with a remedy if missing.

    Nothing of it is needed by all runs, so the exit status is 0.
    """
    from robustness_bench.benchmark.run.machine import examine

    findings = list(examine(data_dir))
    if as_json:
        print(json.dumps([dataclasses.asdict(each) for each in findings], indent=1, ensure_ascii=False))
        return
    for group, found in groupby(findings, key=lambda each: each.group):
        print(_HEADINGS[group])
        for each in found:
            text = f"  {each.state:<8} {each.name:<13} {each.text}"
            print(textwrap.fill(text, _WIDTH, subsequent_indent=_INDENT))
            if each.remedy:
                start = f"{_INDENT}→ "
                print(
                    textwrap.fill(each.remedy, _WIDTH, initial_indent=start, subsequent_indent=f"{_INDENT}  ")
                )
