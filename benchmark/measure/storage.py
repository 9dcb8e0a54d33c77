"""Images as somebody could store them: rounded to 8 bits, or as a JPEG."""

import io

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustness_bench.attacks.registry import EIGHT_BIT, JPEG
from robustness_bench.benchmark.errors import BenchError

LEVELS = 255


def stored(x: Tensor, storage: str) -> Tensor:
    """Return images as they are read back after being stored: (N, C, H, W) in [0, 1], on k/255.

    Args:
        storage: a way of ``attacks.registry.STORAGES``. JPEG is Pillow's with its defaults, which halve the
            resolution of colours.

    Raises:
        BenchError: a JPEG of neither 1 nor 3 channels.
    """
    pixels = (x * LEVELS).round().to(torch.uint8)
    if storage != EIGHT_BIT:
        quality = int(storage.removeprefix(JPEG))
        if x.shape[1] not in (1, 3):
            raise BenchError(f"a JPEG has 1 or 3 channels, these images have {x.shape[1]}: use @{EIGHT_BIT}")
        read = [_jpeg(each, quality) for each in pixels.permute(0, 2, 3, 1).cpu().numpy()]
        pixels = torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).to(x.device)
    return (pixels.float() / LEVELS).contiguous(memory_format=torch.channels_last)


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Encode and decode one image, (H, W, 1) or (H, W, 3)."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image, dtype=np.uint8).reshape(pixels.shape)


def allowance(storage: str, norm: str, pixels: int) -> float:
    """Return how far storing may move an image of so many pixels (channels counted); a JPEG, anywhere."""
    if storage != EIGHT_BIT:
        return float("inf")
    half_level = 0.5 / LEVELS
    return half_level if norm == "linf" else half_level * float(np.sqrt(pixels))
