"""How quantities are written in captions and headings."""

from collections.abc import Iterable

NORM_SYMBOLS = {"linf": "L∞", "l2": "L2"}
JUDGED = (
    "Difference: ours − published, in points; ≈ if the published mean lies in our interval (95 % Wilson "
    "interval of our mean over our images, widened on both sides by our standard deviation over seeds, where "
    "there are several), ≠ if it does not. ≈: our images and seeds do not tell the two apart. ≠: they alone "
    "do not explain the difference; the published figure's own error is not counted."
)
"""What ≈ and ≠ next to a published number mean: ``statistics.inside``."""


def budget(eps: float) -> str:
    """Return a fraction like 8/255 if ε is one, else the decimal number."""
    levels = round(eps * 255)
    return f"{levels}/255" if levels < 64 and abs(eps * 255 - levels) < 1e-9 else f"{eps:.4g}"


def count(number: int, noun: str) -> str:
    """Return a number with its noun in singular or plural."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def training_seeds(numbers: Iterable[int]) -> str:
    """Return "3 training seeds", or "1 to 3 training seeds" if the numbers differ."""
    found = sorted(set(numbers)) or [0]
    most = count(found[-1], "training seed")
    return most if len(found) == 1 else f"{found[0]} to {most}"


def span(numbers: Iterable[int]) -> str:
    """Return "3", or "1 to 3" if the numbers differ; "no" without any."""
    found = sorted(set(numbers))
    return " to ".join(map(str, dict.fromkeys([found[0], found[-1]]))) if found else "no"
