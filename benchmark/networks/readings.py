"""Find how given weights are to be run, by trying each way on training images.

Tensors do not say which scaling of pixels, order of channels or pooling they were trained with. Each
plausible reading is tried on the same training images; test images are never used.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustness_bench.benchmark.data import DatasetInfo
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.networks import STEMS, build_model
from robustness_bench.benchmark.networks.inputs import FILE, INPUTS, Reading
from robustness_bench.benchmark.networks.matching import Matched, whole

IMAGES = 512
"""Number of training images that decide; five per class if that is more."""
FLOOR = 0.5
"""Smallest accuracy of an accepted reading on them, unless the user overrides it."""
_CLEAR = 3.0  # standard errors between two accuracies on the same images
_FAR = 0.1  # a requested reading is rejected if another is better by this accuracy
_SCREEN, _KEPT = 128, 6  # images for screening many readings, and how many readings remain
_CLOSER = 2.0  # how many times closer to the stored statistics the chosen one must be
_BATCH = 128
_COLOUR = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "per-image": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}
_GREY = {"plain": (0.0, 1.0), "half": (0.5, 0.5), "shifted": (0.5, 1.0), "bytes": (0.0, 1 / 255)}


class Chosen(NamedTuple):
    """A reading, its model's tensors, and a line that says why it was chosen."""

    reading: Reading
    state: dict[str, Tensor]
    note: str


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """The results of one reading on the training images."""

    reading: Reading
    predictions: NDArray[np.int64]
    labels: NDArray[np.int64]
    distance: float
    """Of the first batch norm's stored statistics from those of the images; infinite if there is none."""

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(self.predictions == self.labels)

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def sorted(self) -> float:
        """The accuracy with the outputs in the order that maximises it."""
        counts = _confusion(self.labels, self.predictions)
        return float(counts[np.arange(len(counts)), _assigned(counts)].sum() / len(self.labels))

    def says(self) -> str:
        return f"{100 * self.accuracy:.1f} % ({self.reading.name})"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Weights under our names, their network, and labelled training images to judge by.

    Args:
        asked: the reading to use, if it is plausible; None chooses by the evidence.
        accept_low: accept it whatever its accuracy.
        x: (N, C, H, W) in [0, 1].
    """

    matched: Matched
    model: str
    width: int
    info: DatasetInfo
    x: Tensor
    y: NDArray[np.int64]
    where: str
    asked: Reading | None = None
    accept_low: bool = False

    def choose(self) -> Chosen:
        """Return the reading that the images support, or the requested one.

        Raises:
            BenchError: none is clearly ahead, none is good enough, the requested one is far behind another,
                or the classes are in another order.
        """
        seen = self._all()
        best = max(seen, key=lambda each: each.accuracy)  # the first one, if several are equal
        if not self.accept_low:
            self._check_classes(seen, best)
            self._check_size(best)
        taken = self._asked(seen, best) if self.asked else self._winner(seen, best)
        if not self.accept_low:
            self._check_floor(taken, best)
        return Chosen(taken.reading, self.state(taken.reading), self._note(taken, seen))

    def _readings(self) -> list[Reading]:
        """Return all readings that the tensors leave open; the data set's own normalisation comes first."""
        stems = list(STEMS) if self.matched.foreign and self.model == "resnet-18" else [""]
        colour = self.info.channels == 3
        inputs = [name for name in INPUTS if colour or name not in _COLOUR]
        if self.matched.mean is not None:
            inputs = [FILE]
        found = [Reading(input=name, stem=stem) for stem, name in itertools.product(stems, inputs)]
        if self.asked is not None and self.asked not in found:
            found.append(self.asked)
        return found

    def _all(self) -> list[_Seen]:
        """Try every plausible reading; if there are many, try only those best on a few images on all."""
        found = self._readings()
        if len(found) > _KEPT + 2:
            first = {reading: self._seen(reading, _SCREEN).sorted for reading in found}
            ranked = sorted(found, key=lambda reading: -first[reading])[:_KEPT]
            found = [reading for reading in found if reading in ranked or reading == self.asked]
        seen = [self._seen(reading) for reading in found]
        if self.info.channels == 3:
            leaders = sorted(seen, key=lambda each: -each.sorted)[:2]
            more = [replace(each.reading, bgr=True) for each in leaders if not each.reading.bgr]
            seen += [self._seen(reading) for reading in more if reading != self.asked]
        return seen

    def _seen(self, reading: Reading, images: int = 0, scale: int = 1) -> _Seen:
        x, y = (self.x[:images], self.y[:images]) if images else (self.x, self.y)
        model = self._built(reading)
        probe = _Statistics(model)
        rows = []
        with torch.no_grad():
            for part in x.split(_BATCH):
                larger = part if scale == 1 else _enlarged(part, scale)
                rows.append(model(larger).argmax(1).cpu().numpy())
        return _Seen(reading=reading, predictions=np.concatenate(rows), labels=y, distance=probe.distance())

    def _built(self, reading: Reading) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            model = build_model(self.model, self.info, self.width, stem=reading.stem)
        model.load_state_dict(self.state(reading), strict=True)
        return model.eval().requires_grad_(False).to(self.x.device)

    def state(self, reading: Reading) -> dict[str, Tensor]:
        """Return the tensors of the whole model under a reading."""
        mean, std = self._scaling(reading)
        state = whole(self.matched, mean, std)
        if reading.bgr:
            first = next(name for name, tensor in self.matched.network.items() if tensor.ndim == 4)
            state[first] = state[first].flip(1).contiguous()
        return state

    def _scaling(self, reading: Reading) -> tuple[Tensor, Tensor]:
        if self.matched.mean is not None and self.matched.std is not None:
            return self.matched.mean, self.matched.std
        channels = self.info.channels
        if reading.input == "normalised":
            mean, std = self.info.mean, self.info.std
        elif reading.input in _COLOUR:
            mean, std = _COLOUR[reading.input]
        else:
            one_mean, one_std = _GREY[reading.input]
            mean, std = (one_mean,) * channels, (one_std,) * channels
        return torch.tensor(mean).reshape(1, -1, 1, 1), torch.tensor(std).reshape(1, -1, 1, 1)

    def _asked(self, seen: Sequence[_Seen], best: _Seen) -> _Seen:
        """Return the requested reading, unless another is far ahead."""
        taken = next(each for each in seen if each.reading == self.asked)
        ahead = best.accuracy - taken.accuracy > _FAR and _clearly(best.right, taken.right)
        if ahead and not self.accept_low:
            raise BenchError(
                f"{self.where}: --weights-input {taken.reading.name} is right on "
                f"{100 * taken.accuracy:.1f} % of {len(self.y)} training images, "
                f"{best.reading.name} on {100 * best.accuracy:.1f} %: "
                f"say --weights-input {best.reading.name}, or add --weights-accept-low"
            )
        return taken

    def _winner(self, seen: Sequence[_Seen], best: _Seen) -> _Seen:
        """Return the reading that is clearly ahead; if several are level, the one its batch norm matches."""
        level = [each for each in seen if not _clearly(best.right, each.right)]
        known = sorted(level, key=lambda each: each.distance)
        if len(level) == 1:
            return best
        if _CLOSER * known[0].distance < known[1].distance < np.inf:
            return known[0]
        if best.accuracy < self._floor() and not self.accept_low:
            self._check_floor(best, best)
        named = ", ".join(each.says() for each in known[:4])
        raise BenchError(
            f"{self.where}: {len(self.y)} training images do not show how to run it: {named}: say "
            f"which with --weights-input, such as --weights-input {known[0].reading.name}"
        )

    def _floor(self) -> float:
        """Return the required accuracy: half; for weights that leave nothing open, clearly above chance."""
        chance = float(np.bincount(self.y).max() / len(self.y))
        luck = chance + 4 * float(np.sqrt(chance * (1 - chance) / len(self.y)))
        nothing_open = self.matched.mean is not None and not self.matched.foreign
        return luck if nothing_open else max(FLOOR, luck)

    def _check_floor(self, taken: _Seen, best: _Seen) -> None:
        floor = self._floor()
        if taken.accuracy >= floor:
            return
        other = "" if best is taken else f", the best other reading on {best.says()}"
        raise BenchError(
            f"{self.where} is right on {taken.says()} of {len(self.y)} training images{other}, and at least "
            f"{100 * floor:.0f} % are asked for: its network saw other images or computes otherwise; bring "
            "its code with --network, or add --weights-accept-low with --weights-input"
        )

    def _check_classes(self, seen: Sequence[_Seen], best: _Seen) -> None:
        """Raise BenchError if another order of the classes explains the errors."""
        for each in sorted(seen, key=lambda one: -one.sorted):
            order = _order(each.predictions, self.y, self.info.classes)
            if order is None:
                continue
            so = np.array(order)[self.y] == each.predictions
            if not _clearly(so, best.right):
                continue
            moved = [f"{true} is its output {out}" for true, out in enumerate(order) if true != out]
            named = ", ".join(moved[:10]) + (", …" if len(moved) > 10 else "")
            raise BenchError(
                f"{self.where} has its classes in another order than the data set: class {named} "
                f"({each.reading.name}, {100 * each.accuracy:.1f} % of {len(self.y)} training images right "
                f"as it is, {100 * float(so.mean()):.1f} % so): sort the rows of its last layer"
            )

    def _check_size(self, best: _Seen) -> None:
        """Raise BenchError if the network was trained on enlarged images."""
        if self.model == "magnet-cnn":
            return  # its layers fit one image size only
        stems = sorted({each.stem for each in self._readings()})
        tried = [self._seen(replace(best.reading, stem=stem), _SCREEN, scale=2) for stem in stems]
        larger = max(tried, key=lambda each: each.accuracy)
        small = best.right[:_SCREEN]
        if larger.accuracy - float(small.mean()) > _FAR and _clearly(larger.right, small):
            size = self.info.size
            raise BenchError(
                f"{self.where} is right on {100 * float(small.mean()):.1f} % of {_SCREEN} training images of "
                f"{size}×{size} and on {100 * larger.accuracy:.1f} % enlarged to {2 * size}×{2 * size}: its "
                "network saw larger images; bring its code, which enlarges them, with --network"
            )

    def _note(self, taken: _Seen, seen: Sequence[_Seen]) -> str:
        others = [each for each in seen if each is not taken]
        next_best = max(others, key=lambda each: each.accuracy, default=None)
        against = f" against {next_best.says()}" if next_best else ""
        how = "as asked" if self.asked else f"chosen by {len(self.y)} training images"
        of = f" of {len(self.y)} training images" if self.asked else ""
        return f"{taken.reading.text}, {how}: {100 * taken.accuracy:.1f} %{of}{against}"


def _clearly(ahead: NDArray[np.bool_], behind: NDArray[np.bool_]) -> bool:
    """Return whether one is right significantly more often on the same images (McNemar 1947)."""
    won, lost = int((ahead & ~behind).sum()), int((behind & ~ahead).sum())
    return won - lost > _CLEAR * float(np.sqrt(won + lost))


def _assigned(counts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return class -> output, each used once, with the largest sum of ``counts`` (K, K)."""
    # Imported here because it takes a seventh of every process's start, and few come this far.
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    columns: NDArray[np.int64] = linear_sum_assignment(-counts)[1]
    return columns


def _order(predictions: NDArray[np.int64], y: NDArray[np.int64], classes: int) -> list[int] | None:
    """Return class -> output if it is not the identity: found on every other image, tested on the rest."""
    counts = _confusion(y[::2], predictions[::2], classes)
    counts += 0.5 * np.eye(classes)  # without evidence, keep the order
    order = _assigned(counts)
    p, t = predictions[1::2], y[1::2]
    so, identity = order[t] == p, t == p
    if so.mean() < FLOOR or not _clearly(so, identity) or so.mean() - identity.mean() < _FAR / 2:
        return None
    return [int(each) for each in order]


def _confusion(y: NDArray[np.int64], predictions: NDArray[np.int64], classes: int = 0) -> NDArray[np.float64]:
    """Return the number of images for each (class, output)."""
    classes = classes or int(max(y.max(), predictions.max())) + 1
    counts = np.zeros((classes, classes))
    np.add.at(counts, (y, predictions), 1)
    return counts


def _enlarged(x: Tensor, scale: int) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


class _Statistics:
    """The first batch norm of a model: its stored statistics, and those of the images."""

    def __init__(self, model: nn.Module) -> None:
        self._norm = next((m for m in model.modules() if isinstance(m, nn.BatchNorm2d)), None)
        self._met: list[Tensor] = []
        if self._norm is not None:
            self._norm.register_forward_pre_hook(self._look)

    def _look(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self._met.append(torch.stack([arguments[0].mean((0, 2, 3)), arguments[0].square().mean((0, 2, 3))]))

    def distance(self) -> float:
        """Return the Kullback-Leibler divergence between normal distributions, mean over channels."""
        if self._norm is None or self._norm.running_mean is None or self._norm.running_var is None:
            return float("inf")
        mean, square = torch.stack(self._met).double().mean(0)
        variance = (square - mean**2).clamp_min(1e-12)
        stored_mean, stored = self._norm.running_mean.double(), self._norm.running_var.double() + 1e-12
        ratio = variance / stored
        apart = (mean - stored_mean).square() / stored
        return float((0.5 * (ratio + apart - 1 - ratio.log())).mean())
