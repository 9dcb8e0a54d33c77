"""The networks that detectors share: shapes of the papers, what their losses teach, one step at a time."""

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.defenses.detectors.autoencoder import AutoEncoder, AutoEncoderNetwork
from robustness_bench.defenses.detectors.base import Images
from robustness_bench.defenses.detectors.generator import ConditionalGenerator, GeneratorNetwork
from robustness_bench.defenses.detectors.registry import build_part, part_presets

DATASETS = {"mnist": (1, 28), "digits": (1, 8), "cifar10": (3, 32)}
EVERY = [(dataset, name) for dataset in DATASETS for name in part_presets(dataset)]


def _network(dataset: str, name: str) -> nn.Module:
    torch.manual_seed(0)
    part = build_part(part_presets(dataset)[name].identity())
    return part.build(*DATASETS[dataset], 10)


def _images(dataset: str, n: int = 16) -> Images:
    channels, size = DATASETS[dataset]
    ids = torch.arange(n)
    x = Noise.for_samples(ids, "x").uniform((channels, size, size))
    return Images(x, ids % 10, Noise.for_samples(ids, "fixed"), Noise.for_samples(ids, "fresh"))


def _generator(**changes: object) -> ConditionalGenerator:
    small = {"latent": 4, "units": (32, 16), "critic_units": 16, "dropout": 0.0, "lam": 20.0}
    return ConditionalGenerator(**{**small, "smoothing": 0.9, "critic_lr": 0.4, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dataset", "name", "weights"),
    [
        ("mnist", "autoencoder-1", 310),
        ("mnist", "autoencoder-2", 142),
        ("cifar10", "autoencoder-1", 252),
    ],
)
def test_auto_encoders_have_the_published_number_of_weights(dataset: str, name: str, weights: int) -> None:
    assert sum(each.numel() for each in _network(dataset, name).parameters()) == weights


@pytest.mark.parametrize(("dataset", "name"), EVERY)
def test_every_part_has_finite_terms_and_gradients_for_all_weights(dataset: str, name: str) -> None:
    part = build_part(part_presets(dataset)[name].identity())
    network = _network(dataset, name).train()
    images = _images(dataset)
    terms = part.terms(network, images)
    torch.stack(list(terms.values())).sum().backward()
    assert all(term.dim() == 0 and torch.isfinite(term) for term in terms.values())
    for label, weight in network.named_parameters():
        assert weight.grad is not None, label
        assert torch.isfinite(weight.grad).all()
    grouped = [weight for group in part.groups(network) for weight in group["params"]]
    assert {id(each) for each in grouped} == {id(each) for each in network.parameters()}
    assert len(grouped) == len(list(network.parameters()))
    figures = part.figures(network, images.x, images.y)
    assert 0 < figures["held_out_error"] < 1
    assert network.training


def test_the_pooled_auto_encoder_is_the_published_chain() -> None:
    network = _network("mnist", "autoencoder-1")
    assert isinstance(network, AutoEncoderNetwork)
    x = _images("mnist", 2).x
    below = nn.functional.avg_pool2d(torch.sigmoid(network.first(x)), 2)
    below = torch.sigmoid(network.inner[1](torch.sigmoid(network.inner[0](below))))
    below = nn.functional.interpolate(below, scale_factor=2.0, mode="nearest")
    expected = torch.sigmoid(network.last(torch.sigmoid(network.inner[2](below))))
    torch.testing.assert_close(network(x), expected)


def test_the_error_is_to_the_clean_image_and_the_activity_is_summed_over_all_convolutions() -> None:
    part = AutoEncoder(filters=3, pooled=False, noise=0.5, activity=0.25)
    network = part.build(1, 8, 10)
    images = _images("digits", 4)
    terms = part.terms(network, images)
    noisy = (images.x + 0.5 * images.fixed.normal((1, 8, 8))).clamp(0, 1)
    first = torch.sigmoid(network.first(noisy))
    middle = torch.sigmoid(network.inner[0](first))
    last = torch.sigmoid(network.last(middle))
    torch.testing.assert_close(terms["error"], (last - images.x).square().mean())
    squares = first.square().sum() + middle.square().sum() + last.square().sum()
    torch.testing.assert_close(terms["activity"], 0.25 * squares)


def test_the_noise_of_an_image_is_the_same_in_every_epoch() -> None:
    part = AutoEncoder(filters=3, pooled=False, noise=0.5, activity=0.0)
    network, images = part.build(1, 8, 10), _images("digits", 4)
    later = images._replace(fresh=Noise.for_samples(torch.arange(4), "later"))
    assert torch.equal(part.terms(network, images)["error"], part.terms(network, later)["error"])


def test_the_critics_learn_from_their_own_terms_and_the_makers_from_theirs() -> None:
    part = _generator()
    network = part.build(1, 8, 10)
    terms = part.terms(network, _images("digits"))
    makers = terms["rebuilding"] + terms["image"] + terms["code"]
    makers.backward()
    assert _touched(network) == {"encoder", "generator"}
    network.zero_grad()
    terms = part.terms(network, _images("digits"))
    (terms["image_critic"] + terms["code_critic"]).backward()
    assert _touched(network) == {"image_critic", "code_critic"}


def _touched(network: nn.Module) -> set[str]:
    return {
        name.split(".")[0]
        for name, weight in network.named_parameters()
        if weight.grad is not None and weight.grad.abs().sum() > 0
    }


@pytest.mark.parametrize(("verdict", "sign"), [(10.0, 1), (-10.0, -1)])
def test_who_gains_from_what_the_critics_say(verdict: float, sign: int) -> None:
    """Makers want fakes called real; the critic wants them called fake, and real images real."""
    network = _generator().build(1, 8, 10)
    _constant(network.image_critic, verdict)
    _constant(network.code_critic, verdict)
    with torch.no_grad():
        terms = _generator().terms(network, _images("digits"))
    high, low = (10.0, 0.0) if sign < 0 else (0.0, 10.0)
    assert float(terms["image"]) == pytest.approx(3 * high, abs=1e-3)
    assert float(terms["code"]) == pytest.approx(high, abs=1e-3)
    real = 0.1 * 10 if sign > 0 else 0.9 * 10
    assert float(terms["image_critic"]) == pytest.approx(real + 3 * low, abs=1e-3)
    assert float(terms["code_critic"]) == pytest.approx(10.0, abs=1e-3)


def _constant(critic: nn.Sequential, value: float) -> None:
    last = critic[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, value)


@torch.no_grad()
def test_the_generator_is_asked_for_every_class() -> None:
    network = _generator().build(1, 8, 10).eval()
    x = _images("digits", 3).x
    codes = network.encode(x)
    images = [network.decode(codes, torch.full((3,), each)) for each in range(10)]
    assert all(image.shape == x.shape and 0 <= image.min() <= image.max() <= 1 for image in images)
    assert len({float(image.sum()) for image in images}) == 10


def test_on_two_kinds_of_images_it_learns_to_make_the_class_it_is_asked_for() -> None:
    """Class 0 is dark on the left, class 1 on the right: swapping the class must swap the side."""
    part = _generator(units=(32,), lam=10.0)
    torch.manual_seed(0)
    network = part.build(1, 8, 2)
    optimizer = torch.optim.Adam(part.groups(network), lr=2e-3, betas=part.betas)
    for step in range(400):
        ids = torch.arange(32) + 32 * step
        y = ids % 2
        images = Images(
            _sided(ids, y), y, Noise.for_samples(ids, "fixed"), Noise.for_samples(ids, "fresh", step)
        )
        optimizer.zero_grad()
        torch.stack(list(part.terms(network, images).values())).sum().backward()
        optimizer.step()
    network.eval()
    ids = torch.arange(64)
    codes = network.encode(_sided(ids, ids % 2))
    for wanted in (0, 1):
        made = network.decode(codes, torch.full((64,), wanted))
        left, right = made[..., :4].mean((1, 2, 3)), made[..., 4:].mean((1, 2, 3))
        assert ((left < right) == (wanted == 0)).float().mean() > 0.95


def _sided(ids: Tensor, y: Tensor) -> Tensor:
    x = 0.7 + 0.3 * Noise.for_samples(ids, "sided").uniform((1, 8, 8))
    dark = torch.arange(8)[None] // 4 == y[:, None]
    return x * (1 - 0.7 * dark.float()[:, None, None])


def test_a_part_that_is_not_there_is_named() -> None:
    assert part_presets("tiny-imagenet") == {}
    assert isinstance(_network("mnist", "generator"), GeneratorNetwork)


def test_the_class_of_a_swapped_image_is_uniform_and_may_be_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the docstring says: x's own class in one of K cases."""
    asked: list[Tensor] = []
    decode = GeneratorNetwork.decode

    def recorded(self: GeneratorNetwork, codes: Tensor, classes: Tensor) -> Tensor:
        asked.append(classes)
        return decode(self, codes, classes)

    monkeypatch.setattr(GeneratorNetwork, "decode", recorded)
    images = _images("digits", 4000)
    _generator().terms(_generator().build(1, 8, 10), images)
    own, _, swapped = asked
    assert torch.equal(own, images.y)
    shares = swapped.bincount(minlength=10) / 4000
    assert (shares - 0.1).abs().max() < 0.02
    assert abs(float((swapped == images.y).float().mean()) - 0.1) < 0.02
