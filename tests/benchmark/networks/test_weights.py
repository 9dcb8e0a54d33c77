"""Weights of others: what is read is what was saved, what is refused is refused in one line, no code runs."""

import hashlib
import os
import pickle
import random
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from robustness_bench.benchmark.data import DATASETS
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.networks import OWN_MODELS, build_model
from robustness_bench.benchmark.networks.matching import fit_weights
from robustness_bench.benchmark.networks.weights import fingerprint, read_weights
from tests.support import images, small_model

State = dict[str, Tensor]
TENSORS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.tensor([-1.0, 0.5])}


class KuangliuBlock(nn.Module):
    """The basic block with a strided 1×1 convolution as its shortcut (He et al. 2016, option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.name = shortcut if stride != 1 else ""
        if self.name:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.add_module(shortcut, nn.Sequential(projection, nn.BatchNorm2d(outputs)))

    def forward(self, x: Tensor) -> Tensor:
        skip = getattr(self, self.name)(x) if self.name else x
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + skip)


class KuangliuResNet(nn.Module):
    """ResNet-18 for small images with the attribute names others use."""

    def __init__(self, width: int, shortcut: str = "shortcut", head: str = "linear") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for stage in range(1, 5):
            outputs = width * 2 ** (stage - 1)
            inputs, stride = (outputs // 2, 2) if stage > 1 else (outputs, 1)
            first = KuangliuBlock(inputs, outputs, stride, shortcut)
            self.add_module(
                f"layer{stage}", nn.Sequential(first, KuangliuBlock(outputs, outputs, 1, shortcut))
            )
        self.head = head
        self.add_module(head, nn.Linear(8 * width, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        logits: Tensor = getattr(self, self.head)(x.mean((2, 3)))
        return logits


def ours(width: int = 4, seed: int = 0, name: str = "resnet-18") -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(name, DATASETS["cifar10"].info, width)
    assert isinstance(model, nn.Sequential)
    return model


def theirs(width: int = 4, shortcut: str = "shortcut", head: str = "linear") -> KuangliuResNet:
    """Weights and statistics that all differ, so that no two can be exchanged unnoticed."""
    model = KuangliuResNet(width, shortcut, head)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "num_batches" in name:
                tensor.fill_(17)
            elif tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5)
    return model.eval()


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(x)
    return logits


def normalised(x: Tensor) -> Tensor:
    info = DATASETS["cifar10"].info
    channels = zip(x.unbind(1), info.mean, info.std, strict=True)
    return torch.stack([(channel - mean) / std for channel, mean, std in channels], 1)


def line_of(call: Callable[[], object]) -> str:
    """The text of the BenchError that ``call`` raises, which is one line."""
    with pytest.raises(BenchError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def assert_equal(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    for name in right:
        assert left[name].dtype == right[name].dtype
        assert torch.equal(left[name], right[name]), name


# Reading


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".tar", ""])
def test_a_pytorch_file_comes_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(OrderedDict(TENSORS), path)
    assert_equal(read_weights(path), TENSORS)


def test_a_file_of_old_pytorch_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"net": TENSORS}, path, _use_new_zipfile_serialization=False)
    assert_equal(read_weights(path), TENSORS)


def test_safetensors_come_back(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(TENSORS, path)
    assert_equal(read_weights(path), TENSORS)


def test_parameters_come_back_as_tensors_without_gradients(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"w": nn.Parameter(torch.ones(2))}, path)
    assert not read_weights(path)["w"].requires_grad


@pytest.mark.parametrize(
    "key", ["state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params"]
)
def test_a_checkpoint_around_the_weights(tmp_path: Path, key: str) -> None:
    path = tmp_path / "checkpoint.pt"
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"epoch": torch.tensor(3), "optimizer": optimizer, key: TENSORS, "acc": 0.5}, path)
    assert_equal(read_weights(path), TENSORS)


def test_several_sets_of_weights_are_named_and_one_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    other = {"x": torch.zeros(1, 1)}
    torch.save({"net": other, "state_dict": {"model": TENSORS}, "model": other}, path)
    assert line_of(lambda: read_weights(path)) == (
        f"{path} holds 2 sets of weights, net (1 tensors), state_dict.model (2 tensors): say which with "
        "--weights-entry NAME"
    )
    assert_equal(read_weights(path, "state_dict.model"), TENSORS)
    assert_equal(read_weights(path, "net"), other)


def test_a_layer_called_like_a_usual_key_is_a_layer(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.pt", {"weights": torch.ones(2), "model": torch.zeros(2)}
    torch.save(state, path)
    assert_equal(read_weights(path), state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."])
def test_prefixes_of_wrappers_are_taken_off(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save({prefix + name: tensor for name, tensor in TENSORS.items()}, path)
    assert_equal(read_weights(path), TENSORS)


def test_a_prefix_that_one_name_lacks_stays(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.pt", {"module.a": torch.ones(1), "module.b": torch.ones(1)}
    state["modules.c"] = torch.ones(1)
    torch.save(state, path)
    assert_equal(read_weights(path), state)


def test_the_fingerprint_is_the_sha_256(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"abc")
    assert fingerprint(path) == hashlib.sha256(b"abc").hexdigest()


# Refusing


@pytest.mark.parametrize("read", [read_weights, fingerprint])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_absent_folder_and_empty(tmp_path: Path, suffix: str, read: Callable[[Path], object]) -> None:
    path = tmp_path / f"w{suffix}"
    assert line_of(lambda: read(path)) == f"there is no file {path}; check the path"
    path.mkdir()
    assert line_of(lambda: read(path)) == f"{path} is a folder; name a file in it"
    path.rmdir()
    path.touch()
    assert line_of(lambda: read(path)) == f"{path} is empty; copy or download it again"


def test_not_permitted() -> None:
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "w.pt"
        path.write_bytes(b"abc")
        path.chmod(0)
        if user == 0:  # for root no file is unreadable
            os.seteuid(65534)
        try:
            assert "Permission denied" in line_of(lambda: read_weights(path))
        finally:
            os.seteuid(user)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"<html>quota exceeded</html>", bytes(100), b"PK\x03\x04cut", b"\x80"])
def test_damaged(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    text = line_of(lambda: read_weights(path))
    assert text.startswith(f"{path} is damaged or no file of weights (")
    assert text.endswith("; copy or download it again")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_no_damage_ends_in_anything_but_one_line(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path, source = tmp_path / f"w{suffix}", random.Random(0)
    if suffix == ".pt":
        torch.save({"net": TENSORS}, path, _use_new_zipfile_serialization=zipped)
    else:
        save_file(TENSORS, path)
    whole, refused = path.read_bytes(), []
    for _ in range(150):
        spoilt = bytearray(whole[: source.choice([len(whole), source.randrange(1, len(whole))])])
        for _ in range(source.randrange(1, 6)):
            spoilt[source.randrange(len(spoilt))] = source.randrange(256)
        path.write_bytes(spoilt)
        try:
            read_weights(path)
        except BenchError as error:
            refused.append(str(error))
    assert len(refused) > 75
    assert "\n" not in "".join(refused)


class Bomb:
    """Unpickled, it creates a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def plant(path: Path, trace: Path, form: str) -> None:
    content = {"state_dict": TENSORS, "extra": Bomb(trace)}
    if form == "zip":
        torch.save(content, path)
    elif form == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(content["extra"], protocol=int(form)))


@pytest.mark.parametrize("form", ["zip", "legacy", "0", "2", "4", "5"])
@pytest.mark.parametrize("forced", ["0", "1"])
def test_pickled_code_is_refused_and_not_run(
    tmp_path: Path, form: str, forced: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
    path, trace = tmp_path / "w.pt", tmp_path / "trace"
    plant(path, trace, form)
    text = line_of(lambda: read_weights(path))
    assert not trace.exists()
    if form != "0":  # a pickle of text, which cannot be told from other text
        assert text.startswith(f"{path} contains pickled code")
        assert "; bench never runs such code: " in text
        assert "save `model.state_dict()`" in text
        assert "safetensors" in text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form in ("zip", "legacy"):
            torch.load(path, weights_only=False)
        else:
            pickle.loads(path.read_bytes())
    assert trace.exists(), "the bomb was a dud"


def test_a_pickled_module_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(small_model(), path)
    assert "contains pickled code (tests.support.Small)" in line_of(lambda: read_weights(path))


def test_code_under_the_name_of_safetensors_is_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "w.safetensors", tmp_path / "trace"
    plant(path, trace, "zip")
    assert "contains pickled code" in line_of(lambda: read_weights(path))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ({}, "it holds nothing"),
        ({"state_dict": {}}, "it holds state_dict:"),
        ({"epoch": 3, "optimizer": TENSORS}, "it holds epoch, optimizer:"),
        ({str(i): i for i in range(5)}, "it holds 0, 1, 2, …:"),
        ([torch.ones(2)], "it holds a list:"),
        (torch.ones(2), "it holds a Tensor:"),
        ({"a": torch.ones(2, device="meta"), "b": torch.eye(2).to_sparse()}, "it holds a, b:"),
    ],
)
def test_no_tensors(tmp_path: Path, content: object, held: str) -> None:
    path = tmp_path / "w.pt"
    torch.save(content, path)
    text = line_of(lambda: read_weights(path))
    assert text.startswith(f"{path} has no weights in it; {held}")
    assert text.endswith("save `model.state_dict()`")


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path, name = tmp_path / "w.pt", "a\x1b[2J\nb" + 200 * "c"
    torch.save({name: 1}, path)
    assert f"it holds a?[2J b{113 * 'c'}…:" in line_of(lambda: read_weights(path))
    torch.save({name: torch.tensor([torch.nan])}, path)
    assert "has values in a?[2J b" in line_of(lambda: read_weights(path))
    state = ours().state_dict() | {name: torch.ones(1)}
    assert "1 unexpected (a?[2J b" in line_of(lambda: fit_weights(state, ours(), "w"))


def test_a_checkpoint_that_contains_itself(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pt")
    assert "is damaged or no file of weights" in line_of(lambda: read_weights(tmp_path / "w.pt"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite(tmp_path: Path, bad: float, dtype: torch.dtype) -> None:
    path, weight = tmp_path / "w.pt", torch.ones(3, 3, dtype=dtype)
    weight[2, 1] = bad
    torch.save({"a": torch.ones(2), "b": weight}, path)
    assert line_of(lambda: read_weights(path)).startswith(f"{path} has values in b that are not finite")


def test_values_beyond_float32(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.tensor([1e300], dtype=torch.float64)}, path)
    assert "in a that are not finite in float32" in line_of(lambda: read_weights(path))


# Fitting


@pytest.mark.parametrize("name", OWN_MODELS)
def test_our_own_names(name: str) -> None:
    source, model = ours(seed=1, name=name), ours(name=name)
    model.load_state_dict(fit_weights(source.state_dict(), model, "w"), strict=True)
    assert_equal(model.state_dict(), source.state_dict())


@pytest.mark.parametrize("name", OWN_MODELS)
def test_the_network_alone_keeps_our_normalisation(name: str) -> None:
    source, model = ours(seed=1, name=name), ours(name=name)
    model.load_state_dict(fit_weights(source[1].state_dict(), model, "w"), strict=True)
    assert_equal(model.state_dict(), source.state_dict())


def test_a_file_with_a_normalisation_of_its_own_brings_it() -> None:
    source, model = ours(seed=1), ours()
    source.state_dict()["0.mean"].fill_(0.25)
    assert fit_weights(source.state_dict(), model, "w")["0.mean"].flatten().tolist() == [0.25] * 3


def test_what_is_fitted_shares_nothing() -> None:
    source, model = ours(seed=1), ours()
    for tensor in fit_weights(source[1].state_dict(), model, "w").values():
        tensor.fill_(3)
    assert_equal(source.state_dict(), ours(seed=1).state_dict())
    assert_equal(model.state_dict(), ours().state_dict())


@pytest.mark.parametrize(("shortcut", "head"), [("shortcut", "linear"), ("downsample", "fc")])
@pytest.mark.parametrize("plain", [False, True])
def test_others_names_give_the_same_function(tmp_path: Path, shortcut: str, head: str, plain: bool) -> None:
    """Logits of a ResNet-18 written down here and of ours with its weights, on odd and even sizes."""
    other, model, path = theirs(4, shortcut, head), ours(), tmp_path / "w.pt"
    torch.save({"net": {f"module.{name}": tensor for name, tensor in other.state_dict().items()}}, path)
    fitted = fit_weights(read_weights(path), model, str(path), plain=plain)
    model.load_state_dict(fitted, strict=True)
    for size in (16, 19):
        x = images(5, 3, size)
        expected = logits_of(other, x if plain else normalised(x))
        assert expected.std() > 0.05
        assert (logits_of(model, x) - expected).abs().max() <= 1e-5
    assert all(count == 17 for name, count in fitted.items() if "num_batches" in name)


def test_others_names_behind_a_normalisation() -> None:
    other, model = theirs(), ours()
    state = {f"1.{name}": tensor for name, tensor in other.state_dict().items()}
    state |= {"0.mean": torch.full((1, 3, 1, 1), 0.5), "0.std": torch.full((1, 3, 1, 1), 0.25)}
    model.load_state_dict(fit_weights(state, model, "w"), strict=True)
    x = images(3, 3, 16)
    assert (logits_of(model, x) - logits_of(other, (x - 0.5) / 0.25)).abs().max() <= 1e-5


@pytest.mark.parametrize("alone", [False, True])
def test_counts_of_batches_may_be_absent(alone: bool) -> None:
    source, model = ours(seed=1), ours()
    model.train()(images(2, 3, 8))
    full = source[1].state_dict() if alone else source.state_dict()
    fitted = fit_weights({n: t for n, t in full.items() if "num_batches" not in n}, model, "w")
    model.load_state_dict(fitted, strict=True)
    counts = [fitted[name] for name in fitted if "num_batches" in name]
    assert len(counts) == 20
    assert all(count.dtype == torch.int64 and count == 0 for count in counts)
    assert torch.equal(fitted["1.bn1.running_mean"], source[1].state_dict()["bn1.running_mean"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype) -> None:
    source = ours(seed=1).state_dict()
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in source.items()}
    for name, tensor in fit_weights(state, ours(), "w").items():
        assert tensor.dtype == source[name].dtype
        assert torch.equal(tensor, state[name].to(source[name].dtype))


def test_whole_numbers_are_no_weights() -> None:
    state = ours().state_dict()
    state["1.conv1.weight"] = state["1.conv1.weight"].to(torch.int8)
    assert "1.conv1.weight 4×3×3×3 int8 instead of 4×3×3×3 float32" in line_of(
        lambda: fit_weights(state, ours(), "w")
    )


@pytest.mark.parametrize("name", OWN_MODELS)
def test_another_width_is_named(name: str) -> None:
    conv = {"resnet-18": "conv1", "vgg-19": "features.0", "magnet-cnn": "layers.0"}[name]
    text = line_of(lambda: fit_weights(ours(5, name=name)[1].state_dict(), ours(4, name=name), "w.pt"))
    assert text.startswith("w.pt does not fit the model: ")
    assert f"of another shape ({conv}.weight 5×3×3×3 float32 instead of 4×3×3×3 float32, " in text
    assert text.endswith(", …); the file has width 5: pass --width 5")


def test_a_kernel_laid_out_otherwise_is_of_another_shape() -> None:
    state = ours().state_dict()
    state["1.conv1.weight"] = state["1.conv1.weight"].permute(2, 3, 1, 0)
    assert "1.conv1.weight 3×3×3×4 float32 instead of 4×3×3×3 float32" in line_of(
        lambda: fit_weights(state, ours(), "w")
    )


def test_another_width_is_named_under_others_names_too() -> None:
    text = line_of(lambda: fit_weights(theirs(5).state_dict(), ours(4), "w.pt"))
    assert text.endswith("; the file has width 5: pass --width 5")


def test_other_channels_and_classes_are_named() -> None:
    other = build_model("resnet-18", DATASETS["tiny-imagenet"].info, 4).state_dict()
    assert line_of(lambda: fit_weights(other, ours(), "w")) == (
        "w does not fit the model: 2 of another shape (1.linear.weight 200×32 float32 instead of 10×32 "
        "float32, 1.linear.bias 200 float32 instead of 10 float32); the file is for 200 classes: choose its "
        "--dataset"
    )
    grey = ours().state_dict()
    grey["1.conv1.weight"] = torch.ones(4, 1, 3, 3)
    assert line_of(lambda: fit_weights(grey, ours(), "w")).endswith(
        "; the file is for images of 1 channels: choose its --dataset"
    )


def test_missing_and_unexpected_names() -> None:
    state = ours().state_dict()
    for gone in ("1.conv1.weight", "1.bn1.bias"):
        del state[gone]
    state |= {f"1.more.{i}": torch.ones(1) for i in range(4)}
    assert line_of(lambda: fit_weights(state, ours(), "w.pt")) == (
        "w.pt does not fit the model: 2 missing (1.conv1.weight, 1.bn1.bias), 4 unexpected (1.more.0, "
        "1.more.1, 1.more.2, …); use weights of the same network (bench list models)"
    )


def test_names_of_the_network_alone_are_reported_as_they_are_in_the_file() -> None:
    state = theirs().state_dict()
    state["layer5.0.conv1.weight"] = state.pop("layer1.0.conv1.weight")
    text = line_of(lambda: fit_weights(state, ours(), "w"))
    assert "1 missing (blocks.0.conv1.weight), 1 unexpected (layer5.0.conv1.weight);" in text


def test_half_a_normalisation_is_missing_the_other_half() -> None:
    state = ours().state_dict()
    del state["0.std"]
    assert "1 missing (0.std);" in line_of(lambda: fit_weights(state, ours(), "w"))


def test_a_deeper_network_is_not_mistaken_for_ours() -> None:
    """layer1.2 of a ResNet-34 is not layer2.0, whose name blocks.2 counting on would give."""
    state = theirs().state_dict()
    moved = {n.replace("layer2.0.", "layer1.2."): t for n, t in state.items()}
    text = line_of(lambda: fit_weights(moved, ours(), "w"))
    assert "unexpected (layer1.2.conv1.weight" in text
    assert "missing (blocks.2.conv1.weight" in text


def test_two_names_for_one_tensor_are_one_too_many() -> None:
    state = theirs().state_dict()
    state["fc.weight"] = state["linear.weight"] + 1
    assert "1 unexpected (fc.weight);" in line_of(lambda: fit_weights(state, ours(), "w"))


def test_a_network_of_other_depth_gets_no_advice_on_width() -> None:
    state = theirs(3).state_dict()
    state["layer1.2.conv1.weight"] = torch.ones(3, 3, 3, 3)
    assert "--width" not in line_of(lambda: fit_weights(state, ours(4), "w"))


def test_resnet_weights_do_not_fit_vgg() -> None:
    text = line_of(lambda: fit_weights(ours().state_dict(), ours(name="vgg-19"), "w"))
    assert "missing (1.features.0.weight" in text
