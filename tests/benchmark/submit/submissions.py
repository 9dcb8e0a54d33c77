"""Submissions to spoil: the worked example, and networks that came as code, run in this process."""

import hashlib
import re
import shutil
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.files import file_hash
from robustness_bench.benchmark.submit.checks import subject
from robustness_bench.benchmark.submit.checks.submission import Check, Settings, checks
from robustness_bench.benchmark.submit.intake.reading import unpacked
from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "submission" / "standard-at-digits"
WEIGHTS = "weights.safetensors"
_QUICK = {**subject._QUICK, "images": 32, "steps": 4, "square_queries": 10}

BUILD = """
import torch
from torch import nn

from robustness_bench.benchmark.networks.layers import Normalize
from robustness_bench.benchmark.networks.resnet import ResNet18


def network(channels, classes):
    return nn.Sequential(Normalize((0.305,), (0.376,)), ResNet18(channels, classes, 4))


class Own(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.inner = network(channels, classes)

    def forward(self, x):
        {body}


def build(*, classes, channels, size):
    return Own(channels, classes)
"""
"""model.py around the example's network, which ``body`` calls self.inner."""


class InProcess(nn.Module):
    """Stands in for the confined process of its own: only for code of this test suite."""

    running = 0

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @classmethod
    def start(cls, model_file: Path, weights: Path | None, **about: Any) -> "InProcess":
        limits, device = about.pop("limits"), about.pop("device")
        assert (limits, device) == ("limits", "cpu")
        module = types.ModuleType("submitted")
        assert weights is not None
        try:
            exec(compile(model_file.read_text(), model_file.name, "exec"), module.__dict__)
            model = module.build(**about)
            model.load_state_dict(load_file(weights), strict=True)
        except Exception as error:
            raise BenchError(f"{model_file} cannot be run: {error}") from error
        cls.running += 1
        return cls(model.eval().requires_grad_(False))

    def forward(self, x: Tensor) -> Tensor:
        try:
            logits: Tensor = self.model(x)
        except MemoryError as error:
            raise BenchError("the submission's process was killed: it took too much memory") from error
        return logits

    def close(self) -> None:
        type(self).running -= 1


def run_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run model.py here; what confines it has tests of its own."""
    import sys

    for name, held in (("remote", {"RemoteModel": InProcess}), ("confinement", {"Limits": lambda: "limits"})):
        module = types.ModuleType(f"robustness_bench.benchmark.sandbox.{name}")
        module.__dict__.update(held)
        monkeypatch.setitem(sys.modules, module.__name__, module)


def probe_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe of fewer images and steps."""
    monkeypatch.setattr(subject, "_QUICK", _QUICK)


def copied(tmp_path: Path) -> Path:
    """A copy of the worked example, to spoil."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "sent"))


def write(folder: Path, key: str, value: str) -> None:
    """Set a key of submission.toml, the last of this name, to a TOML value; an empty one deletes the line."""
    manifest = folder / "submission.toml"
    line = re.compile(rf"^{re.escape(key)} = .*\n", re.MULTILINE)
    text = manifest.read_text()
    assert line.search(text), key
    manifest.write_text(line.sub(lambda _: f"{key} = {value}\n" if value else "", text))


def rewrite(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Other weights, with their own hash."""
    save_file(tensors, folder / WEIGHTS)
    rehash(folder)


def rehash(folder: Path) -> None:
    write(folder, "sha256", f'"{file_hash(folder / WEIGHTS)}"')


def tensors_of(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(folder / WEIGHTS)
    return tensors


def with_code(folder: Path, body: str = "return self.inner(x)") -> None:
    """Make the example a submission with code: its network inside another."""
    write(folder, "architecture", '"own"')
    write(folder, "width", "0")
    (folder / "model.py").write_text(BUILD.format(body=body))
    rewrite(folder, {f"inner.{name}": tensor for name, tensor in tensors_of(folder).items()})


def checked(path: Path, *, trust_code: bool = False) -> list[Check]:
    with unpacked(path) as folder:
        return list(checks(folder, Settings(trust_code=trust_code)))


def of(found: list[Check], name: str) -> Check:
    (check,) = (each for each in found if each.name == name)
    return check


def tree_hash(folder: Path) -> str:
    """Over names, kinds and contents of all that is in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str((path.relative_to(folder), path.lstat().st_mode)).encode())
        if path.is_file() and not path.is_symlink():
            digest.update(path.read_bytes())
    return digest.hexdigest()


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
