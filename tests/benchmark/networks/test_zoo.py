"""RobustBench: our side against a stand-in for the package, and the real one where it is installed."""

import importlib.util
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.networks.zoo import load_robustbench, robustbench_file
from tests.benchmark.networks.test_weights import Bomb, State, line_of, logits_of
from tests.support import images

FAKE = {
    "__init__": "",
    "utils": """
        import os, warnings
        from pathlib import Path
        import torch
        from gdown.exceptions import FileURLRetrievalError
        from robustbench.model_zoo import model_dicts
        from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel
        calls = []
        failure = None

        def load_model(model_name, model_dir="./models", dataset=None, threat_model=None):
            calls.append((model_name, model_dir, dataset, threat_model))
            warnings.warn("noise")
            print("Downloading", model_name)
            path = Path(model_dir) / dataset / threat_model / f"{model_name}.pt"
            if not path.is_file():
                raise {"refused": FileURLRetrievalError("Cannot retrieve\\n\\n\\tthe public link"),
                       "offline": ConnectionError("no route")}[failure]
            model = model_dicts[BenchmarkDataset(dataset)][ThreatModel(threat_model)][model_name]["model"]()
            model.load_state_dict(torch.load(path, map_location="cpu"), strict=True)
            return model
        """,
    "loaders": "import pkg_resources",
    "eval": "from autoattack import AutoAttack\nfrom autoattack.state import EvaluationState",
    "model_zoo/__init__": """
        import robustbench.loaders, robustbench.eval
        from torch import nn
        from .enums import BenchmarkDataset as D, ThreatModel as T
        linf = {"Wong2020Fast": {"model": lambda: nn.Linear(3, 2), "gdrive_id": "1Re"},
                "Chen2020Adversarial": {"model": None, "gdrive_id": ["a", "b"]},
                "Debenedetti2022Light": {"model": None, "gdrive_id": None},
                "Standard_R50": {"model": None, "gdrive_id": ""}}
        l2 = {"Rice2020Overfitting": {"model": lambda: nn.Linear(3, 2), "gdrive_id": "1Rf"}}
        model_dicts = {D.cifar_10: {T.Linf: linf, T.L2: l2}, D.cifar_100: {T.Linf: {}}}
        """,
    "model_zoo/enums": """
        from enum import Enum

        class BenchmarkDataset(Enum):
            cifar_10, cifar_100 = "cifar10", "cifar100"

        class ThreatModel(Enum):
            Linf, L2 = "Linf", "L2"
        """,
}
ZOO = ("robustbench", "gdown")


def forget() -> dict[str, Any]:
    """Take the zoo's modules out of the imported ones."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in ZOO}


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package ``robustbench`` that has the real one's surface; its folder of weights."""
    site = tmp_path / "site"
    (site / "robustbench" / "model_zoo").mkdir(parents=True)
    for name, source in FAKE.items():
        (site / "robustbench" / f"{name}.py").write_text(textwrap.dedent(source))
    (site / "gdown").mkdir()
    (site / "gdown" / "__init__.py").touch()
    (site / "gdown" / "exceptions.py").write_text("class FileURLRetrievalError(Exception): pass")
    monkeypatch.syspath_prepend(site)
    before = forget()
    yield tmp_path / "models"
    forget()
    sys.modules.update(before)


def put(path: Path, state: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)


def linear(value: float = 0.5) -> State:
    return {"weight": torch.full((2, 3), value), "bias": torch.zeros(2)}


def test_the_file_of_a_zoo_model() -> None:
    folder = Path("models")
    assert robustbench_file("A", "cifar10", "linf", folder) == Path("models/cifar10/Linf/A.pt")
    assert robustbench_file("B", "cifar100", "l2", folder) == Path("models/cifar100/L2/B.pt")
    assert "unknown data set of RobustBench 'mnist'" in line_of(
        lambda: robustbench_file("A", "mnist", "linf", folder)
    )
    assert "unknown norm 'l1'" in line_of(lambda: robustbench_file("A", "cifar10", "l1", folder))


@pytest.mark.parametrize(
    ("name", "norm", "their_norm"), [("Wong2020Fast", "linf", "Linf"), ("Rice2020Overfitting", "l2", "L2")]
)
def test_a_zoo_model_comes_from_its_file(
    zoo: Path, name: str, norm: str, their_norm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(robustbench_file(name, "cifar10", norm, zoo), linear())
    model = load_robustbench(name, "cifar10", norm, zoo)
    assert sys.modules["robustbench.utils"].calls == [(name, zoo, "cifar10", their_norm)]
    assert model(torch.ones(1, 3)).tolist() == [[1.5, 1.5]]
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    assert capsys.readouterr().out == ""


def test_stand_ins_leave_nothing_behind(zoo: Path) -> None:
    before = {name: sys.modules.get(name) for name in ("autoattack", "autoattack.state", "pkg_resources")}
    put(robustbench_file("Wong2020Fast", "cifar10", "linf", zoo), linear())
    load_robustbench("Wong2020Fast", "cifar10", "linf", zoo)
    assert {name: sys.modules.get(name) for name in before} == before


def test_unknown_zoo_models_name_near_ones(zoo: Path) -> None:
    text = line_of(lambda: load_robustbench("Wong2020Fats", "cifar10", "linf", zoo))
    assert "unknown RobustBench model for cifar10 in linf 'Wong2020Fats'; did you mean Wong2020Fast?" in text
    text = line_of(lambda: load_robustbench("Wong2020Fast", "cifar100", "l2", zoo))
    assert text == "RobustBench has no models for cifar100 in l2; choose another norm"


@pytest.mark.parametrize("name", ["Chen2020Adversarial", "Debenedetti2022Light", "Standard_R50"])
def test_zoo_models_of_many_files_or_none(zoo: Path, name: str) -> None:
    text = line_of(lambda: load_robustbench(name, "cifar10", "linf", zoo))
    assert f"RobustBench does not store {name} as one file" in text


@pytest.mark.parametrize(
    ("failure", "said"), [("offline", "no route"), ("refused", "Cannot retrieve the public link")]
)
def test_a_download_that_fails_names_the_file(
    zoo: Path, failure: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(robustbench_file("Wong2020Fast", "cifar10", "l2", zoo), linear())  # of the other norm: no use
    with pytest.raises(BenchError, match="unknown"):
        load_robustbench("", "cifar10", "linf", zoo)
    monkeypatch.setattr(sys.modules["robustbench.utils"], "failure", failure)
    text = line_of(lambda: load_robustbench("Wong2020Fast", "cifar10", "linf", zoo))
    assert f"RobustBench could not download Wong2020Fast ({said})" in text
    assert text.endswith(f"put them at {zoo / 'cifar10' / 'Linf' / 'Wong2020Fast.pt'}")


def test_zoo_files_that_are_damaged_or_of_another_network(zoo: Path) -> None:
    path = robustbench_file("Wong2020Fast", "cifar10", "linf", zoo)
    put(path, {"weight": torch.ones(4, 4)})
    remedy = "; delete it and run the same command again to download it"
    for content in (path.read_bytes(), b"<html>quota</html>", path.read_bytes()[:200]):
        path.write_bytes(content)
        text = line_of(lambda: load_robustbench("Wong2020Fast", "cifar10", "linf", zoo))
        assert text.startswith(f"{path} is damaged or no file of weights (")
        assert text.endswith(remedy)
    put(path, linear(torch.nan))
    assert f"{path} has values in weight that are not finite" in line_of(
        lambda: load_robustbench("Wong2020Fast", "cifar10", "linf", zoo)
    )


@pytest.mark.parametrize("forced", [None, "1"])
def test_code_in_a_zoo_file_is_refused_and_not_run(
    zoo: Path, tmp_path: Path, forced: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the environment tells torch to run it; the environment is as before afterwards."""
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
    before, trace = dict(os.environ), tmp_path / "trace"
    state: dict[str, object] = {**linear(), "x": Bomb(trace)}
    put(robustbench_file("Wong2020Fast", "cifar10", "linf", zoo), state)
    text = line_of(lambda: load_robustbench("Wong2020Fast", "cifar10", "linf", zoo))
    assert not trace.exists()
    assert "contains pickled code" in text
    assert dict(os.environ) == before


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "robustbench", None)
    for name in [name for name in sys.modules if name.startswith("robustbench.")]:
        monkeypatch.delitem(sys.modules, name)
    text = line_of(lambda: load_robustbench("Wong2020Fast", "cifar10", "linf", tmp_path))
    assert text.endswith("pip install robustness-bench[robustbench]")


@pytest.mark.skipif(importlib.util.find_spec("robustbench") is None, reason="needs the extra robustbench")
def test_the_real_package(tmp_path: Path) -> None:
    """Random weights at the place of Wong et al.'s, a PreAct ResNet-18 that normalises inside."""
    path = robustbench_file("Wong2020Fast", "cifar10", "linf", tmp_path)
    assert "put them at" in line_of(lambda: load_offline(tmp_path))
    cifar10 = importlib.import_module("robustbench.model_zoo.cifar10")
    source = cifar10.Wong2020FastNet()
    put(path, source.state_dict())
    x = images(2, 3, 32)
    assert torch.equal(
        logits_of(load_robustbench("Wong2020Fast", "cifar10", "linf", tmp_path), x), logits_of(source, x)
    )


def load_offline(folder: Path) -> nn.Module:
    """Without a proxy's or a network's help: nobody listens on port 9."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        patch.setenv("https_proxy", "http://127.0.0.1:9")
        return load_robustbench("Wong2020Fast", "cifar10", "linf", folder)
