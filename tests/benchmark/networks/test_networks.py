import pytest
import torch
from torch import nn

from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.benchmark.data import DATASETS
from robustness_bench.benchmark.data.augmentation import crop_flip
from robustness_bench.benchmark.networks import OWN_MODELS, build_model
from robustness_bench.benchmark.networks.fold import folded, refolded
from robustness_bench.benchmark.networks.magnet import MagNetCNN
from robustness_bench.benchmark.networks.resnet import ResNet18
from tests.support import images


@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10", "tiny-imagenet"])
@pytest.mark.parametrize("name", OWN_MODELS)
def test_every_shape_and_folding(name: str, dataset: str) -> None:
    info = DATASETS[dataset].info
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(name, info, 4)
    x = images(4, info.channels, info.size)
    for _ in range(3):
        model.train()(x)  # so that batch norm has statistics worth folding
    light = folded(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in light.modules())
    with torch.no_grad():
        logits = model.eval()(x)
        assert logits.shape == (4, info.classes)
        assert torch.allclose(light(x), logits, atol=1e-4)
    untouched = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert untouched == (name != "magnet-cnn")


class Odd(nn.Module):
    """A network of others, with state that is no tensor."""

    times = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.times * x.flatten(1)


@pytest.mark.parametrize("name", OWN_MODELS)
def test_a_folded_copy_follows_its_model_to_the_bit(name: str) -> None:
    """Weights move and so do batch norm's statistics; the copy is made once."""
    x = images(4, 1, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(name, DATASETS["digits"].info, 4).to(memory_format=torch.channels_last)
    first = refolded(model)
    for _ in range(2):
        model.train()(x).sum().backward()
        torch.optim.SGD(model.parameters(), lr=0.01).step()
    again, anew = refolded(model), folded(model)
    assert again is first
    assert not again.training
    assert not any(weight.requires_grad for weight in again.parameters())
    assert torch.equal(again(x), anew(x))
    assert again.state_dict().keys() == anew.state_dict().keys()


def test_a_network_of_others_is_copied_whole_each_time() -> None:
    odd, x = Odd(), images(2, 1, 8)
    refolded(odd)
    odd.times = 3.0
    assert torch.equal(refolded(odd)(x), odd(x))


def test_resnet_18_has_the_published_number_of_weights() -> None:
    assert sum(weight.numel() for weight in ResNet18(3, 10).parameters()) == 11_173_962


def test_magnets_classifiers_have_the_published_size_and_logits_below_0() -> None:
    grey, colour = MagNetCNN(1, 10, 32, 28), MagNetCNN(3, 10, 96, 32)
    assert sum(weight.numel() for weight in grey.parameters()) == 312_202
    assert round(sum(weight.numel() for weight in colour.parameters()) / 1e6, 2) == 1.37
    with torch.no_grad():
        assert (grey(images(4, 1, 28)) < 0).any()
        assert (colour(images(4, 3, 32)) < 0).any()


def test_normalisation_is_the_first_layer() -> None:
    info = DATASETS["cifar10"].info
    normalize = build_model("resnet-18", info, 4)[0]  # type: ignore[index]
    grey = torch.tensor(info.mean).reshape(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert normalize(grey).abs().max() < 1e-6


def test_crop_and_flip_give_shifted_or_mirrored_images() -> None:
    """Every result is one of the 81 shifts of the padded image, or its mirror; both kinds occur."""
    x = images(40, 2, 6)
    result = crop_flip(x, Noise.for_samples(torch.arange(40), 0))
    padded = nn.functional.pad(x, [4] * 4)
    plain = mirrored = 0
    for row in range(40):
        shifts = [padded[row, :, i : i + 6, j : j + 6] for i in range(9) for j in range(9)]
        plain += any(torch.equal(result[row], shift) for shift in shifts)
        mirrored += any(torch.equal(result[row], shift.flip(2)) for shift in shifts)
    assert plain + mirrored >= 40
    assert plain > 8
    assert mirrored > 8
