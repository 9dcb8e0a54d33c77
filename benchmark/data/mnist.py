"""MNIST (LeCun et al. 1998) in IDX files, gzipped or not, under any of the names they are published with."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustness_bench.benchmark.data.base import Dataset, DatasetInfo, Labels, Reading, Source, Splits
from robustness_bench.benchmark.data.labels import check_split
from robustness_bench.benchmark.errors import DataError

_ROOTS = ("", "raw", "MNIST/raw")
_UNSIGNED_BYTES = 0x08
_PARTS = [(split, what) for split in ("train", "t10k") for what in ("images", "labels")]
_DIMENSIONS = {"images": 3, "labels": 1}


def find(folder: Path) -> Source | None:
    """Find the four files in ``folder``, its ``raw`` or its ``MNIST/raw``.

    Raises:
        DataError: some are there, others not.
    """
    found = {part: _copies(folder, *part) for part in _PARTS}
    if not any(found.values()):
        return None
    for (split, what), files in found.items():
        if not files:
            there = next(files[0] for files in found.values() if files)
            raise DataError(
                f"MNIST is incomplete: {split}-{what}-idx{_DIMENSIONS[what]}-ubyte is missing beside "
                f"{there}; fetch it again"
            )
    every = tuple(file for copies in found.values() for file in copies)
    return Source(files=every, read=lambda: _read([found[part] for part in _PARTS]))


def _copies(folder: Path, split: str, what: str) -> list[Path]:
    """Return every copy of a file; torchvision keeps the packed one beside the unpacked."""
    kind = f"idx{_DIMENSIONS[what]}-ubyte"
    plain = f"{split}-{what}-{kind}"
    names = [f"{stem}{end}" for stem in (plain, f"{split}-{what}.{kind}") for end in ("", ".gz")]
    places = [folder / root for root in _ROOTS]
    places += [place / plain for place in places]  # a folder for each file, as some archives unpack
    return [place / name for place in places for name in names if (place / name).is_file()]


def _read(copies: list[list[Path]]) -> Reading:
    train_x, train_y, test_x, test_y = (_read_copies(files) for files in copies)
    splits = Splits(train_x[:, None], _labels(train_y), test_x[:, None], _labels(test_y))
    for x, y, files in (
        (splits.train_x, splits.train_y, copies[1]),
        (splits.test_x, splits.test_y, copies[3]),
    ):
        check_split(x, y, MNIST.info, str(files[0].parent / f"{files[0].name.split('-')[0]}-*"))
    return Reading(splits)


def _labels(values: NDArray[np.uint8]) -> Labels:
    return values.astype(np.int64)


def _read_copies(files: list[Path]) -> NDArray[np.uint8]:
    contents = [_unpacked(file) for file in files]
    for file, content in zip(files, contents, strict=True):
        if content != contents[0]:
            raise DataError(f"{files[0]} and {file} hold different data: remove the one that does not belong")
    return _parse(contents[0], files[0])


def _unpacked(file: Path) -> bytes:
    content = file.read_bytes()
    if content[:2] != b"\x1f\x8b":  # the name does not decide: some tools unpack and keep .gz
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot unpack {file}: {error}; fetch it again") from error


def _parse(content: bytes, file: Path) -> NDArray[np.uint8]:
    """Parse an IDX file: two zero bytes, the type, the number of dimensions, each of them, the data."""
    dimensions = _DIMENSIONS["images" if "images" in file.name else "labels"]
    start = 4 + 4 * dimensions
    if len(content) < start or content[:2] != b"\0\0":
        raise DataError(f"{file} is no IDX file; fetch it again")
    if content[2] != _UNSIGNED_BYTES or content[3] != dimensions:
        raise DataError(
            f"{file} holds type 0x{content[2]:02x} in {content[3]} dimensions, expected unsigned bytes "
            f"(0x08) in {dimensions}; fetch it again"
        )
    shape = np.frombuffer(content, ">u4", dimensions, 4).astype(np.int64).tolist()
    size = int(np.prod([int(side) for side in shape], dtype=object))
    if len(content) - start != size:
        raise DataError(
            f"{file} should hold {'×'.join(map(str, shape))} bytes and holds {len(content) - start}; "
            "fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _download(folder: Path) -> None:
    from torchvision import datasets

    datasets.MNIST(str(folder), download=True)


MNIST = Dataset(
    info=DatasetInfo(
        name="mnist",
        summary="MNIST, 28×28 grey (LeCun et al. 1998)",
        channels=1,
        size=28,
        classes=10,
        train_images=60_000,
        test_images=10_000,
        mean=(0.1307,),
        std=(0.3081,),
        eps_linf=0.3,
        eps_l2=2.0,
        get="the four *-ubyte.gz files of http://yann.lecun.com/exdb/mnist/ (11 MB) into {folder}/MNIST/raw",
    ),
    classes=tuple("0123456789"),
    find=find,
    content="592cc3dfd12010e1780bf15de97185b42372bda3e511f1523c3af39f8b6df78b",
    own_folder="MNIST",
    download=_download,
)
