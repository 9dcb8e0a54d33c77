"""The ways in which given weights can be run, by name."""

from dataclasses import dataclass, replace

from robustness_bench.benchmark.errors import check_known, unknown
from robustness_bench.benchmark.networks import STEMS

RULE = "evidence-1"
"""The name in ids of the rule that chooses a reading; another rule needs another name."""
FILE = "file"
"""The input of weights that include a normalisation."""
INPUTS = {
    "normalised": "pixels normalised by the data set's mean and deviation",
    "plain": "plain [0, 1] pixels",
    "half": "pixels from -1 to 1",
    "shifted": "pixels from -0.5 to 0.5",
    "bytes": "pixels from 0 to 255",
    "imagenet": "pixels normalised as for ImageNet",
    "per-image": "pixels normalised by CIFAR-10's mean and its deviation per image",
}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way to run a network: how its input pixels are scaled, and how its first layers compute."""

    input: str
    """A key of ``INPUTS``, or "file" for a normalisation that came with the weights."""
    bgr: bool = False
    stem: str = ""
    """A key of ``STEMS``."""

    @property
    def name(self) -> str:
        """The name that ``parse`` accepts."""
        return "+".join(filter(None, [self.input, "bgr" if self.bgr else "", self.stem]))

    @property
    def text(self) -> str:
        """For people."""
        pixels = INPUTS.get(self.input, "pixels normalised as the file says")
        order = ", channels in the order BGR" if self.bgr else ""
        return f"{pixels}{order}{f', {STEMS[self.stem].text}' if self.stem else ''}"


def parse(text: str) -> Reading:
    """Return a reading by its name: ``plain``, ``imagenet+bgr``, ``normalised+stride-2-pool``.

    Raises:
        BenchError: a word that is not allowed.
    """
    first, *more = text.split("+")
    check_known("--weights-input", [first], INPUTS)
    reading = Reading(input=first)
    for word in more:
        if word == "bgr":
            reading = replace(reading, bgr=True)
        elif word in STEMS and word:
            reading = replace(reading, stem=word)
        else:
            raise unknown("word after + in --weights-input", word, ["bgr", *filter(None, STEMS)])
    return reading
