"""Failures of a submitted model or attack, as one line with the remedy."""

from collections.abc import Mapping
from typing import ClassVar

from robustness_bench.benchmark.errors import BenchError, printable

_LONGEST = 300  # characters of the submitted code's own message in an error

REMEDIES = {
    "confine": "use another machine: bench doctor says what this one lacks",
    "import": "fix model.py",
    "build": "fix model.py: build(*, classes, channels, size) returns the network",
    "weights": "save the state_dict() of what build() returns with safetensors.torch.save_file",
    "forward": "fix model.py",
    "backward": "fix model.py: gradients with respect to the images are asked for",
    "output": "fix model.py: return float32 logits (N, classes)",
    "time": "make it faster, lower the batch size or raise the limit",
    "memory": "make it smaller, lower the batch size or raise the limit",
    "limit": "use less, or raise the limit",
    "died": "fix model.py",
    "garbled": "fix model.py: it must not touch files that it has not opened",
}
ATTACK_REMEDIES = {
    "confine": REMEDIES["confine"],
    "import": "fix attack.py",
    "perturb": "fix attack.py: perturb(model, x, y, *, norm, eps, seed) returns the images",
    "output": "fix attack.py: return float32 images of the shape of x",
    "query": "fix attack.py: ask for finite images only, and by calling the model",
    "passes": "use fewer passes, or write larger forward_passes and backward_passes",
    "time": "make it faster, or use fewer images at once",
    "memory": "make it use less",
    "limit": "use less",
    "died": "fix attack.py",
    "garbled": "fix attack.py: it must not touch files that it has not opened",
}


class ModelError(BenchError):
    """A submitted model gave an invalid answer or none.

    ``stage`` is confine, import, build or weights (it did not start); forward, backward, output or memory
    (it may still answer for other images); time, memory, limit, died or garbled (its process was ended).
    """

    who: ClassVar[str] = "model"
    remedies: ClassVar[Mapping[str, str]] = REMEDIES
    reported: ClassVar[frozenset[str]] = frozenset(
        {"confine", "import", "build", "weights", "forward", "backward", "output", "memory"}
    )
    """The stages that its process itself may report."""

    def __init__(self, stage: str, text: str) -> None:
        super().__init__(f"the submitted {self.who} failed ({stage}): {text}; {self.remedies[stage]}")
        self.stage = stage


class SubmittedAttackError(ModelError):
    """A submitted attack gave an invalid answer or none; its process was ended.

    ``stage`` is confine or import (it did not start); perturb, output or memory (it reported this); query (it
    requested a pass for something that is not an image) or passes (it requested too many); time, memory,
    limit, died or garbled.
    """

    who = "attack"
    remedies = ATTACK_REMEDIES
    reported = frozenset({"confine", "import", "perturb", "output", "memory"})


def one_line(text: str) -> str:
    """Return untrusted text as one line that is safe on a terminal and not too long."""
    return printable(" ".join(text[: 4 * _LONGEST].split()), _LONGEST)
