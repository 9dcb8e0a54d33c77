"""The cookbook's commands and code run as they stand; what the package says of itself agrees."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT, Bench

_BLOCK = re.compile(
    r"(?:^`(?P<file>[\w.-]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


def test_the_cookbook(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = []
    for block in _BLOCK.finditer((ROOT / "docs" / "cookbook.md").read_text(encoding="utf-8")):
        if block["file"]:
            Path(block["file"]).write_text(block["text"])
        elif block["kind"] == "python":
            exec(compile(block["text"], "cookbook", "exec"), {})
        else:
            for line in block["text"].splitlines():
                words = shlex.split(line.removeprefix("$ "))
                if words[1:3] == ["export", "results"]:
                    pytest.importorskip("huggingface_hub", reason="the rest needs the extra hub")
                said = bench(*words[1:])
                ran.append(words[1])
                assert words[0] == "bench"
                assert said.status == 0 or words[1:3] == ["submit", "check"], f"{line}\n{said.err}"
    assert {"doctor", "plan", "run", "compare", "status", "list", "submit", "import", "export"} <= set(ran)


def test_the_citation_names_this_version() -> None:
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = pytest.importorskip("yaml").safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["version"], cited["license"]) == (about["version"], about["license"])
    assert [author["name"] for author in cited["authors"]] == [each["name"] for each in about["authors"]]
