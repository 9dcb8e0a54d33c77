"""Files of weights as others make them: each is run as its network was trained, or refused for a true reason.

One tiny ResNet-18 a reading is trained on digits; every file is made from one of them.
"""

import argparse
import gzip
import hashlib
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from robustness_bench.attacks.base import AttackError
from robustness_bench.attacks.pgd import PGD
from robustness_bench.benchmark.context import Context
from robustness_bench.benchmark.data import DATASETS, Located, locate
from robustness_bench.benchmark.data.digits import DIGITS
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.networks.magnet import MagNetCNN
from robustness_bench.benchmark.plan.protocol import load_protocol
from robustness_bench.benchmark.plan.tasks import Planner, Task, weights_hash
from robustness_bench.benchmark.store.cards import read_card
from robustness_bench.benchmark.store.models import import_weights, load_model
from tests.conftest import Bench

State = dict[str, Tensor]
WIDTH, MEAN, STD = 4, 0.305, 0.376
_IMAGES = 1000  # of 1437


class Block(nn.Module):
    """The basic block of He et al. 2016, with torchvision's names."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if stride != 1:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class Theirs(nn.Module):
    """ResNet-18 as others write it: what stands before the first stage is not in its weights."""

    def __init__(self, *, channels: int = 1, stride: int = 1, pool: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTH, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.pool = nn.MaxPool2d(3, 2, 1) if pool else nn.Identity()
        for stage in range(4):
            outputs = WIDTH * 2**stage
            first = Block(outputs // 2, outputs, 2) if stage else Block(outputs, outputs, 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, Block(outputs, outputs, 1)))
        self.fc = nn.Linear(8 * WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(functional.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Net(NamedTuple):
    """A trained network: its weights, and its share of right test images, computed by itself."""

    state: State
    accuracy: float


def trained(network: nn.Module, x: Tensor, y: Tensor, test: tuple[Tensor, Tensor], epochs: int = 6) -> Net:
    """Adam on images as they are given."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 - epoch / epochs)
        for rows in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    network.eval().requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return Net(state, float((network(test[0]).argmax(1) == test[1]).float().mean()))


SCALED: dict[str, Callable[[Tensor], Tensor]] = {
    "normalised": lambda x: (x - MEAN) / STD,
    "plain": lambda x: x,
    "half": lambda x: 2 * x - 1,
}


class Nets:
    """The networks that everything here is made of, each trained when it is first asked for."""

    def __init__(self, data: Located) -> None:
        splits = data.load()
        images = splits.train_x[:_IMAGES], splits.test_x
        self._x, self._test_x = (torch.from_numpy(part.copy()).float() / 255 for part in images)
        labels = splits.train_y[:_IMAGES], splits.test_y
        self._y, self._test_y = (torch.from_numpy(part.copy()) for part in labels)
        self._known: dict[str, Net] = {}

    def __getitem__(self, name: str) -> Net:
        if name not in self._known:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self._known[name] = self._trained(name)
        return self._known[name]

    def _trained(self, name: str) -> Net:
        x, y, test = self._x, self._y, self._test_x
        plain, scaled = SCALED["plain"], SCALED["normalised"]
        if name == "either":
            both = torch.cat([x, scaled(x)])
            return trained(MagNetCNN(1, 10, 8, 8), both, torch.cat([y, y]), (test, self._test_y))
        if name == "large":
            large = (nn.functional.interpolate(scaled(z), scale_factor=2, mode="bilinear") for z in (x, test))
            return trained(Theirs(stride=2), next(large), y, (next(large), self._test_y))
        network, shown = {
            "pool": (Theirs(pool=True), plain),
            "stride": (Theirs(stride=2), scaled),
            **{each: (Theirs(), SCALED[each]) for each in SCALED},
        }[name]
        epochs = (
            12 if name in ("pool", "stride") else 6
        )  # their maps are small: slower to learn, quicker to run
        return trained(network, shown(x), y, (shown(test), self._test_y), epochs)


class World(NamedTuple):
    """The data and the networks."""

    data: Located
    nets: Nets

    def state(self, net: str = "normalised") -> State:
        return dict(self.nets[net].state)


@pytest.fixture(scope="session")
def world() -> World:
    data = locate("digits", Path())
    return World(data, Nets(data))


def ours(state: State) -> State:
    """Under our names: blocks in place of layers."""
    named = {}
    for name, tensor in state.items():
        if name.startswith("layer"):
            stage, block, rest = name.removeprefix("layer").split(".", 2)
            name = f"blocks.{2 * int(stage) - 2 + int(block)}.{rest.replace('downsample', 'shortcut')}"
        named[name.replace("fc.", "linear.")] = tensor
    return named


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def spoilt(state: State, strength: float = 0.15) -> State:
    """The same network earlier in its training, as it were: worse, and finite."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: t + strength * t.std() * torch.randn(t.shape, generator=generator) if t.ndim > 1 else t.clone()
        for name, t in state.items()
    }


def front(shape: tuple[int, ...], mean: str = "mean", std: str = "std", scale: float = 1.0) -> State:
    return {
        mean: torch.full(shape, scale * MEAN),
        std: torch.full(shape, scale * STD),
    }


class Given(NamedTuple):
    """A row of the tables: how to make the file, and the options given with it."""

    make: Callable[[World], Any]
    options: Mapping[str, Any] = MappingProxyType({})
    ending: str = ".pt"


def write(content: Any, path: Path) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".safetensors" or path.suffix == ".bin":
        save_file(content, path)
    else:
        torch.save(content, path)


def planned(world: World, file: Path, options: Mapping[str, Any]) -> Task:
    asked = {key: value for key, value in options.items() if key != "accept_low"}
    tree = {"datasets": ["digits"], "defenses": ["standard"], "model": {"width": WIDTH}, "weights": str(file)}
    weights_hash.cache_clear()
    (settings,) = load_protocol(None, {**tree, **asked}).settings
    return Planner(settings, world.data).train("standard", "linf", 0)


def where(out: Path, options: Mapping[str, Any]) -> Context:
    more: dict[str, Any] = {"accept_low": True} if options.get("accept_low") else {}
    return Context(out=out, device="cpu", batch_size=0, threads=1, **more)


def taken_in(world: World, file: Path, out: Path, options: Mapping[str, Any]) -> tuple[Task, float]:
    """Into a store and out of it: the share of right test images of the model that would be attacked."""
    task, context = planned(world, file, options), where(out, options)
    import_weights(task, context, lambda *_: None)
    splits = world.data.load()
    with torch.no_grad():
        z = load_model(task, context)(torch.from_numpy(splits.test_x.copy()).float() / 255)
    return task, float((z.argmax(1).numpy() == splits.test_y).mean())


def file_of(given: Given, world: World, folder: Path) -> Path:
    file = folder / f"weights{given.ending}"
    write(given.make(world), file)
    return file


MAGNET = {"model": {"name": "magnet-cnn", "width": 8}}


class Ema(NamedTuple):
    good: State
    raw: State


def two(w: World) -> Ema:
    return Ema(w.state(), spoilt(w.state()))


# What loads: how it is made, whose accuracy it has, and the reading that the card names.

LOADS: dict[str, tuple[Given, str, str]] = {
    "theirs, normalised": (Given(lambda w: w.state()), "normalised", "normalised"),
    "theirs, plain": (Given(lambda w: w.state("plain")), "plain", "plain"),
    "theirs, from -1 to 1": (Given(lambda w: w.state("half")), "half", "half"),
    "theirs, from 0 to 255": (
        Given(lambda w: {**w.state("plain"), "conv1.weight": w.state("plain")["conv1.weight"] / 255}),
        "plain",
        "bytes",
    ),
    "our names, normalised": (Given(lambda w: ours(w.state())), "normalised", "normalised"),
    "our names, plain": (Given(lambda w: ours(w.state("plain"))), "plain", "plain"),
    "our names, from -1 to 1": (Given(lambda w: ours(w.state("half"))), "half", "half"),
    "plain, as asked": (Given(lambda w: w.state("plain"), {"weights_plain": True}), "plain", "plain"),
    "half, as asked": (Given(lambda w: w.state("half"), {"weights_input": "half"}), "half", "half"),
    "a pooling kept": (Given(lambda w: w.state("pool")), "pool", "plain+pool"),
    "a pooling, as asked": (
        Given(lambda w: w.state("pool"), {"weights_input": "plain+pool"}),
        "pool",
        "plain+pool",
    ),
    "a stem of stride 2": (Given(lambda w: w.state("stride")), "stride", "normalised+stride-2"),
    "prefix module.": (Given(lambda w: prefixed(w.state(), "module.")), "normalised", "normalised"),
    "prefix model.": (Given(lambda w: prefixed(w.state(), "model.")), "normalised", "normalised"),
    "prefix net.": (Given(lambda w: prefixed(w.state(), "net.")), "normalised", "normalised"),
    "prefix backbone.": (Given(lambda w: prefixed(w.state("plain"), "backbone.")), "plain", "plain"),
    "prefix 1.module.": (Given(lambda w: prefixed(w.state(), "1.module.")), "normalised", "normalised"),
    "prefix module.model.": (
        Given(lambda w: prefixed(w.state(), "module.model.")),
        "normalised",
        "normalised",
    ),
    "our names behind model.": (
        Given(lambda w: prefixed(ours(w.state()), "model.")),
        "normalised",
        "normalised",
    ),
    "pixels of two kinds, as asked": (
        Given(lambda w: w.state("either"), {**MAGNET, "weights_input": "plain"}),
        "either",
        "plain",
    ),
    "mean and std, (1,)": (Given(lambda w: {**front((1,)), **w.state()}), "normalised", "file"),
    "mean and std, (1, 1, 1)": (Given(lambda w: {**front((1, 1, 1)), **w.state()}), "normalised", "file"),
    "mean and std, (1, 1, 1, 1)": (
        Given(lambda w: {**front((1, 1, 1, 1)), **w.state()}),
        "normalised",
        "file",
    ),
    "mu and sigma": (Given(lambda w: {**front((1,), "mu", "sigma"), **w.state()}), "normalised", "file"),
    "0.mean, 0.std, 1.": (
        Given(lambda w: {**front((1, 1, 1), "0.mean", "0.std"), **prefixed(w.state(), "1.")}),
        "normalised",
        "file",
    ),
    "normalize.mean, model.": (
        Given(
            lambda w: {
                **front((1, 1, 1), "normalize.mean", "normalize.std"),
                **prefixed(w.state(), "model."),
            }
        ),
        "normalised",
        "file",
    ),
    "mu and sigma behind a common prefix": (
        Given(lambda w: prefixed({**front((1,), "mu", "sigma"), **w.state()}, "net.")),
        "normalised",
        "file",
    ),
    "a normalisation that does nothing": (
        Given(lambda w: {"mean": torch.zeros(1), "std": torch.ones(1), **w.state("plain")}),
        "plain",
        "file",
    ),
    "a normalisation of -1 to 1": (
        Given(lambda w: {"mean": torch.full((1,), 0.5), "std": torch.full((1,), 0.5), **w.state("half")}),
        "half",
        "file",
    ),
    "a normalisation beside the weights": (
        Given(lambda w: {"state_dict": w.state(), **front((1,))}),
        "normalised",
        "file",
    ),
    "AveragedModel": (
        Given(lambda w: {"n_averaged": torch.tensor(7), **prefixed(w.state(), "module.")}),
        "normalised",
        "normalised",
    ),
    "averaged weights alone": (Given(lambda w: {"state_dict_ema": w.state()}), "normalised", "normalised"),
    "averaged weights alone, called ema": (
        Given(lambda w: {"ema": {"module": w.state()}, "epoch": 3}),
        "normalised",
        "normalised",
    ),
    "under a name of their own": (Given(lambda w: {"my_model": w.state()}), "normalised", "normalised"),
    "the same set twice": (
        Given(lambda w: {"state_dict": w.state(), "model": w.state()}),
        "normalised",
        "normalised",
    ),
    "the averaged of two": (
        Given(
            lambda w: {"state_dict": two(w).raw, "state_dict_ema": two(w).good},
            {"weights_entry": "state_dict_ema"},
        ),
        "normalised",
        "normalised",
    ),
    "the first of two": (
        Given(lambda w: {"model": two(w).good, "model_ema": two(w).raw}, {"weights_entry": "model"}),
        "normalised",
        "normalised",
    ),
    "one of two by its prefix": (
        Given(
            lambda w: {**prefixed(two(w).raw, "model."), **prefixed(two(w).good, "ema_model.")},
            {"weights_entry": "ema_model"},
        ),
        "normalised",
        "normalised",
    ),
    "an optimizer beside them": (
        Given(lambda w: {"net": w.state(), "optimizer": {"state": {0: {"m": torch.ones(3, 3)}}}}),
        "normalised",
        "normalised",
    ),
    "NumPy's numbers beside them": (
        Given(lambda w: {"net": w.state(), "acc": np.float64(0.9), "epoch": np.int64(3), "f": np.float32(1)}),
        "normalised",
        "normalised",
    ),
    "NumPy's arrays beside them": (
        Given(lambda w: {"net": w.state(), "losses": np.arange(3.0), "hits": np.array([True, False])}),
        "normalised",
        "normalised",
    ),
    "a path beside them": (
        Given(lambda w: {"net": w.state(), "path": PosixPath("/data/run")}),
        "normalised",
        "normalised",
    ),
    "arguments beside them": (
        Given(lambda w: {"net": w.state(), "args": argparse.Namespace(lr=0.1, out=PosixPath("x"))}),
        "normalised",
        "normalised",
    ),
    "safetensors called .pt": (
        Given(lambda w: safetensors(w.state())),
        "normalised",
        "normalised",
    ),
    "safetensors called .bin": (Given(lambda w: w.state(), {}, ".bin"), "normalised", "normalised"),
    "a PyTorch file called .safetensors": (
        Given(lambda w: pytorch(w.state()), {}, ".safetensors"),
        "normalised",
        "normalised",
    ),
    "float16": (
        Given(lambda w: {n: t.half() if t.is_floating_point() else t for n, t in w.state().items()}),
        "normalised",
        "normalised",
    ),
    "an OrderedDict in a dict": (
        Given(lambda w: {"state_dict": OrderedDict(w.state())}),
        "normalised",
        "normalised",
    ),
    "no counts of batches": (
        Given(lambda w: {n: t for n, t in w.state().items() if "num_batches" not in n}),
        "normalised",
        "normalised",
    ),
    "weights below the floor, accepted": (
        Given(lambda w: noise(w), {"weights_input": "normalised", "accept_low": True}),
        "",
        "normalised",
    ),
    "a reading far behind, accepted": (
        Given(lambda w: w.state("plain"), {"weights_input": "half", "accept_low": True}),
        "",
        "half",
    ),
}


def safetensors(state: State) -> bytes:
    from safetensors.torch import save

    return save(state)


def pytorch(content: Any, **options: Any) -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def noise(w: World) -> State:
    generator = torch.Generator().manual_seed(3)
    state = w.state()
    return {n: torch.randn(t.shape, generator=generator) if t.ndim > 1 else t for n, t in state.items()}


def permuted(state: State, order: list[int]) -> State:
    """Class c comes out at place order[c]."""
    rows = torch.tensor(order).argsort()
    return {name: tensor[rows] if name.startswith("fc.") else tensor for name, tensor in state.items()}


@pytest.mark.parametrize("name", LOADS)
def test_weights_are_run_as_they_were_trained(name: str, world: World, tmp_path: Path) -> None:
    given, net, reading = LOADS[name]
    task, accuracy = taken_in(world, file_of(given, world, tmp_path), tmp_path / "r", given.options)
    if net:
        assert world.nets[net].accuracy > 0.85
        assert abs(accuracy - world.nets[net].accuracy) < 0.01
    card = read_card(tmp_path / "r" / task.path)
    assert card["reading"]["name"] == reading
    assert "training images" in card["reading"]["note"]


# What is refused: how it is made, and a part of the one line that says why.

REFUSED: dict[str, tuple[Given, str]] = {
    "weights of noise": (Given(noise), "at least 50 % are asked for"),
    "weights of noise, as asked": (Given(noise, {"weights_plain": True}), "at least 50 % are asked for"),
    "a reading far behind": (
        Given(lambda w: w.state("plain"), {"weights_input": "half"}),
        "say --weights-input plain, or add --weights-accept-low",
    ),
    "pixels of two kinds": (
        Given(lambda w: w.state("either"), MAGNET),
        "512 training images do not show how to run it: ",
    ),
    "a pooling forgotten": (
        Given(lambda w: w.state("pool"), {"weights_input": "plain"}),
        "say --weights-input plain+pool",
    ),
    "all logits alike": (
        Given(lambda w: {**w.state(), "fc.weight": torch.zeros(10, 8 * WIDTH)}),
        "at least 50 % are asked for",
    ),
    "classes turned by one": (
        Given(lambda w: permuted(w.state(), [*range(1, 10), 0])),
        "class 0 is its output 1, 1 is its output 2, 2 is its output 3",
    ),
    "two classes exchanged": (
        Given(lambda w: permuted(w.state(), [0, 1, 2, 8, 4, 5, 6, 7, 3, 9])),
        "class 3 is its output 8, 8 is its output 3 (",
    ),
    "classes turned by one, of plain pixels": (
        Given(lambda w: permuted(w.state("plain"), [*range(1, 10), 0])),
        "class 0 is its output 1, 1 is its output 2, 2 is its output 3",
    ),
    "trained on larger images": (Given(lambda w: w.state("large")), "enlarged to 16×16"),
    "raw and averaged": (
        Given(lambda w: {"state_dict": two(w).raw, "state_dict_ema": two(w).good}),
        "holds 2 sets of weights, state_dict (122 tensors), state_dict_ema (122 tensors): say which with",
    ),
    "model and model_ema": (
        Given(lambda w: {"model": two(w).raw, "model_ema": two(w).good}),
        "model_ema (122",
    ),
    "model and ema": (Given(lambda w: {"model": two(w).raw, "ema": two(w).good}), "model (122 tensors), ema"),
    "net and swa": (Given(lambda w: {"net": two(w).raw, "swa": two(w).good}), "net (122 tensors), swa (122"),
    "two networks by prefix": (
        Given(lambda w: {**prefixed(two(w).raw, "model."), **prefixed(two(w).good, "ema_model.")}),
        "holds 2 sets of weights, model (122 tensors), ema_model (122 tensors)",
    ),
    "an entry that is not there": (
        Given(lambda w: {"model": two(w).raw, "ema": two(w).good}, {"weights_entry": "swa"}),
        "has no --weights-entry 'swa'; it holds model (122 tensors), ema (122 tensors)",
    ),
    "an entry where there is one set": (
        Given(lambda w: w.state(), {"weights_entry": "ema"}),
        "has no --weights-entry 'ema'; it holds one set of weights, without a name",
    ),
    "a deviation of 0": (
        Given(lambda w: {"mean": torch.zeros(1), "std": torch.zeros(1), **w.state()}),
        "deviation 0, which must be positive",
    ),
    "a normalisation for three channels": (
        Given(lambda w: {"mean": torch.ones(3), "std": torch.ones(3), **w.state()}),
        "2 unexpected (mean, std)",
    ),
    "half a normalisation": (Given(lambda w: {"mu": torch.zeros(1), **w.state()}), "1 missing (sigma)"),
    "a normalisation, and plain pixels asked for": (
        Given(lambda w: {**front((1,)), **w.state()}, {"weights_plain": True}),
        "has its own normalisation of pixels",
    ),
    "a normalisation that is wrong": (
        Given(lambda w: {"mean": torch.full((1,), 40.0), "std": torch.full((1,), 0.01), **w.state()}),
        "at least 50 % are asked for",
    ),
    "not finite": (
        Given(lambda w: {**w.state(), "fc.bias": torch.full((10,), torch.nan)}),
        "values in fc.bias that are not finite",
    ),
    "whole numbers": (
        Given(lambda w: {**w.state(), "fc.bias": torch.ones(10, dtype=torch.int64)}),
        "linear.bias 10 int64 instead of 10 float32",
    ),
    "another width": (
        Given(lambda w: w.state(), {"model": {"width": 8}}),
        "the file has width 4: pass --width 4",
    ),
    "7×7 kernels": (
        Given(lambda w: {**w.state(), "conv1.weight": torch.ones(WIDTH, 1, 7, 7)}),
        "its first kernels are 7×7, for images of 224×224: bring its code with --network",
    ),
    "more classes": (
        Given(
            lambda w: {**w.state(), "fc.weight": torch.ones(12, 8 * WIDTH), "fc.bias": torch.ones(12)},
        ),
        "the file is for 12 classes",
    ),
    "another channel": (
        Given(lambda w: {**w.state(), "conv1.weight": torch.ones(WIDTH, 3, 3, 3)}),
        "the file is for images of 3 channels",
    ),
    "a layer missing": (
        Given(lambda w: {n: t for n, t in w.state().items() if not n.startswith("layer4.1.")}),
        "missing (blocks.7.conv1.weight",
    ),
    "a layer too many": (
        Given(lambda w: {**w.state(), "projector.weight": torch.ones(3, 3)}),
        "1 unexpected (projector.weight)",
    ),
    "an optimizer alone": (
        Given(lambda w: {"optimizer": w.state()}),
        "has no weights in it; it holds optimizer",
    ),
    "numbers alone": (Given(lambda w: {"epoch": 3}), "has no weights in it; it holds epoch"),
    "a list": (Given(lambda w: [w.state()]), "has no weights in it; it holds a list"),
    "a tensor": (Given(lambda w: torch.ones(3)), "has no weights in it; it holds a Tensor"),
    "a module": (
        Given(lambda w: Theirs()),
        "contains pickled code (tests.benchmark.networks.test_odd_weights.Theirs)",
    ),
    "code": (Given(lambda w: {"net": w.state(), "x": Bomb()}), "contains pickled code (posix.mkdir)"),
    "a function": (
        Given(lambda w: {"net": w.state(), "f": os.getcwd}),
        "contains pickled code (posix.getcwd)",
    ),
    "code called .safetensors": (
        Given(lambda w: pytorch({"net": w.state(), "x": Bomb()}), {}, ".safetensors"),
        "contains pickled code (posix.mkdir)",
    ),
    "a bare pickle of code": (Given(lambda w: pickle.dumps(Bomb(), protocol=2)), "contains pickled code"),
    "arrays of NumPy": (Given(lambda w: arrays(w.state())), "it is an archive of NumPy arrays"),
    "one array": (Given(lambda w: b"\x93NUMPY\x01\x00" + bytes(90)), "it is a NumPy array"),
    "Keras": (Given(lambda w: b"\x89HDF\r\n\x1a\n" + bytes(90)), "it is an HDF5 file"),
    "gzip": (Given(lambda w: gzip.compress(pytorch(w.state()))), "it is compressed by gzip: unpack it"),
    "a web page": (Given(lambda w: b"<!DOCTYPE html><p>quota</p>"), "it is a web page"),
    "Git LFS": (
        Given(lambda w: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        "it is a pointer of Git LFS: git lfs pull fetches the file",
    ),
    "GGUF": (Given(lambda w: b"GGUF" + bytes(90)), "it is a GGUF file"),
    "TorchScript": (Given(lambda w: script(w)), "it is a TorchScript program"),
    "a zip file": (
        Given(lambda w: zipped("readme.txt", b"hello")),
        "it is a zip file that torch.save did not",
    ),
    "cut short": (Given(lambda w: pytorch(w.state())[:4000]), "is damaged or no file of weights"),
    "safetensors cut short": (
        Given(lambda w: safetensors(w.state())[:-100], {}, ".safetensors"),
        "is damaged or no file of weights",
    ),
    "text": (Given(lambda w: b"not weights"), "is damaged or no file of weights"),
    "nothing": (Given(lambda w: b""), "is empty"),
    "an unknown reading": (
        Given(lambda w: w.state(), {"weights_input": "nromalised"}),
        "unknown --weights-input 'nromalised'; did you mean normalised",
    ),
    "an unknown word in a reading": (
        Given(lambda w: w.state(), {"weights_input": "plain+grb"}),
        "unknown word after + in --weights-input 'grb'",
    ),
    "two readings at once": (
        Given(lambda w: w.state(), {"weights_input": "half", "weights_plain": True}),
        "--weights-plain is --weights-input plain, got half too",
    ),
}


class Bomb:
    """Unpickled, it makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("/tmp/odd-weights-bomb",)


def arrays(state: State) -> bytes:
    import io

    buffer = io.BytesIO()
    np.savez(buffer, **{name: tensor.numpy() for name, tensor in state.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def script(w: World) -> bytes:
    """The parts of a TorchScript archive that tell it from a state dict."""
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for part in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"model/{part}", b"")
    return buffer.getvalue()


def store_of(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def filled(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that something is in already."""
    folder = tmp_path_factory.mktemp("filled")
    torch.save({**front((1,)), **world.state()}, folder / "w.pt")
    taken_in(world, folder / "w.pt", folder / "r", {})
    return folder / "r"


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_run_as_it_was_trained_is_refused(
    name: str, world: World, filled: Path, tmp_path: Path
) -> None:
    """In one line with the true reason; no code runs, and the store is what it was."""
    given, message = REFUSED[name]
    file = file_of(given, world, tmp_path)
    before = store_of(filled)
    with pytest.raises(BenchError) as caught:
        taken_in(world, file, filled, given.options)
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert store_of(filled) == before
    assert not Path("/tmp/odd-weights-bomb").exists()


def test_the_note_names_both_figures(world: World, tmp_path: Path) -> None:
    torch.save(ours(world.state("plain")), tmp_path / "w.pt")
    task, _ = taken_in(world, tmp_path / "w.pt", tmp_path / "r", {})
    note = read_card(tmp_path / "r" / task.path)["reading"]["note"]
    assert note.startswith("plain [0, 1] pixels, chosen by 512 training images: ")
    share, _, other = note.partition("images: ")[2].partition(" % against ")
    assert float(share) > 85 > float(other.partition(" %")[0])


def test_readings_are_part_of_the_identity(world: World, tmp_path: Path) -> None:
    """What evidence chooses, what is asked for, and which set are different tasks; accepting is none."""
    torch.save({"net": world.state(), "ema": spoilt(world.state())}, tmp_path / "w.pt")
    asked: list[dict[str, Any]] = [
        {},
        {"weights_input": "plain"},
        {"weights_input": "normalised"},
        {"weights_input": "half"},
        {"weights_input": "half+stride-2"},
        {"weights_entry": "net"},
    ]
    ids = [planned(world, tmp_path / "w.pt", each).id for each in asked]
    assert len(set(ids)) == len(ids)
    plain = planned(world, tmp_path / "w.pt", {"weights_plain": True})
    assert plain.id == ids[1]
    assert plain.spec["plain"] is True  # as it was called before readings had names


COLOURS = replace(DATASETS["digits"].info, channels=3, mean=(0.3, 0.2, 0.4), std=(0.3, 0.2, 0.4))


@pytest.fixture(scope="session")
def coloured(world: World) -> tuple[Tensor, Tensor, Net]:
    """Digits whose hue is their class, and a network that saw their channels in the order BGR."""
    splits = world.data.load()
    x, y = torch.from_numpy(splits.train_x.copy()).float() / 255, torch.from_numpy(splits.train_y.copy())
    hue = (y * 7 % 10).float()[:, None, None, None] / 9
    x = torch.cat([x * hue, 0.4 * x, x * (1 - hue)], 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        turned = x.flip(1)
        return x, y, trained(Theirs(channels=3), turned, y, (turned, y), epochs=4)


def test_the_order_of_channels_is_told(coloured: tuple[Tensor, Tensor, Net]) -> None:
    from robustness_bench.benchmark.networks import build_model
    from robustness_bench.benchmark.networks.matching import match
    from robustness_bench.benchmark.networks.readings import Trial

    x, y, net = coloured
    model = build_model("resnet-18", COLOURS, WIDTH)
    trial = Trial(
        matched=match(net.state, model, "w"),
        model="resnet-18",
        width=WIDTH,
        info=COLOURS,
        x=x[:512],
        y=y[:512].numpy(),
        where="w",
    )
    chosen = trial.choose()
    assert chosen.reading.name == "plain+bgr"
    assert "channels in the order BGR" in chosen.note
    model.load_state_dict(chosen.state)
    with torch.no_grad():
        found = (model.eval()(x).argmax(1) == y).float().mean()
    assert abs(float(found) - net.accuracy) < 0.01


NETWORK = """
from torch import nn

def build(*, classes, channels, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))
"""


def test_the_caption_is_of_what_was_evaluated(bench: Bench, world: World, tmp_path: Path) -> None:
    """A two-layer network of a stranger is no ResNet-18, and weights say how they are run."""
    (tmp_path / "linear.py").write_text(NETWORK)
    save_file({"1.weight": torch.randn(10, 64), "1.bias": torch.zeros(10)}, tmp_path / "w.safetensors")
    common: list[object] = [
        "run",
        "--defense",
        "standard",
        "--norm",
        "linf",
        "--threat",
        "white",
        "--attacks",
        "none",
    ]
    common += ["--n-examples", 6, "--workers", 1, "--out", tmp_path / "r"]
    code = ["--network", tmp_path / "linear.py", "--trust-code"]
    said = bench(*common, "--weights", tmp_path / "w.safetensors", *code)
    assert said.status == 0, said.err
    text = " ".join(said.out.split())
    assert "The network of linear.py (SHA-256 " in text
    assert "resnet" not in text

    torch.save(world.state("plain"), tmp_path / "w.pt")
    said = bench(*common, "--weights", tmp_path / "w.pt", "--width", WIDTH)
    assert said.status == 0, said.err
    text = " ".join(said.out.split())
    assert "; input: plain [0, 1] pixels, chosen by 512 training images: " in text
    from robustness_bench.benchmark.store.cells import find_records, read_record

    notes = {read_record(path).environment.get("input", "") for path in find_records(tmp_path / "r")}
    assert any(note.startswith("plain [0, 1] pixels, chosen by 512 training images: ") for note in notes)


def test_code_that_does_not_fit_its_weights_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "linear.py").write_text(NETWORK)
    save_file({"other": torch.ones(2)}, tmp_path / "w.safetensors")
    said = bench(
        *("run", "--defense", "standard", "--norm", "linf", "--threat", "white", "--attacks", "none"),
        *(
            "--n-examples",
            6,
            "--workers",
            1,
            "--out",
            tmp_path / "r",
            "--weights",
            tmp_path / "w.safetensors",
        ),
        *("--network", tmp_path / "linear.py", "--trust-code"),
    )
    assert said.status != 0
    assert not list((tmp_path / "r").rglob("*.py"))


@pytest.mark.parametrize(
    "options", [["--weights-plain"], ["--weights-input", "half"], ["--weights-entry", "ema"]]
)
def test_options_of_weights_need_weights(bench: Bench, options: list[str]) -> None:
    said = bench("plan", "--defense", "standard", *options)
    assert said.status == 2
    assert f"{options[0]} is for given weights: name their file with --weights" in said.err


class Returns(nn.Module):
    """A model that returns something in place of logits."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(x.flatten(1)[:, :10])


@pytest.mark.parametrize(
    ("wrap", "got"),
    [
        (lambda z: (z, z), "a tuple"),
        (lambda z: {"logits": z}, "a dict"),
        (lambda z: [z], "a list"),
        (lambda z: None, "a NoneType"),
        (lambda z: z[:1], "shape (1, 10)"),
        (lambda z: z.sum(1), "shape (2,)"),
    ],
    ids=["tuple", "dict", "list", "nothing", "one row", "no classes"],
)
def test_a_model_that_returns_no_logits_is_named(wrap: Callable[[Tensor], Any], got: str) -> None:
    attack = PGD(norm="linf", eps=0.1)
    with pytest.raises(AttackError, match="return only logits") as caught:
        attack(Returns(wrap), torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64))
    assert f"the model returned {got} for 2 images" in str(caught.value)


def test_safetensors_whose_header_begins_like_a_pickle(tmp_path: Path) -> None:
    """One file in 32 has a header length whose first byte is 0x80."""
    from robustness_bench.benchmark.networks.weights import read_weights

    for extra in range(2000):
        content = safetensors_named({"w": torch.ones(2, 2)}, "x" * extra)
        if content[0] == 0x80:
            break
    (tmp_path / "w.safetensors").write_bytes(content)
    assert torch.equal(read_weights(tmp_path / "w.safetensors")["w"], torch.ones(2, 2))
    from robustness_bench.benchmark.submit.intake import static

    submission: Any = argparse.Namespace(weights="w.safetensors")
    assert static._weights(submission, tmp_path).status == "ok"


def safetensors_named(state: State, note: str) -> bytes:
    from safetensors.torch import save

    return save(state, metadata={"note": note})


def test_there_are_fifty_cases_and_more() -> None:
    assert len(LOADS) + len(REFUSED) >= 100
    assert DIGITS.info.mean == (MEAN,)
    assert DIGITS.info.std == (STD,)
    assert json.dumps(sorted(LOADS))
