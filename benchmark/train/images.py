"""The training images on the device: batches with their noise, and held-out images."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.benchmark.data.augmentation import crop, crop_flip, cutmix, erase
from robustness_bench.benchmark.data.base import subset
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.plan.tasks import Task
from robustness_bench.defenses.detectors.base import Images

_AUGMENT = {"crop-flip": crop_flip, "crop": crop}


@dataclass(frozen=True)
class Batch:
    """Images in [0, 1] (N, C, H, W), labels (N,), and the noise of the inner attack.

    ``soft`` are probabilities of the classes (N, K) where labels are smoothed or mixed.
    """

    x: Tensor
    y: Tensor
    noise: Noise
    soft: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    def part(self, rows: slice) -> "Batch":
        return Batch(self.x[rows], self.y[rows], Noise(self.noise.keys[rows]))


def pixels(x: Tensor) -> NDArray[np.uint8]:
    """Return images in [0, 1] as uint8."""
    found: NDArray[np.uint8] = (x * 255).round().to(torch.uint8).cpu().contiguous().numpy()
    return found


class TrainingData:
    """The training images as uint8, and the held-out ones, which no step uses.

    Which images are held out depends only on the number of images, not on seed or defense. ``shape`` is
    (N, C, H, W), of both.

    Raises:
        BenchError: too few images for the recipe.
    """

    def __init__(self, task: Task, device: torch.device) -> None:
        recipe, splits = task.spec["training"], task.data.load()
        kept = subset(len(splits.train_y), recipe["train_limit"])
        held = held_out_images(len(kept), recipe)
        is_held = torch.zeros(len(kept), dtype=torch.bool)
        if held:
            is_held[torch.from_numpy(subset(len(kept), held))] = True
        self._ids = torch.from_numpy(kept).to(device)
        self._x = torch.from_numpy(splits.train_x[kept]).to(device, memory_format=torch.channels_last)
        self._y = torch.from_numpy(splits.train_y[kept]).to(device)
        self._augment, self._seed = _AUGMENT.get(recipe["augment"]), task.seed
        self._shares = {name: recipe.get(name, 0.0) for name in ("erase", "cutmix", "label_smoothing")}
        self._classes = task.data.info.classes
        self.shape = tuple(self._x.shape)
        self.indices = torch.arange(len(kept))[~is_held]
        self._held = torch.arange(len(kept))[is_held]

    def batch(self, indices: Tensor, epoch: int) -> Batch:
        """Return the augmented images of one step."""
        batch = self._batch(indices, epoch)
        if self._augment is None:
            return batch
        return replace(batch, x=self._augment(batch.x, self._noise(indices, "augment", epoch)))

    def regularised(self, indices: Tensor, epoch: int) -> Batch:
        """Return the augmented images of one step, erased and mixed, with soft labels, as the recipe asks."""
        batch = self.batch(indices, epoch)
        erased, mixed, smoothing = self._shares.values()
        if erased:
            batch = replace(batch, x=erase(batch.x, self._noise(indices, "erase", epoch), erased))
        if not (mixed or smoothing):
            return batch
        soft = functional.one_hot(batch.y, self._classes).float()
        if mixed:
            x, partner, kept = cutmix(batch.x, self._noise(indices, "cutmix", epoch), mixed)
            soft = kept[:, None] * soft + (1 - kept[:, None]) * soft[partner]
            batch = replace(batch, x=x, y=soft.argmax(1))
        return replace(batch, soft=(1 - smoothing) * soft + smoothing / self._classes)

    def images(self, indices: Tensor, epoch: int) -> Images:
        """Return the unaugmented images of one step, for the networks of detectors."""
        batch = self._batch(indices, "fixed")
        return Images(batch.x, batch.y, batch.noise, self._noise(indices, "fresh", epoch))

    def held_out(self) -> Batch | None:
        """Return the held-out images, unaugmented; None if there are none."""
        return self._batch(self._held, "held out") if len(self._held) else None

    def _batch(self, indices: Tensor, epoch: int | str) -> Batch:
        indices = indices.to(self._x.device)
        noise = self._noise(indices, "inner attack", epoch)
        return Batch(self._x[indices].float() / 255, self._y[indices], noise)

    def _noise(self, indices: Tensor, stream: str, epoch: int | str) -> Noise:
        return Noise.for_samples(self._ids[indices.to(self._ids.device)], self._seed, stream, epoch)


def held_out_images(images: int, recipe: dict[str, Any]) -> int:
    """Return how many of ``images`` a recipe holds out: none if its share is below two images.

    Raises:
        BenchError: fewer than two images are left to train on, or none to choose the best epoch by.
    """
    count = round(recipe["holdout"] * images)
    count = count if count >= 2 else 0
    if images - count < 2:
        raise BenchError(
            f"training.holdout = {recipe['holdout']} leaves under 2 of {images} training images: lower it"
        )
    if not count and recipe["selection"] == "best":
        raise BenchError(
            f'training.selection "best" needs held-out images, and training.holdout = {recipe["holdout"]} of '
            f"{images} training images is less than two: raise it"
        )
    return count
