"""What a view computes, that it computes it once, and its errors."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.defenses.detectors.view import DetectorError, Networks, View
from tests.defenses.detectors.toys import Counting, Generator, images, networks

N, K = 5, 3


@pytest.fixture
def toys() -> Networks:
    return networks()


def _counts(toys: Networks) -> tuple[int, int]:
    assert isinstance(toys.classifier, Counting)
    return toys.classifier.images, toys.classifier.calls


def _generator(toys: Networks) -> Generator:
    made = toys.parts["generator"]
    assert isinstance(made, Generator)
    return made


def test_nothing_runs_before_it_is_asked_for(toys: Networks) -> None:
    View(images(N), toys)
    assert _counts(toys) == (0, 0)
    assert _generator(toys).encoded == 0


def test_everything_is_what_its_name_says(toys: Networks) -> None:
    x, generator = images(N), _generator(toys)
    view = View(x, toys)
    classify = toys.classifier
    raw = toys.parts["autoencoder-1"](x)
    assert raw.min() < 0
    assert raw.max() > 1
    torch.testing.assert_close(view.logits, classify(x))
    torch.testing.assert_close(view.rebuilt("autoencoder-1"), raw.clamp(0, 1))
    torch.testing.assert_close(view.rebuilt_logits("autoencoder-1"), classify(raw.clamp(0, 1)))
    for n in range(N):
        for j in range(K):
            made = generator.decode(generator.encode(x[n : n + 1]), torch.tensor([j]))
            torch.testing.assert_close(view.conditional("generator")[n, j], made[0])
            torch.testing.assert_close(view.conditional_logits("generator")[n, j], classify(made)[0])
    target = torch.tensor([2, 0, 1, 2, 2])
    rows = torch.arange(N)
    torch.testing.assert_close(
        view.generated("generator", target), view.conditional("generator")[rows, target]
    )
    torch.testing.assert_close(
        view.generated_logits("generator", target), view.conditional_logits("generator")[rows, target]
    )


def test_the_two_auto_encoders_are_two(toys: Networks) -> None:
    view = View(images(N), toys)
    assert (view.rebuilt("autoencoder-1") - view.rebuilt("autoencoder-2")).abs().max() > 0.01
    assert view.rebuilt_logits("autoencoder-1").ne(view.rebuilt_logits("autoencoder-2")).any()


def test_everything_is_computed_once(toys: Networks) -> None:
    view = View(images(N), toys)
    for _ in range(3):
        _ = view.logits
        view.conditional_logits("generator")
        view.conditional("generator")
        view.rebuilt_logits("autoencoder-1")
        view.rebuilt("autoencoder-1")
    assert _counts(toys) == (N + N + N * K, 3)  # the N · K in one call
    first = toys.parts["autoencoder-1"]
    assert isinstance(first, Counting)
    assert first.images == N
    assert (_generator(toys).encoded, _generator(toys).decoded) == (N, N * K)


def test_gradients_flow_through_everything(toys: Networks) -> None:
    x = images(N).requires_grad_()
    view = View(x, toys)
    target = torch.zeros(N, dtype=torch.int64)
    for made in (
        view.logits,
        view.rebuilt_logits("autoencoder-1"),
        view.conditional_logits("generator"),
        view.generated_logits("generator", target),
    ):
        weights = torch.arange(1.0, made[0].numel() + 1).reshape(made.shape[1:])
        (gradient,) = torch.autograd.grad((made * weights).sum(), x, retain_graph=True)
        assert gradient.flatten(1).abs().max(1).values.min() > 0


def test_no_images_are_no_error(toys: Networks) -> None:
    view = View(images(0), toys)
    assert view.conditional_logits("generator").shape == (0, K, K)


def test_a_part_that_is_not_there_is_named(toys: Networks) -> None:
    with pytest.raises(DetectorError, match=r"no part 'autoencoder-3'.*autoencoder-1, autoencoder-2, gen"):
        View(images(N), toys).rebuilt("autoencoder-3")


def test_a_part_of_another_data_set_does_not_broadcast(toys: Networks) -> None:
    class Grey(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1, keepdim=True)

    wrong = dataclasses.replace(toys, parts={"grey": Grey()})
    with pytest.raises(DetectorError, match=r"'grey' makes images \(5, 1, 8, 8\) from \(5, 3, 8, 8\)"):
        View(images(N, (3, 8, 8)), wrong).rebuilt("grey")
