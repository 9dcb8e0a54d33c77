"""What can become of a submitted model, as one line with the remedy."""

from benchmark.errors import BenchError

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
REPORTED = frozenset({"confine", "import", "build", "weights", "forward", "backward", "output", "memory"})
"""What its process may tell of itself."""


class ModelError(BenchError):
    """A submitted model did not answer as it should.

    ``stage`` is confine, import, build or weights (it did not start); forward, backward, output or memory
    (it may still answer to other images); time, memory, limit, died or garbled (its process was ended).
    """

    def __init__(self, stage: str, text: str) -> None:
        super().__init__(f"the submitted model failed ({stage}): {text}; {REMEDIES[stage]}")
        self.stage = stage


def printable(text: str) -> str:
    """A stranger's words as one line that is safe on a terminal, and not too long."""
    text = " ".join(text[: 4 * _LONGEST].split())
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    return text[:_LONGEST] + "…" if len(text) > _LONGEST else text
