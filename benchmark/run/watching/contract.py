"""What a tracker is: other software that shows losses, held-out accuracies and cells while a run goes on."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from robustness_bench.benchmark.mirror import place

Options = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class About:
    """The run that is tracked.

    Attributes:
        out: folder of its results.
        command: its command line.
    """

    out: Path
    command: str

    @property
    def name(self) -> str:
        """Its name in a list of runs."""
        return place(self.out.resolve()).rpartition("/")[2]


class Tracker(ABC):
    """Receives a run's figures. What it raises ends the tracker, never the run.

    Attributes:
        options: the keys that ``--tracker NAME:KEY=VALUE,…`` may have.
    """

    options: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def __init__(self, about: About, options: Options) -> None:
        """Begin; BenchError where a package is missing."""

    @abstractmethod
    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Take figures of one training's epoch or of one cell.

        Args:
            group: the task, such as checkpoints/digits/namid-resnet-18-linf-seed0.
            step: the epoch, counted from 1, or the number of cells that have ended.
        """

    @abstractmethod
    def close(self) -> None:
        """End, with everything written."""
