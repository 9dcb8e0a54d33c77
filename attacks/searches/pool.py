"""Many searches in one batch: what has ended makes room for what waits."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from robustness_bench.attacks.numerics.geometry import per_sample
from robustness_bench.attacks.numerics.noise import Noise

_REFILL = 8  # a batch is filled up once an eighth of it is free: joining copies everything
_UNSEEN = {"cuda": 8}  # steps between two looks at a batch, where a look waits for the device


def steps_unseen(device: torch.device) -> int:
    """Steps that a batch takes between two looks at who has fallen. What fell stays as it fell."""
    return _UNSEEN.get(device.type, 1)


class Rows:
    """Base of a dataclass whose fields are tensors, a row per search under way."""

    def columns(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]  # type: ignore[arg-type]

    def pick(self, rows: Tensor) -> Self:
        return type(self)(*(column[rows] for column in self.columns()))

    def join(self, more: Self) -> Self:
        return type(self)(*(torch.cat(pair) for pair in zip(self.columns(), more.columns(), strict=True)))


State = TypeVar("State", bound=Rows)


class Found(NamedTuple):
    """What searches came to, for each of N samples."""

    images: Tensor
    """(N, C, H, W): where nothing fools the model, any image within the budget."""
    fooled: Tensor
    """(N,) bool."""


class Samples(NamedTuple):
    """What is attacked."""

    x: Tensor
    """(N, C, H, W)."""
    y: Tensor
    """(N,)."""
    noise: Noise

    def pick(self, rows: Tensor) -> "Samples":
        return Samples(self.x[rows], self.y[rows], self.noise[rows])


class Search(ABC, Generic[State]):
    """One member of an ensemble on N samples, from one start after another.

    Args:
        streams: a key for each start: what its random numbers are drawn from.
        steps: calls of ``step`` that a start takes at most.
    """

    def __init__(self, samples: Samples, streams: Sequence[int], steps: int) -> None:
        self.samples, self.steps, self.starts = samples, steps, len(streams)
        self._streams = torch.tensor(streams, device=samples.x.device)

    def picked(self, sample: Tensor, start: Tensor) -> Samples:
        """Some of the samples with the noise of a start of each, both (M,) int64."""
        x, y, noise = self.samples.pick(sample)
        return Samples(x, y, noise.stream(self._streams[start]))

    @abstractmethod
    def begin(self, sample: Tensor, start: Tensor) -> State:
        """M searches, not moved yet, both (M,) int64."""

    @abstractmethod
    def step(self, state: State, age: Tensor) -> tuple[State, Tensor, Tensor]:
        """One step of M searches.

        Args:
            age: (M,) int64 on the CPU, the steps that each has taken.

        Returns:
            the new state; the images reached, (M, C, H, W); which of them are what is looked for, (M,).
        """


def searched(search: Search[State], *, room: int, leave: bool = True) -> Found:
    """Of each sample the image of its first start that finds one.

    Every search goes its way alone, and a later start waits for no earlier one but yields to it, so the
    outcome of a sample is the same whatever else is in the batch.

    Args:
        room: searches in a batch at most.
        leave: end at the first success; else a start goes on to its end and its last success counts.
    """
    x, last = search.samples.x, search.starts
    n, device, images = len(x), x.device, x.clone()
    first = torch.full((n,), last)  # the first start that found an image
    waiting = torch.arange(n * last)  # all samples' first starts, then all their second ones, …
    jobs = age = waiting[:0]
    state: State | None = None
    while True:
        free = room - len(jobs)
        if len(waiting) and (free * _REFILL >= room or not len(jobs)):
            waiting = waiting[waiting // n < first[waiting % n]]
            new, waiting = waiting[:free], waiting[free:]
            if len(new):
                begun = search.begin((new % n).to(device), (new // n).to(device))
                state = begun if state is None or not len(jobs) else state.join(begun)
                jobs, age = torch.cat([jobs, new]), torch.cat([age, torch.zeros_like(new)])
        if state is None or not len(jobs):
            return Found(images, (first < last).to(device))
        ages = range(1, min(steps_unseen(device), int(search.steps - age.max())))
        state, reached, fooled = search.step(state, age)
        for more in ages:
            state, later, falls = search.step(state, age + more)
            new = falls & ~fooled if leave else falls
            reached = torch.where(per_sample(new, later), later, reached)
            fooled = fooled | falls
        age = age + len(ages) + 1
        sample, start = jobs % n, jobs // n
        going = age < search.steps
        hits = fooled.cpu()
        if hits.any():
            first.scatter_reduce_(0, sample[hits], start[hits], "amin")
            good = hits & (start == first[sample])
            images[sample[good].to(device)] = reached[good.nonzero()[:, 0].to(device)]
            going &= start < first[sample] if leave else start <= first[sample]
        if not going.all():
            jobs, age, state = jobs[going], age[going], state.pick(going.nonzero()[:, 0].to(device))
