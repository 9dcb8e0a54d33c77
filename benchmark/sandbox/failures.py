"""What can become of a submitted model or attack, as one line with the remedy."""

from collections.abc import Mapping
from typing import ClassVar

from robustness_bench.benchmark.errors import BenchError

_LONGEST = 300  # characters of its own words in an error

REMEDIES = {
    "confine": "use another machine, or allow weak confinement if you have read and trust the code",
    "import": "mend model.py",
    "build": "mend model.py: build(*, classes, channels, size) returns the network",
    "weights": "save the state_dict() of what build() returns with safetensors.torch.save_file",
    "forward": "mend model.py",
    "backward": "mend model.py: gradients with respect to the images are asked for",
    "output": "mend model.py: return float32 logits (N, classes)",
    "time": "make it faster, lower the batch size or raise the limit",
    "memory": "make it smaller, lower the batch size or raise the limit",
    "limit": "use less, or raise the limit",
    "died": "mend model.py",
    "garbled": "mend model.py: it must leave files alone that it has not opened",
}
ATTACK_REMEDIES = {
    "confine": REMEDIES["confine"],
    "import": "mend attack.py",
    "perturb": "mend attack.py: perturb(model, x, y, *, norm, eps, seed) returns the images",
    "output": "mend attack.py: return float32 images of the shape of x",
    "query": "mend attack.py: ask for finite images only, and by calling the model",
    "passes": "use fewer passes, or write larger forward_passes and backward_passes",
    "time": "make it faster, or use fewer images at once",
    "memory": "make it use less",
    "limit": "use less",
    "died": "mend attack.py",
    "garbled": "mend attack.py: it must leave files alone that it has not opened",
}


class ModelError(BenchError):
    """A submitted model did not answer as it should.

    ``stage`` is confine, import, build or weights (it did not start); forward, backward, output or memory
    (it may still answer to other images); time, memory, limit, died or garbled (its process was ended).
    """

    who: ClassVar[str] = "model"
    remedies: ClassVar[Mapping[str, str]] = REMEDIES
    reported: ClassVar[frozenset[str]] = frozenset(
        {"confine", "import", "build", "weights", "forward", "backward", "output", "memory"}
    )
    """What its process may tell of itself."""

    def __init__(self, stage: str, text: str) -> None:
        super().__init__(f"the submitted {self.who} failed ({stage}): {text}; {self.remedies[stage]}")
        self.stage = stage


class SubmittedAttackError(ModelError):
    """A submitted attack did not answer as it should; its process was ended.

    ``stage`` is confine or import (it did not start); perturb, output or memory (as it told); query (it asked
    for what is no image) or passes (for too many); time, memory, limit, died or garbled.
    """

    who = "attack"
    remedies = ATTACK_REMEDIES
    reported = frozenset({"confine", "import", "perturb", "output", "memory"})


def printable(text: str) -> str:
    """A stranger's words as one line that is safe on a terminal, and not too long."""
    text = " ".join(text[: 4 * _LONGEST].split())
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    return text[:_LONGEST] + "…" if len(text) > _LONGEST else text
