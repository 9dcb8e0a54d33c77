"""Networks of timm and torchvision by name, from their own caches, without a network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models
from torchvision.transforms import functional

from robustness_bench.benchmark.data import DATASETS, locate
from robustness_bench.benchmark.data.base import DatasetInfo
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.networks.layers import Resize
from robustness_bench.benchmark.networks.named import load_named, parse
from robustness_bench.benchmark.store.cells import read_records
from tests.conftest import Bench
from tests.support import images


def _info(classes: int, size: int) -> DatasetInfo:
    return replace(DATASETS["cifar10"].info, classes=classes, size=size)


def test_torchvision_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its logits on images of its input size, which the library's own transform would give too."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = models.SqueezeNet1_1_Weights.DEFAULT
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = models.squeezenet1_1().eval()
    file = tmp_path / "hub" / "checkpoints" / Path(published.url).name
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)
    named = parse("torchvision:squeezenet1_1")
    assert named.name == "torchvision:squeezenet1_1@IMAGENET1K_V1"
    model, x = load_named(named, _info(1000, 224)), images(2, 3, 224)
    transform = published.transforms()
    with torch.no_grad():
        expected = network(functional.normalize(x, transform.mean, transform.std))
        torch.testing.assert_close(model(x), expected)
        small = functional.resize(images(2, 3, 32), [224, 224], antialias=True)
        resized = network(functional.normalize(small, transform.mean, transform.std))
        torch.testing.assert_close(load_named(named, _info(1000, 32))(images(2, 3, 32)), resized)


def test_resizing_passes_gradients_to_the_pixels() -> None:
    x = images(1, 3, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(Resize(16, "bicubic")(x).sum(), x)
    assert (gradient != 0).all()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("torchvision:resnet19", "unknown network of torchvision 'resnet19'; did you mean resnet18"),
        ("torchvision:resnet18@BEST", "unknown weights of torchvision's resnet18 'BEST'"),
        ("timm:resnet_18", "unknown network of timm 'resnet_18'; did you mean"),
    ],
)
def test_an_unknown_name_has_near_matches(source: str, said: str) -> None:
    if source.startswith("timm"):
        pytest.importorskip("timm", reason="needs the extra timm")
    with pytest.raises(BenchError) as error:
        parse(source)
    assert str(error.value).startswith(said)


def test_other_classes_are_named() -> None:
    with pytest.raises(
        BenchError, match="is for images of 3 channels and 1000 classes, cifar10 has 3 and 10"
    ):
        load_named(parse("torchvision:squeezenet1_1")._replace(file=Path("own.pt")), _info(10, 32))


def test_timm_from_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm", reason="needs the extra timm")
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("test_resnet").eval()
    home = tmp_path / "models--timm--test_resnet.r160_in1k"
    snapshot = home / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(snapshot.name)
    named, info = parse("timm:test_resnet"), _info(1000, 160)
    assert named.name == "timm:test_resnet.r160_in1k"
    with pytest.raises(BenchError, match=r"cannot be loaded .*: where its weights are not cached"):
        load_named(named, info)
    save_file(network.state_dict(), snapshot / "model.safetensors")
    x = images(2, 3, 160)
    with torch.no_grad():
        torch.testing.assert_close(
            load_named(named, info)(x), network(2 * x - 1)
        )  # its mean and deviation: 0.5


def test_a_run_on_class_folders_with_weights_of_ones_own(bench: Bench, tmp_path: Path) -> None:
    """Three classes of images of 8×8 pixels; the network takes 160×160."""
    timm = pytest.importorskip("timm", reason="needs the extra timm")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in "abc":
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(2):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{number}.png")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("test_resnet", num_classes=3).eval()
    torch.save(network.state_dict(), tmp_path / "own.pth")
    command = [
        *("run", "--defense", "undefended", "--dataset", "folder", "--data-dir", tmp_path / "data"),
        *("--weights", f"timm:test_resnet@{tmp_path / 'own.pth'}", "--attacks", "none", "--norm", "l2"),
        *("--threat", "white", "--no-diagnosis", "--workers", 1, "--out", tmp_path / "r"),
    ]
    said = bench(*command)
    assert said.status == 0, said.err
    assert "nothing to do" in bench(*command).out
    (record,) = read_records(tmp_path / "r")
    x = torch.from_numpy(locate("folder", tmp_path / "data").load().test_x.copy()).float() / 255
    with torch.no_grad():
        expected = network(2 * functional.resize(x, [160, 160], antialias=True) - 1).argmax(1)
    assert record.rows["clean_prediction"].tolist() == expected.tolist()
    torch.save({"fc.bias": torch.zeros(3)}, tmp_path / "other.pth")
    command[command.index("--weights") + 1] = f"timm:test_resnet@{tmp_path / 'other.pth'}"
    said = bench(*command)
    assert said.status == 2
    assert "does not fit timm:test_resnet" in said.err
