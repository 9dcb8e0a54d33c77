import pytest
import torch

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.measure.storage import allowance, stored
from tests.support import images


@pytest.mark.parametrize("channels", [1, 3])
def test_stored_images_are_what_a_file_holds(channels: int) -> None:
    x = images(4, channels)
    rounded = stored(x, "8-bit")
    assert torch.equal((rounded * 255).round() / 255, rounded)
    assert (rounded - x).abs().max() <= allowance("8-bit", "linf", x[0].numel()) + 1e-7
    assert (rounded - x).flatten(1).norm(dim=1).max() <= allowance("8-bit", "l2", x[0].numel())
    grey = torch.full_like(x, 128 / 255)
    assert torch.equal(stored(grey, "jpeg-90"), grey)
    errors = [(stored(x, storage) - x).abs().mean() for storage in ("8-bit", "jpeg-95", "jpeg-10")]
    assert errors[0] < errors[1] < errors[2]


def test_a_jpeg_needs_one_or_three_channels() -> None:
    with pytest.raises(BenchError, match="these images have 2: use @8-bit"):
        stored(images(1, 2), "jpeg-75")
