"""What holds for every network, ours and those of plugins; and how a plugin that is wrong is named."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks import plugins
from robustness_bench.attacks.plugins import PresetError
from robustness_bench.benchmark.data import DATASETS
from robustness_bench.benchmark.data.base import DatasetInfo
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.networks import MODELS, OWN_MODELS, Registry, _accept, build_model
from robustness_bench.benchmark.plan.protocol import load_protocol
from tests.conftest import Bench
from tests.support import images

each_network = pytest.mark.parametrize("name", list(MODELS))
each_dataset = pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10"])


def info(dataset: str) -> DatasetInfo:
    return DATASETS[dataset].info


def built(name: str, of: DatasetInfo, width: int = 4) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(name, of, width)


def pixels(of: DatasetInfo, count: int = 5) -> Tensor:
    return images(count, of.channels, of.size)


@each_dataset
@each_network
def test_logits_are_finite_and_one_per_class(name: str, dataset: str) -> None:
    of = info(dataset)
    model, x = built(name, of), pixels(of)
    for module in (model.train(), model.eval()):
        logits = module(x)
        assert logits.shape == (5, of.classes)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()
    assert len(model(x).unique(dim=0)) == 5  # else it does not look at the images


@each_network
def test_in_evaluation_a_batch_is_its_images_one_by_one(name: str) -> None:
    of = info("digits")
    model, x = built(name, of), pixels(of)
    model.train()(x)
    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        together = model(x)
        alone = torch.cat([model(each) for each in x.split(1)])
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model(x), together, rtol=0, atol=0)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@each_network
def test_gradients_reach_the_image_and_every_weight(name: str) -> None:
    of = info("digits")
    model, x = built(name, of).train(), pixels(of).requires_grad_()
    model(x).square().sum().backward()
    assert x.grad is not None
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()
    missing = [key for key, weight in model.named_parameters() if weight.grad is None]
    assert missing == []


@each_network
def test_the_seed_decides_the_weights_and_a_state_dict_holds_them_all(name: str) -> None:
    of = info("digits")
    model, again = built(name, of), built(name, of)
    x = pixels(of)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        other = build_model(name, of, 4)
    with torch.no_grad():
        assert not torch.allclose(other.eval()(x), model.eval()(x))
        other.load_state_dict(model.state_dict(), strict=True)
        assert torch.equal(other(x), model(x))


@each_network
def test_width_makes_it_larger(name: str) -> None:
    sizes = [sum(each.numel() for each in built(name, info("digits"), w).parameters()) for w in (2, 4, 8)]
    assert sizes[0] < sizes[1] < sizes[2]


# --- plugins -----------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"network": f"{__name__}:Tiny", "summary": "tiny"}
OFFERED: Any = GOOD


class Tiny(nn.Module):
    def __init__(self, channels: int, classes: int, width: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels * size * size, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def registry(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> "Registry[Any]":
    """What there is where ``value`` is installed as the network ``name``."""
    point = EntryPoint(name=name, value=value, group="bench.models")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    return Registry("bench.models", "model", OWN_MODELS, _accept)


@pytest.mark.parametrize(
    ("name", "value", "offered", "message"),
    [
        ("mine", "no.such.module:X", GOOD, r"model 'mine' of the plugin no\.such\.module:X cannot be loaded"),
        ("mine", f"{__name__}:ABSENT", GOOD, "cannot be loaded: module .* has no attribute 'ABSENT'"),
        ("mine", f"{__name__}:OFFERED", Tiny, "must be a dict, got <class"),
        ("mine", f"{__name__}:OFFERED", {"summary": "s"}, "lacks network"),
        (
            "mine",
            f"{__name__}:OFFERED",
            GOOD | {"label": "s"},
            "has the unknown key label; known: network, s",
        ),
        ("mine", f"{__name__}:OFFERED", GOOD | {"summary": 3}, "summary must be of type str, got 3"),
        (
            "mine",
            f"{__name__}:OFFERED",
            GOOD | {"network": "x"},
            r'name its code as "module:Name", got \'x\'',
        ),
        ("mine", f"{__name__}:OFFERED", GOOD | {"network": "no_such:X"}, "no_such:X cannot be found"),
        ("vgg-19", f"{__name__}:OFFERED", GOOD, "offers model 'vgg-19', which exists already"),
    ],
)
def test_a_plugin_that_is_wrong_is_named(
    name: str, value: str, offered: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.OFFERED", offered)
    with pytest.raises(PresetError, match=message) as error:
        list(registry(monkeypatch, name, value))
    assert "\n" not in str(error.value)


def test_a_plugins_network_is_one_like_any_other(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    known = registry(monkeypatch, "mine", f"{__name__}:OFFERED")
    assert list(known) == [*OWN_MODELS, "mine"]
    assert "mlp  " in bench("list", "models").out
    assert load_protocol(None, {"model": {"name": "mlp"}}).settings[0].model.name == "mlp"
    with pytest.raises(BenchError, match=r"unknown model 'mpl'; did you mean mlp\?.* known: resnet-18,"):
        load_protocol(None, {"model": {"name": "mpl"}})


def test_a_plugins_code_is_part_of_ids_and_ours_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(preset.identity() == {} for preset in OWN_MODELS.values())
    first = MODELS["mlp"].identity()["architecture"]
    assert first["network"] == "bench_mlp_network:MLP"
    file = tmp_path / "changing_network.py"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(f"{__name__}.OFFERED", GOOD | {"network": "changing_network:Tiny"})
    codes = []
    for text in ("1", "2"):
        file.write_text(text)
        codes.append(registry(monkeypatch, "mine", f"{__name__}:OFFERED")["mine"].code)
    assert codes[0] != codes[1]


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """What a test lets be offered is not there for the next."""
    yield
    plugins._files.clear()
