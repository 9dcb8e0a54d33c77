"""Find image files, and read pixels as uint8, which stands for [0, 1]; reject what would need a guess."""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustness_bench.benchmark.data.base import DatasetInfo, Images
from robustness_bench.benchmark.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_DEPTH_16 = 257  # 65535 / 255
_ORIENTATION = 0x0112
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_PLAIN = ("1", "L", "RGB", "P")
_ALPHA = ("LA", "PA", "RGBA")
SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}
_CLUTTER = {"thumbs.db", "desktop.ini"}


def decode_all(cells: Sequence[tuple[str, Callable[[], bytes]]], info: DatasetInfo) -> Images:
    """Decode encoded images, several at once: (N, C, H, W).

    Args:
        cells: for each image how an error calls it, and what gives its content.

    Raises:
        DataError: see :func:`decode`.
    """
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        return np.stack(list(pool.map(lambda cell: decode(cell[1](), info, cell[0]), cells)))


def decode(content: bytes, info: DatasetInfo, where: str) -> Images:
    """Decode one image as (C, H, W).

    1-bit, grey, palette and RGB images are read as they are, deep greys (16 bits) divided by 257, floats of
    [0, 1] multiplied by 255, alpha dropped where all is opaque, grey repeated where colour is wanted.

    Raises:
        DataError: no image, damaged, of another size, or pixels that are in [0, 1] only by a guess.
    """

    def check(size: tuple[int, int]) -> None:
        if size != (info.size, info.size):
            raise wrong_size(where, size, info)

    return _fit(decode_plain(content, where, check), info, where)


def decode_plain(
    content: bytes, where: str, check: Callable[[tuple[int, int]], None] = lambda size: None
) -> Images:
    """Decode one image of any size as :func:`decode` does: (H, W) grey or (H, W, 3) colour.

    Args:
        check: raises for a width and height that are not wanted, before pixels are decoded.

    Raises:
        DataError: no image, damaged, or pixels that are in [0, 1] only by a guess.
    """
    from PIL import Image

    broken = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
    too_large = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with Image.open(io.BytesIO(content)) as image:
            check(image.size)
            return _pixels(image, where)
    except too_large as error:
        raise DataError(f"{where} is far too large an image: {error}; is --data-dir right?") from error
    except broken as error:
        what = str(error).replace("\n", " ").split(" <_io")[0]
        raise DataError(f"{where} cannot be decoded: {what}; fetch it again, or save it as PNG") from error


def wrong_size(where: str, size: tuple[int, int], info: DatasetInfo) -> DataError:
    """Return the error for images of another width and height than the data set's."""
    return DataError(
        f"{where} holds {size[0]}×{size[1]} images, {info.name} is {info.size}×{info.size}: "
        "is --data-dir right?"
    )


def _pixels(image: "Image", where: str) -> Images:
    """Return the pixels, (H, W) or (H, W, 3)."""
    # How samples are kept: gone once loaded, as getexif does for PNG.
    stored = str(getattr(image, "tile", ""))
    if getattr(image, "is_animated", False):
        raise DataError(f"{where} has several frames; save the one that counts")
    if image.getexif().get(_ORIENTATION, 1) not in (0, 1):
        raise DataError(f"{where} is to be turned before it is shown (EXIF orientation); save it upright")
    if image.mode in ("I;16", "I;16L", "I;16B", "I"):
        return _deep(image, stored, where)
    if ";16" in stored:  # Pillow keeps the high byte of each, which is not the nearest of 256 levels
        raise DataError(f"{where} has colours or alpha of 16 bits; save it with 8")
    if image.mode == "F":
        return unit_floats(np.asarray(image), where)
    if image.mode in _ALPHA or "transparency" in image.info:
        image = _opaque(image, where)
    if image.mode not in _PLAIN:
        raise DataError(
            f"{where} has pixels of kind {image.mode}, which needs a guess; save it as grey or RGB"
        )
    if image.mode == "P":
        image = image.convert("RGB")
    return np.asarray(image.convert("L") if image.mode == "1" else image)


def _deep(image: "Image", stored: str, where: str) -> Images:
    whole = image.format == "PNG" or (image.format == "TIFF" and "I;16" in stored and "I;16S" not in stored)
    tags: Any = getattr(image, "tag_v2", {})  # Pillow turns white-is-zero over in 8 bits, not in 16
    if not whole or tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise DataError(f"{where} has greys of an unusual depth ({image.mode}); save it with 8 bits")
    return np.rint(np.asarray(image).astype(np.float64) / _DEPTH_16).astype(np.uint8)


def _opaque(image: "Image", where: str) -> "Image":
    full = image.convert("RGBA")
    low, _ = full.getchannel("A").getextrema()
    if low != 255:
        raise DataError(f"{where} is partly transparent: lay it on a background and save it without alpha")
    return full.convert("RGB")


def unit_floats(values: NDArray[Any], where: str) -> Images:
    """Return floats of [0, 1] as uint8, rounded to the nearest of the 256 levels.

    Raises:
        DataError: any is outside, or not finite.
    """
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise DataError(f"{where} has float pixels outside [0, 1]; divide by their largest possible value")
    return np.rint(values.astype(np.float64) * 255).astype(np.uint8)


def whole_numbers(values: NDArray[Any], where: str) -> Images:
    """Return integers as uint8. Their range must be exactly 0 to 255, or it would not say what they mean.

    Raises:
        DataError: another range.
    """
    low, high = int(values.min()), int(values.max())
    if low < 0 or high != 255:
        raise DataError(f"{where} has integer pixels of {low} to {high}; store 0 to 255 as uint8")
    return values.astype(np.uint8)


def fit_arrays(pixels: Images, info: DatasetInfo, where: str) -> Images:
    """Return stacked arrays, (N, H, W), (N, H, W, C) or (N, C, H, W), as (N, C, H, W).

    Raises:
        DataError: another shape, or colours where grey is wanted.
    """
    side, shape = info.size, pixels.shape[1:]
    if shape in {(1, side, side), (3, side, side)}:
        pixels = pixels.transpose(0, 2, 3, 1)
    elif shape not in {(side, side), (side, side, 1), (side, side, 3)}:
        raise DataError(
            f"{where} holds images of shape {'×'.join(map(str, shape))}, "
            f"{info.name} is {side}×{side}: is --data-dir right?"
        )
    return np.stack(
        [_fit(image.squeeze(-1) if image.shape[-1] == 1 else image, info, where) for image in pixels]
    )


def _fit(pixels: Images, info: DatasetInfo, where: str) -> Images:
    """Return (H, W) or (H, W, 3) as (C, H, W)."""
    if info.channels == 3:
        colours = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
        return np.ascontiguousarray(colours.transpose(2, 0, 1))
    if pixels.ndim == 2:
        return pixels[None]
    if (pixels != pixels[..., :1]).any():
        raise DataError(f"{where} has colours, {info.name} is grey: is --data-dir right?")
    return np.ascontiguousarray(pixels[None, ..., 0])


def subfolders(place: Path) -> list[Path]:
    """Return the folders in a folder, by name, without hidden ones."""
    return sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def image_files(place: Path) -> list[Path]:
    """Return the images directly in a folder, by name; hidden files, texts and system files are ignored.

    Raises:
        DataError: another file.
    """
    found = []
    for path in sorted(place.iterdir()):
        passed = path.name.startswith(".") or path.name.lower() in _CLUTTER or path.suffix == ".txt"
        if passed or path.is_dir():
            continue
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path} is no image; remove it")
        found.append(path)
    return found
