"""The benchmark from Python: the same outcomes as the command line's, on a model in memory."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbclient import NotebookClient
from torch import Tensor, nn

import robustness_bench as rb
from robustness_bench import api
from robustness_bench.attacks.base import AttackError
from robustness_bench.attacks.ead import EAD
from robustness_bench.attacks.registry import attack_presets
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.statistics import wilson

ROOT = Path(__file__).parents[1]
TINY = {
    "defenses": ["standard"],
    "norms": ["linf"],
    "threats": ["white"],
    "seeds": 1,
    "n_examples": 12,
    "training": {"epochs": 1, "train_limit": 96},
    "model": {"width": 2},
    "attacks": {"strict": {"linf": ["none", "pgd-40"]}},
}


class Linear(nn.Module):
    """Two classes; the nearest boundary point of an image is known."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([weight, -weight]))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T


@pytest.fixture
def world() -> tuple[Linear, Tensor, Tensor]:
    """A linear model, 40 images near the middle of the box, and labels that are right but for the last 4."""
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + 0.2 * (torch.rand(40, 1, 4, 4, generator=generator) - 0.5)
    model = Linear(torch.randn(16, generator=generator))
    y = model(x).argmax(1)
    y[36:] = 1 - y[36:]
    return model, x, y


def _distances(model: Linear, x: Tensor, norm: str) -> Tensor:
    """To the boundary: |w·(x - 1/2)| over the dual norm of w."""
    weight = model.weight[0].detach()
    margin = ((x.flatten(1) - 0.5) @ weight).abs()
    return margin / (weight.abs().sum() if norm == "linf" else weight.norm())


def test_attacks_that_differ_in_their_rule_share_one_run(
    world: tuple[Linear, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the outcomes of runs of their own, bit by bit, and the passes of one."""
    model, x, y = world
    quick = {"search_steps": 4, "steps": 20, "initial_const": 10.0}
    presets = attack_presets("strict")
    shorter = {
        name: dataclasses.replace(presets[name], parameters=presets[name].parameters | quick)
        for name in ("ead-en", "ead-l1")
    }
    monkeypatch.setattr(api, "attack_presets", lambda attack_set: presets | shorter)
    count = {"runs": 0}
    perturb_all = EAD.perturb_all

    def counted(self: EAD, *arguments: Any) -> dict[str, Tensor]:
        count["runs"] += 1
        return perturb_all(self, *arguments)

    monkeypatch.setattr(EAD, "perturb_all", counted)

    def run(*attacks: str) -> tuple[api.Evaluation, int]:
        count["runs"] = 0
        found = api.evaluate(model, x, y, attacks=attacks, norm="l2", eps=0.3, keep_images=True)
        return found, count["runs"]

    both, runs = run("ead-l1", "pgd-40", "ead-en")
    assert runs == 1
    assert list(both.images["attack"].unique()) == ["none", "ead-l1", "pgd-40", "ead-en"]
    assert not torch.equal(both.adversarial["ead-en"], both.adversarial["ead-l1"])
    for name in ("ead-en", "ead-l1"):
        alone, runs = run(name)
        assert runs == 1
        assert torch.equal(alone.adversarial[name], both.adversarial[name])
        mine, theirs = (
            found.images[found.images["attack"] == name].reset_index(drop=True) for found in (alone, both)
        )
        pd.testing.assert_frame_equal(mine, theirs)


@pytest.mark.parametrize(
    ("norm", "eps", "attacks"), [("linf", 0.01, ["pgd-40", "pgd-margin"]), ("l2", 0.04, ["pgd-40", "ddn"])]
)
def test_what_is_beyond_eps_of_the_boundary_is_robust(
    norm: str, eps: float, attacks: list[str], world: tuple[Linear, Tensor, Tensor]
) -> None:
    model, x, y = world
    found = api.evaluate(model, x, y, attacks=attacks, norm=norm, eps=eps, batch_size=7)
    right = torch.arange(40) < 36
    expected = right & (_distances(model, x, norm) > eps * 1.001)
    near = (_distances(model, x, norm) - eps).abs() < 0.01 * eps
    assert not near[right].any(), "an image too near to the budget to be told"
    assert 0 < expected.sum() < 36
    for name in attacks:
        rows = found.images[found.images["attack"] == name]
        assert rows["image"].tolist() == list(range(40))
        assert rows["label"].tolist() == y.tolist()
        assert rows["robust"].tolist() == expected.tolist()
    assert found.accuracy["none"] == 90
    assert found.accuracy["worst"] == pytest.approx(100 * expected.float().mean().item())


def test_outcomes_do_not_depend_on_batches(world: tuple[Linear, Tensor, Tensor]) -> None:
    model, x, y = world
    one, many = (
        api.evaluate(model, x, y, attacks=["pgd-40"], eps=0.01, batch_size=size, keep_images=True)
        for size in (40, 3)
    )
    assert torch.equal(one.adversarial["pgd-40"], many.adversarial["pgd-40"])
    assert one.images.drop(columns=["forwards", "backwards"]).equals(
        many.images.drop(columns=["forwards", "backwards"])
    )
    moved = (one.adversarial["pgd-40"] - x).abs().amax((1, 2, 3))
    assert np.allclose(one.images.loc[one.images["attack"] == "pgd-40", "linf"], moved)


def test_worst_is_a_union_of_what_is_bounded(world: tuple[Linear, Tensor, Tensor]) -> None:
    model, x, y = world
    found = api.evaluate(model, x, y, attacks=["fwa-10", "pgd-40"], eps=0.01)
    table = found.images.pivot_table(index="image", columns="attack", values="robust", aggfunc="first")
    assert found.accuracy["worst"] == 100 * float((table["none"] & table["pgd-40"]).mean())
    natural_only = api.evaluate(model, x, y, attacks=[], eps=0.01)
    assert natural_only.accuracy == {"none": 90.0}


def test_the_model_is_left_as_it_was(world: tuple[Linear, Tensor, Tensor]) -> None:
    model, x, y = world
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    api.evaluate(model, x.numpy(), y.tolist(), attacks=["pgd-40"], eps=0.01)
    assert model.training
    assert model.weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_table_says_what_was_measured(world: tuple[Linear, Tensor, Tensor]) -> None:
    model, x, y = world
    found = api.evaluate(model, x, y, attacks=["pgd-40"], eps=0.01)
    low, high = wilson(36, 40)
    text = str(found)
    assert f"{100 * low:.1f} – {100 * high:.1f}" in text
    for shown in (text, found._repr_html_(), found.to_latex()):
        assert "PGD-40" in shown
        assert "Worst" in shown
        assert "90.0" in shown
        assert "40 images" in shown
        assert "Not diagnosed" in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attacks": ["pdg-40"]}, "unknown attack 'pdg-40'"),
        ({"attacks": ["ti-dim"], "norm": "l2"}, "ti-dim works in linf, got norm 'l2'"),
        ({"norm": "l3"}, "unknown norm 'l3'"),
        ({"eps": 0.0}, "ε must be a positive finite number, got 0.0"),
        ({"eps": float("inf")}, "ε must be a positive finite number, got inf"),
        ({"eps": float("nan")}, "ε must be a positive finite number, got nan"),
        ({"eps": "8/255"}, "ε must be a positive finite number, got '8/255'"),
        ({"eps": True}, "ε must be a positive finite number, got True"),
        ({"attacks": "aa"}, "attacks must be a list of names, got 'aa'"),
        ({"attacks": None}, "attacks must be a list of names, got None"),
        ({"attacks": [5]}, "unknown attack '5'"),
        ({"norm": None}, "unknown norm 'None'"),
        ({"seed": -1}, "seed must be a whole number from 0, got -1"),
        ({"batch_size": "x"}, "batch_size must be a whole number from 0, got 'x'"),
        ({"attack_set": "lax"}, "the parameter sets are strict, paper, got 'lax'"),
    ],
)
def test_wrong_input_is_one_clear_line(
    options: dict[str, object], said: str, world: tuple[Linear, Tensor, Tensor]
) -> None:
    model, x, y = world
    with pytest.raises(BenchError) as error:
        api.evaluate(model, x, y, **{"eps": 0.01, **options})  # type: ignore[arg-type]
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), [0, 1], "float32"),
        (torch.full((2, 1, 4, 4), 255.0), [0, 1], "[0, 1]"),
        (torch.zeros(2, 1, 4, 4), [0], "labels"),
        (torch.zeros(2, 1, 4, 4), [0.0, 1.5], "int64 labels"),
    ],
)
def test_images_that_are_none_are_refused(
    x: Tensor, y: list[float], said: str, world: tuple[Linear, Tensor, Tensor]
) -> None:
    with pytest.raises(ValueError, match=said.replace("[", r"\[")):
        api.evaluate(world[0], x, y, eps=0.01)


@pytest.mark.parametrize(("shift", "said"), [(2, "labels run from 2 to 3"), (-1, "labels run from -1 to 0")])
def test_labels_beyond_the_classes_are_no_zero_accuracy(
    shift: int, said: str, world: tuple[Linear, Tensor, Tensor]
) -> None:
    model, x, _ = world
    y = torch.arange(40) % 2
    with pytest.raises(BenchError, match=f"{said}, the model's classes from 0 to 1"):
        api.evaluate(model, x, y + shift, eps=0.01)


def test_a_function_is_no_model(world: tuple[Linear, Tensor, Tensor]) -> None:
    _, x, y = world
    with pytest.raises(BenchError, match=r"model must be a torch\.nn\.Module, got function"):
        api.evaluate(lambda images: images, x, y, eps=0.01)  # type: ignore[arg-type]


def test_a_model_that_returns_a_tuple_is_named(world: tuple[Linear, Tensor, Tensor]) -> None:
    class Pair(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return (super().forward(x), x)  # type: ignore[return-value]

    with pytest.raises(AttackError, match="return only logits"):
        api.evaluate(Pair(torch.ones(16)), world[1], world[2], eps=0.01)


def test_a_protocol_runs_and_its_records_come_back(tmp_path: Path) -> None:
    out = tmp_path / "results"
    finished = api.run(TINY, out=out, workers=1)
    assert not finished.failures
    assert [table.measure for table in finished.tables] == ["accuracy"]
    cells = api.records(out)
    assert sorted(cell.spec["attack"] for cell in cells) == ["none", "pgd-40"]
    assert all(len(cell.robust) == 12 for cell in cells)
    kept = {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")}
    api.run(TINY, out=out, workers=1)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")} == kept
    assert "pgd-40" in attack_presets("strict")


def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "examples" / "evaluate.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are made anew, and not committed"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    (table,) = (output.data for output in shown if "PGD-40" in output.get("data", {}).get("text/html", ""))
    assert "Worst" in table["text/html"]
    assert any("undefended pgd-40" in output.get("text", "") for output in shown)


def test_the_package_offers_the_interface() -> None:
    assert [getattr(rb, name) for name in rb.__all__] == [getattr(api, name) for name in rb.__all__]
    with pytest.raises(AttributeError, match="evalaute"):
        rb.evalaute  # noqa: B018
    program = (
        "import sys, robustness_bench\n"
        "from robustness_bench.benchmark.store.cells import read_records\n"
        "assert len(read_records(__import__('pathlib').Path(sys.argv[1]))) > 1\n"
        "sys.exit('pandas' in sys.modules or 'torch' in sys.modules)"
    )
    store = ROOT / "results" / "mnist"
    assert subprocess.run([sys.executable, "-c", program, store], check=False).returncode == 0


def test_a_protocol_file_is_taken_too(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('defenses = ["standart"]')
    for given in (file, str(file), {"defenses": ["standart"]}):
        with pytest.raises(BenchError, match="unknown defense 'standart'"):
            api.run(given, out=tmp_path / "results")
    with pytest.raises(BenchError, match="defences"):
        api.run({"defences": ["standard"]}, out=tmp_path / "results")
    with pytest.raises(BenchError, match="shard_size must be a whole number from 0, got -1"):
        api.run(TINY, out=tmp_path / "results", shard_size=-1)
    with pytest.raises(BenchError, match="unknown engine 'lokal'; did you mean local"):
        api.run(TINY, out=tmp_path / "results", engine="lokal")
    with pytest.raises(BenchError, match="there is no folder"):
        api.records(tmp_path / "nowhere")
