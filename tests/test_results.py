"""The results that are committed: what their page names is there, and nothing is of one machine."""

import json
import re
import shlex
from pathlib import Path

import pytest

from robustness_bench.benchmark.store.parquet import read_story
from tests.conftest import ROOT

RESULTS = ROOT / "results"
NAMED = re.findall(r"^## ([a-z0-9-]+)$", (RESULTS / "README.md").read_text(), re.MULTILINE)


def test_the_page_names_folders() -> None:
    assert {"cifar10-slim", "tiny-imagenet-slim", "detectors-mnist"} <= set(NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_what_the_page_names_is_there(name: str) -> None:
    """In a clean checkout: a folder that .gitignore leaves out is on one machine only."""
    assert commands(RESULTS / name)


def commands(folder: Path) -> dict[str, str]:
    """Return file -> the command it was made by, where one is kept."""
    stories = {path: json.loads(path.read_text()) for path in folder.rglob("*.json")}
    stories |= {path: read_story(path) for path in folder.rglob("*.parquet")}
    return {str(path): story.get("environment", {}).get("command", "") for path, story in stories.items()}


@pytest.mark.parametrize("name", NAMED)
def test_no_command_names_a_folder_of_one_machine(name: str) -> None:
    for file, command in commands(RESULTS / name).items():
        assert not [word for word in shlex.split(command) if word.startswith(("/", "~"))], file
