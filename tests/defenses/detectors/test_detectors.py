"""What holds for every detector, and what each computes."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robustness_bench.defenses.detectors import scores
from robustness_bench.defenses.detectors.base import Detector
from robustness_bench.defenses.detectors.controls import ConditionalReconstruction, OutputEntropy, RandomScore
from robustness_bench.defenses.detectors.divergence import Divergence
from robustness_bench.defenses.detectors.mutual_information import MutualInformation
from robustness_bench.defenses.detectors.reconstruction import Reconstruction
from robustness_bench.defenses.detectors.registry import build_detector, detector_presets
from robustness_bench.defenses.detectors.scores import threshold
from robustness_bench.defenses.detectors.view import DetectorError, View
from tests.defenses.detectors.toys import DETECTORS, Shape, images, networks

ROOT = Path(__file__).parents[3]
N = 6
PRESETS = {f"preset {name}": build_detector(p.identity()) for name, p in detector_presets().items()}
each_detector = pytest.mark.parametrize(
    "detector", [*DETECTORS.values(), *PRESETS.values()], ids=[*DETECTORS, *PRESETS]
)
each_shape = pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7)], ids=str)
CERTAIN = 1000.0  # of the classifier's gain: gaps of hundreds


def _scores(detector: Detector, x: Tensor, *, classes: int = 3, gain: float = 3.0) -> Tensor:
    shape: Shape = (x.shape[1], x.shape[2], x.shape[3])
    with torch.no_grad():
        return detector.score(View(x, networks(shape, classes, gain)))


@each_detector
@each_shape
@pytest.mark.parametrize("classes", [2, 3])
def test_scores_are_float64_finite_and_one_per_image(detector: Detector, shape: Shape, classes: int) -> None:
    found = _scores(detector, images(N, shape), classes=classes)
    assert found.shape == (N,)
    assert found.dtype == torch.float64
    assert found.isfinite().all()
    assert len(found.unique()) == N


@each_detector
def test_a_batch_is_its_images_one_by_one(detector: Detector) -> None:
    x = images(N)
    alone = torch.cat([_scores(detector, x[n : n + 1]) for n in range(N)])
    torch.testing.assert_close(_scores(detector, x), alone, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(_scores(detector, x.flip(0)), alone.flip(0), rtol=1e-4, atol=1e-6)
    assert _scores(detector, x[:0]).shape == (0,)


@each_detector
def test_certain_classifiers_do_no_harm(detector: Detector) -> None:
    x = images(N).requires_grad_()
    view = View(x, networks(gain=CERTAIN))
    gap = view.logits.topk(2, 1).values
    assert (gap[:, 0] - gap[:, 1]).max() > 150
    found = detector.score(view)
    assert found.isfinite().all()
    if not isinstance(detector, RandomScore):
        assert found.requires_grad


@each_detector
def test_it_looks_through_the_parts_that_it_names_and_no_others(detector: Detector) -> None:
    every = networks()
    named = type(every)(
        classifier=every.classifier, parts={name: every.parts[name] for name in detector.parts}
    )
    with torch.no_grad():
        detector.score(View(images(N), named))
        for part in detector.parts:
            parts = {name: network for name, network in named.parts.items() if name != part}
            with pytest.raises(DetectorError, match=f"no part '{part}'"):
                detector.score(View(images(N), type(every)(classifier=every.classifier, parts=parts)))
    assert {*detector.rebuilt_by, *detector.generated_by} <= {*detector.parts}


@each_detector
def test_its_fields_survive_json(detector: Detector) -> None:
    fields = json.loads(json.dumps(dataclasses.asdict(detector)))
    assert type(detector)(**fields) == detector


def _expected(detector: Detector, x: Tensor) -> Tensor:
    """Every score from the networks' outputs, image by image."""
    toys = networks()
    classify, generator = toys.classifier, toys.parts["generator"]
    encode: Any = generator.encode
    decode: Any = generator.decode
    values = []
    for image in x.split(1):
        code = encode(image)

        def output(made: Tensor) -> Tensor:
            logits: Tensor = classify(made)
            return logits[0].double()

        def probabilities(made: Tensor, temperature: float = 1.0) -> Tensor:
            return (output(made) / temperature).softmax(0)

        predicted = int(output(image).argmax())
        own = decode(code, torch.tensor([predicted]))
        match detector:
            case Reconstruction():
                made = toys.parts[detector.autoencoder](image).clamp(0, 1)
                value = ((image - made).abs().double() ** detector.p).mean()
            case Divergence():
                made = toys.parts[detector.autoencoder](image).clamp(0, 1)
                p, q = (probabilities(each, detector.temperature) for each in (image, made))
                m = (p + q) / 2
                value = 0.5 * ((p * (p / m).log()).sum() + (q * (q / m).log()).sum())
            case MutualInformation():
                made = own if detector.autoencoder is None else toys.parts[detector.autoencoder](image)
                a, b = (probabilities(each.clamp(0, 1), detector.temperature) for each in (image, made))
                c = torch.stack(
                    [
                        probabilities(decode(code, torch.tensor([j])), detector.temperature)
                        for j in range(len(a))
                    ]
                )
                value = scores.READINGS[detector.reading](
                    a.log()[None], b.log()[None], c.log()[None], detector.delta
                )[0]
            case ConditionalReconstruction():
                value = (image - own).abs().double().mean()
            case OutputEntropy():
                p = probabilities(image)
                value = -(p * p.log()).sum()
        values.append(value)
    return torch.stack(values)


@pytest.mark.parametrize("name", [name for name in DETECTORS if name != "random"])
def test_the_score_is_its_definition(name: str) -> None:
    x = images(N)
    with torch.no_grad():
        expected = _expected(DETECTORS[name], x)
    torch.testing.assert_close(_scores(DETECTORS[name], x), expected, rtol=1e-3, atol=1e-6)


def test_the_score_of_magnet_rises_with_what_the_auto_encoder_changes() -> None:
    x = images(N)
    one, two = (_scores(Reconstruction(autoencoder="autoencoder-1", p=p), x) for p in (1, 2))
    assert (one**2 < two).all()
    assert (two < one).all()


MI: dict[str, Any] = {"reading": "literal", "generator": "generator", "autoencoder": "autoencoder-1"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Reconstruction(autoencoder="autoencoder-1", p=0.5), "p must be at least 1.*0.5"),
        (lambda: Reconstruction(autoencoder="autoencoder-1", p=float("nan")), "p must be .*nan"),
        (lambda: Divergence(autoencoder="autoencoder-1", temperature=0.0), "temperature .*0.0"),
        (lambda: MutualInformation(**MI, temperature=-1.0), "temperature must be positive.*-1.0"),
        (lambda: MutualInformation(**MI | {"reading": "printed"}), "one of literal, vi,.*'printed'"),
        (lambda: MutualInformation(**MI, reconstruct="generator"), "left out for 'generator'"),
        (lambda: MutualInformation(**MI | {"autoencoder": None}), "must name a part.*None"),
        (
            lambda: MutualInformation(**MI | {"reconstruct": "reformer"}),
            "autoencoder or generator.*'reformer'",
        ),
        (lambda: MutualInformation(**MI, delta=-0.1), "delta must be at least 0.*-0.1"),
        (lambda: MutualInformation(**MI, delta=float("inf")), "delta must be at least 0.*inf"),
        (lambda: MutualInformation(**MI | {"reading": "vi"}, delta=0.1), "delta must be 0 for 'vi'"),
        (lambda: MutualInformation(**MI | {"reading": "cross"}, delta=0.1), "delta must be 0 for 'cross'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(build: Callable[[], Detector], message: str) -> None:
    with pytest.raises(DetectorError, match=message):
        build()


def _random(x: Tensor) -> Tensor:
    return RandomScore().score(View(x, networks()))


def test_the_random_control_flags_the_share_it_is_given() -> None:
    """Uniform: within 4 standard deviations of the share in every tenth, and threshold and test agree."""
    found = _random(images(10_000, (1, 4, 4)))
    assert found.min() >= 0
    assert found.max() < 1
    assert len(found.unique()) == 10_000
    tenths = torch.histc(found, 10, 0.0, 1.0)
    assert (tenths - 1000).abs().max() < 4 * (10_000 * 0.1 * 0.9) ** 0.5
    tau = threshold(found[:5000], 0.05)
    flagged = float((found[5000:] >= tau).double().mean())
    assert 0.035 < flagged < 0.065  # both the threshold and the count vary


def test_the_random_control_is_a_function_of_the_pixels() -> None:
    x = images(N, (3, 8, 8))
    found = _random(x)
    assert torch.equal(found, torch.cat([_random(x[n : n + 1]) for n in range(N)]))
    assert torch.equal(found, _random(x.double()))
    assert torch.equal(found, _random(x.contiguous(memory_format=torch.channels_last)))
    assert torch.equal(found, _random(x.flip(0)).flip(0))
    zeros = torch.zeros(1, 1, 2, 2)
    assert torch.equal(_random(zeros), _random(-zeros))
    # whatever changes in an image, its score is another one, without relation to the first
    turned = _random(x.flip(3))
    brighter = x.clone()
    brighter[:, 0, 0, 0] = brighter[:, 0, 0, 0].nextafter(torch.tensor(1.0))
    for other in (turned, _random(brighter)):
        assert (other != found).all()


def test_one_changed_pixel_moves_the_random_score_anywhere() -> None:
    x = images(1).expand(1000, -1, -1, -1).clone()
    x[:, 0, 3, 4] = torch.linspace(0, 1, 1000)
    found = _random(x)
    assert torch.histc(found, 10, 0.0, 1.0).min() > 60
    assert abs(torch.corrcoef(torch.stack([found[1:], found[:-1]]))[0, 1]) < 0.1


def test_the_random_score_is_the_same_in_every_process() -> None:
    program = (
        "import torch; from robustness_bench.defenses.detectors.controls import RandomScore; "
        "from types import SimpleNamespace as S; "
        "print(RandomScore().score(S(x=torch.arange(8.0).reshape(2, 1, 2, 2) / 8)).tolist())"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    here = _random(torch.arange(8.0).reshape(2, 1, 2, 2) / 8)
    assert json.loads(said.stdout) == here.tolist() == PINNED


PINNED = [0.34435349011763183, 0.7780313155871473]
"""What the records of earlier runs hold."""
